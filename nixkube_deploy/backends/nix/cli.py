"""The ``nix`` program as Evaluator and Store: what it is asked, and what its answers mean.

It asks for evaluation once for all hosts and for building once for all that is missing; distribution of builds is
Nix's own business (remote builders, caches).
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from nixkube_deploy.backends.nix import diagnosis, expressions
from nixkube_deploy.backends.nix.metadata import flake_state
from nixkube_deploy.backends.nix.store import StoreFiles, store_root
from nixkube_deploy.model.closure import Closure, Evaluated, FlakeState
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.facts import SystemContents
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.fleet import CopyVia, Host
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.ports.nix import Built, Evaluation
from nixkube_deploy.ports.process import Invocation, Processes
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine, Shell, SshOptions

T = TypeVar("T")

_EVALUATORS: Final = 4
"""Evaluations side by side when culprits are looked for: each may take gigabytes."""

_EVALUATION_TIMEOUT: Final = 3600.0
_BUILD_TIMEOUT: Final = 6 * 3600.0
_COPY_TIMEOUT: Final = 3600.0
_SHORT_TIMEOUT: Final = 120.0

_FEATURES: Final = "extra-experimental-features = nix-command flakes"
_OUTPUTS_NAMED: Final = (2, 13)
"""From this version on a derivation's outputs are asked for as ``x.drv^out``; before, ``x.drv`` means them."""

_COPIED: Final = re.compile(r"^copying path ", re.MULTILINE)


