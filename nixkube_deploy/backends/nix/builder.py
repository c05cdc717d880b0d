"""Building on the controller: one ``nix build`` for all that is missing. Where builds run is Nix's own business."""

from collections.abc import Sequence
from typing import Final

import anyio.to_thread

from nixkube_deploy.backends.nix import diagnosis, expressions
from nixkube_deploy.backends.nix.program import NixProgram, in_parallel
from nixkube_deploy.backends.nix.store import StoreFiles
from nixkube_deploy.model.building import BuildSettings
from nixkube_deploy.model.closure import Closure, Evaluated
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.ports.nix import Built
from nixkube_deploy.ports.shell import OnLine

_SIDE_BY_SIDE: Final = 4
_BUILD_TIMEOUT: Final = 6 * 3600.0


class NixBuilder:
    """Builds over the controller's ``nix``, and reads what was built from its store."""

    def __init__(self, program: NixProgram, files: StoreFiles, settings: BuildSettings) -> None:
        self._program, self._files, self._settings = program, files, settings

    async def build(
        self, flake: str, wanted: Sequence[Evaluated], installs: frozenset[HostName], on_line: OnLine | None = None
    ) -> Built:
        """One ``nix build`` for every system that is not in the store yet; none when all are."""
        missing = [one for one in wanted if not self._files.holds(one.out)]
        failures = await self._build_systems(missing, on_line) if missing else {}
        built = [one for one in wanted if one.host not in failures]
        diskos: dict[HostName, StorePath] = {}

        async def build_disko(one: Evaluated) -> None:
            try:
                diskos[one.host] = await self._build_disko(flake, one, on_line)
            except TaskError as error:
                failures[one.host] = error.failure

        await in_parallel(build_disko, [one for one in built if one.host in installs], _SIDE_BY_SIDE)
        closures: dict[HostName, Closure] = {}
        for one in built:
            if one.host not in failures:
                contents = await anyio.to_thread.run_sync(self._files.contents, one.out)
                closures[one.host] = Closure(
                    host=one.host, drv=one.drv, contents=contents, system=one.system, disko=diskos.get(one.host)
                )
        return Built(closures=closures, failures=failures)

    async def _build_systems(self, missing: Sequence[Evaluated], on_line: OnLine | None) -> dict[HostName, Failure]:
        """Build them; whose output is not there afterwards has failed."""
        suffix = "^out" if await self._program.names_outputs() else ""
        drvs = dict.fromkeys(f"{one.drv}{suffix}" for one in missing)
        arguments = ("build", "--json", "--no-link", "--keep-going", *drvs)
        result = await self._program.run(*arguments, timeout=_BUILD_TIMEOUT, on_line=on_line)
        lacking = [one for one in missing if not self._files.holds(one.out)]
        causes = diagnosis.failed_builds(result.stderr)
        failures: dict[HostName, Failure] = {}
        for one in lacking:
            needed = await anyio.to_thread.run_sync(self._files.needs, one.drv, frozenset(causes))
            own = {drv: lines for drv, lines in causes.items() if drv in needed}
            failures[one.host] = diagnosis.build_failure(one.host, own or causes, result)
        return failures

    async def _build_disko(self, flake: str, one: Evaluated, on_line: OnLine | None) -> StorePath:
        """The script that partitions the host's disks: one process a host, because few hosts are ever installed."""
        attr = one.attr or f"nixosConfigurations.{expressions.quoted(one.host)}"
        installable = f"{flake}#{attr}.config.system.build.diskoScript"
        result = await self._program.run(
            "build", "--json", "--no-link", installable, timeout=_BUILD_TIMEOUT, on_line=on_line
        )
        match expressions.parsed(result.stdout) if result.ok else None:
            case [{"outputs": {"out": str(script)}}]:
                return StorePath(script)
            case _:
                raise TaskError(diagnosis.disko_failure(one.host, installable, result))
