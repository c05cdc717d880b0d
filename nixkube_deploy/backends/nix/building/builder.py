"""Building on the controller: one ``nix build`` for everything. Where builds run is Nix's own business.

What is there already costs nothing but Nix's own check that it is whole: whether a path merely lies on the disk is
never asked, because it may lie there half written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import anyio.to_thread

from nixkube_deploy.backends.nix.building import internal_json
from nixkube_deploy.backends.nix.building.diagnosis import build_failure, causes, disko_failure
from nixkube_deploy.backends.nix.building.progress import Follower
from nixkube_deploy.backends.nix.closures import valid_paths
from nixkube_deploy.backends.nix.evaluation import expressions
from nixkube_deploy.backends.nix.program import SHORT_TIMEOUT, NixProgram, in_parallel, parsed
from nixkube_deploy.backends.nix.store import StoreFiles
from nixkube_deploy.model.building import BuildSettings
from nixkube_deploy.model.closure import Closure, Evaluated
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.ports.nix import Built
from nixkube_deploy.ports.shell import CommandResult, OnLine

_SIDE_BY_SIDE: Final = 4
BUILD_TIMEOUT: Final = 24 * 3600.0
"""Long enough for a kernel on a slow machine; a build that hangs is ended by Nix's own ``max-silent-time``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """One ``nix build`` and what its builders printed."""

    result: CommandResult
    logs: Mapping[str, tuple[str, ...]]


class NixBuilder:
    """Builds over the controller's ``nix``, and reads what was built from its store.

    ``roots``: a directory for links that keep what was built from the garbage collector for as long as it exists.
    ``flake_flags``: how the flake is evaluated, for what is built straight from it.
    """

    def __init__(
        self,
        program: NixProgram,
        files: StoreFiles,
        settings: BuildSettings,
        roots: Path | None = None,
        flake_flags: tuple[str, ...] = (),
    ) -> None:
        self._program, self._files, self._settings, self._roots = program, files, settings, roots
        self._flake_flags = flake_flags
        self._links = (f"systems-of-{number}" for number in count(1))

    async def build(
        self, flake: str, wanted: Sequence[Evaluated], installs: frozenset[HostName], on_line: OnLine | None = None
    ) -> Built:
        """One ``nix build`` for every system, which builds those that are not in the store yet."""
        failures = await self._build_systems(wanted, on_line) if wanted else {}
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

    async def valid(self, paths: Sequence[str]) -> frozenset[str]:
        """Which of these paths the store holds whole: one process for all, without a look at any substituter."""
        if not paths:
            return frozenset()
        result = await self._program.run("path-info", "--json", *paths, timeout=SHORT_TIMEOUT)
        return valid_paths(parsed(result.stdout)) & frozenset(paths)

    async def _build_systems(self, wanted: Sequence[Evaluated], on_line: OnLine | None) -> dict[HostName, Failure]:
        """Build them; whose output is not there afterwards has failed."""
        suffix = "^out" if await self._program.names_outputs() else ""
        drvs = dict.fromkeys(f"{one.drv}{suffix}" for one in wanted)
        link = next(self._links)  # Nix would take the links of an earlier build of this run for its own.
        ended = await self._nix_build(link, ("--keep-going", *pass_through(self._settings), *drvs), on_line)
        if ended.result.ok:
            return {}
        valid = await self.valid([one.out for one in wanted])
        found = causes(ended.result.stderr, ended.logs)
        failures: dict[HostName, Failure] = {}
        for one in wanted:
            if one.out in valid:
                continue
            needed = await anyio.to_thread.run_sync(self._files.needs, one.drv, frozenset(found))
            own = {drv: cause for drv, cause in found.items() if drv in needed}
            failures[one.host] = build_failure(one.host, own or found, ended.result)
        if valid and self._roots is not None:  # Nix links nothing at all when one of many fails.
            await self._nix_build(link, tuple(sorted(valid)), None)
        return failures

    async def _build_disko(self, flake: str, one: Evaluated, on_line: OnLine | None) -> StorePath:
        """The script that partitions the host's disks: one process a host, because few hosts are ever installed."""
        attr = one.attr or f"nixosConfigurations.{expressions.quoted(one.host)}"
        installable = f"{flake}#{attr}.config.system.build.diskoScript"
        arguments = (*self._flake_flags, *pass_through(self._settings), installable)
        ended = await self._nix_build(f"disko-{one.host}", arguments, on_line)
        match parsed(ended.result.stdout) if ended.result.ok else None:
            case [{"outputs": {"out": str(script)}}]:
                return StorePath(script)
            case _:
                raise TaskError(disko_failure(one.host, installable, ended.result, ended.logs))

    async def _nix_build(self, link: str, arguments: tuple[str, ...], on_line: OnLine | None) -> _Ended:
        """``link`` names the garbage collector root; Nix appends ``-1``, ``-2``, ... where there are many outputs."""
        follower = Follower(on_line)
        root = ("--out-link", str(self._roots / link)) if self._roots is not None else ("--no-link",)
        command = ("build", "--json", *root, *internal_json.OPTIONS, *arguments)
        result = await follower.during(self._program.run(*command, timeout=BUILD_TIMEOUT, on_line=follower.hear))
        return _Ended(result=result, logs=follower.log.logs)


def pass_through(settings: BuildSettings) -> tuple[str, ...]:
    """The inventory's settings as options of Nix; what it does not say is left to ``nix.conf``."""
    single = {"--max-jobs": settings.max_jobs, "--cores": settings.cores, "--builders": settings.builders}
    plain = [word for name, value in single.items() if value is not None for word in (name, str(value))]
    return (*plain, *(word for name, value in settings.options.items() for word in ("--option", name, value)))