class NixCli:
    """Evaluator and Store over the ``nix`` on the controller. ``environ`` is the controller's environment."""

    def __init__(
        self,
        processes: Processes,
        ssh_options: SshOptions,
        shell: Shell,
        *,
        program: str = "nix",
        environ: Mapping[str, str],
    ) -> None:
        self._processes, self._ssh_options, self._shell, self._program = processes, ssh_options, shell, program
        self._files = StoreFiles(store_root(environ.get("NIX_REMOTE", "")))
        config = environ.get("NIX_CONFIG", "")
        self._env = {"NIX_CONFIG": f"{config}\n{_FEATURES}" if config else _FEATURES}
        self._version: tuple[int, int] | None = None

    # --- Evaluator ---------------------------------------------------------------------------------------------------

    async def state(self, flake: str) -> FlakeState:
        """Which flake this is now.

        Raises:
            TaskError: EVALUATION; it cannot be read.
        """
        result = await self._nix("flake", "metadata", "--json", flake, timeout=_SHORT_TIMEOUT)
        state = flake_state(flake, expressions.parsed(result.stdout)) if result.ok else None
        if state is None:
            raise TaskError(diagnosis.flake_failure(flake, result))
        return state

    async def evaluate(self, flake: str, hosts: Sequence[Host], on_line: OnLine | None = None) -> Evaluation:
        """All hosts in one pass; only when that fails, one by one, to name the culprits.

        Raises:
            TaskError: EVALUATION; the flake cannot be read, or not one host evaluates.
        """
        state = await self.state(flake)
        found: dict[HostName, Evaluated] = {}
        alone = [host for host in hosts if host.attr is not None]
        for some in expressions.passes(host for host in hosts if host.attr is None):
            together = await self._evaluate_together(flake, some, on_line) if len(some) > 1 else {}
            found |= together
            alone += [host for host in some if host.name not in together]
        failures: dict[HostName, Failure] = {}

        async def evaluate_one(host: Host) -> None:
            try:
                found[host.name] = await self._evaluate_one(flake, host, on_line)
            except TaskError as error:
                failures[host.name] = error.failure

        await _in_parallel(evaluate_one, alone)
        if hosts and not found:
            raise TaskError(diagnosis.nothing_evaluates(failures))
        return Evaluation(
            flake=state,
            hosts={host.name: found[host.name] for host in hosts if host.name in found},
            failures={host.name: failures[host.name] for host in hosts if host.name in failures},
        )

    async def _evaluate_together(
        self, flake: str, hosts: tuple[Host, ...], on_line: OnLine | None
    ) -> dict[HostName, Evaluated]:
        """Empty when any one of them fails: Nix tells which only one by one."""
        expression = expressions.select_hosts(host.name for host in hosts)
        result = await self._eval(f"{flake}#nixosConfigurations", expression, on_line)
        data = expressions.parsed(result.stdout) if result.ok else None
        if not isinstance(data, Mapping):
            return {}
        found = {host.name: expressions.evaluated(host, data.get(host.name)) for host in hosts}
        return {name: one for name, one in found.items() if one is not None}

    async def _evaluate_one(self, flake: str, host: Host, on_line: OnLine | None) -> Evaluated:
        if host.attr is None:
            installable, expression = f"{flake}#nixosConfigurations", expressions.select_hosts([host.name])
        else:
            installable, expression = f"{flake}#{host.attr}", expressions.SELECT
        result = await self._eval(installable, expression, on_line)
        data = expressions.parsed(result.stdout) if result.ok else None
        if host.attr is None and isinstance(data, Mapping):
            data = data.get(host.name)
        one = expressions.evaluated(host, data)
        if one is None:
            raise TaskError(diagnosis.evaluation_failure(host, flake, result))
        return one

    async def _eval(self, installable: str, expression: str, on_line: OnLine | None) -> CommandResult:
        arguments = ("eval", "--json", installable, "--apply", expression)
        return await self._nix(*arguments, timeout=_EVALUATION_TIMEOUT, on_line=on_line)

    # --- Store: build ------------------------------------------------------------------------------------------------

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

        await _in_parallel(build_disko, [one for one in built if one.host in installs])
        closures: dict[HostName, Closure] = {}
        for one in built:
            if one.host not in failures:
                contents = await anyio.to_thread.run_sync(self._files.contents, one.out)
                closures[one.host] = Closure(
                    host=one.host, drv=one.drv, contents=contents, system=one.system, disko=diskos.get(one.host)
                )
        return Built(closures=closures, failures=failures)

    async def contents(self, path: StorePath) -> SystemContents | None:
        """What a system is made of, if this controller still has it."""
        if not self._files.holds(path):
            return None
        return await anyio.to_thread.run_sync(self._files.contents, path)

    async def _build_systems(self, missing: Sequence[Evaluated], on_line: OnLine | None) -> dict[HostName, Failure]:
        """Build them; whose output is not there afterwards has failed."""
        suffix = "^out" if await self._names_outputs() else ""
        drvs = dict.fromkeys(f"{one.drv}{suffix}" for one in missing)
        arguments = ("build", "--json", "--no-link", "--keep-going", *drvs)
        result = await self._nix(*arguments, timeout=_BUILD_TIMEOUT, on_line=on_line)
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
        result = await self._nix("build", "--json", "--no-link", installable, timeout=_BUILD_TIMEOUT, on_line=on_line)
        match expressions.parsed(result.stdout) if result.ok else None:
            case [{"outputs": {"out": str(script)}}]:
                return StorePath(script)
            case _:
                raise TaskError(diagnosis.disko_failure(one.host, installable, result))

    async def _names_outputs(self) -> bool:
        """Whether this Nix wants ``^out`` after a derivation. A version nobody understands counts as new."""
        if self._version is None:
            result = await self._nix("--version", timeout=_SHORT_TIMEOUT)
            match = re.search(r"\b(\d+)\.(\d+)", result.stdout)
            self._version = (int(match[1]), int(match[2])) if match else _OUTPUTS_NAMED
        return self._version >= _OUTPUTS_NAMED

    # --- Store: copy -------------------------------------------------------------------------------------------------

    async def copy(self, path: StorePath, host: Host, on_line: OnLine | None = None) -> bool:
        """Bring a closure to a host; False when it was there already.

        Whether it was there is asked over the kept connection (milliseconds; ``nix path-info`` would cost a second
        SSH login), but only to tell: a path can lie there half written, so the copy always runs, and corrects that.

        Raises:
            TaskError: COPY, DISK_FULL, HOST_KEY, AUTHENTICATION, PRIVILEGE, UNREACHABLE.
        """
        was_there = (await self._shell.run(host, Command(argv=("test", "-e", path)))).ok
        copy = self._pull if host.copy.via is CopyVia.CACHE else self._push
        result = await copy(path, host, on_line)
        if not result.ok:
            raise TaskError(diagnosis.copy_failure(host, path, result))
        return not was_there or bool(_COPIED.search(result.stderr))

    async def _push(self, path: StorePath, host: Host, on_line: OnLine | None) -> CommandResult:
        """``ssh://``, not ``ssh-ng://``: only it lets root receive paths that nobody signed."""
        ssh = self._ssh_options(host)
        substitute = ("--substitute-on-destination",) if host.copy.substitute else ()
        return await self._nix(
            "copy",
            "--to",
            f"ssh://{_bracketed(ssh.destination)}",
            *substitute,
            path,
            env={"NIX_SSHOPTS": ssh.spaced()},
            timeout=_COPY_TIMEOUT,
            on_line=on_line,
        )

    async def _pull(self, path: StorePath, host: Host, on_line: OnLine | None) -> CommandResult:
        """The host fetches from the cache itself; ``nix-store`` works there whatever features are enabled."""
        cache = ("--option", "extra-substituters", host.copy.cache) if host.copy.cache else ()
        command = Command(argv=("nix-store", "--realise", path, *cache), privileged=True, timeout=_COPY_TIMEOUT)
        return await self._shell.run(host, command, on_line)

    # --- the program -------------------------------------------------------------------------------------------------

    async def _nix(
        self, *arguments: str, timeout: float, env: Mapping[str, str] | None = None, on_line: OnLine | None = None
    ) -> CommandResult:
        invocation = Invocation(argv=(self._program, *arguments), env={**self._env, **(env or {})}, timeout=timeout)
        return await self._processes.run(invocation, on_line)


def _bracketed(destination: str) -> str:
    """``user@host`` for a URL: an IPv6 address stands in brackets there."""
    user, at, address = destination.rpartition("@")
    return f"{user}{at}[{address}]" if ":" in address and not address.startswith("[") else destination


async def _in_parallel(work: Callable[[T], Awaitable[None]], items: Sequence[T]) -> None:
    """A few at a time."""
    limiter = anyio.CapacityLimiter(_EVALUATORS)

    async def one(item: T) -> None:
        async with limiter:
            await work(item)

    async with anyio.create_task_group() as group:
        for item in items:
            group.start_soon(one, item)
