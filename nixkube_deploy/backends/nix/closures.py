"""Closures as ``nix`` and ``nix-store`` tell of them: sizes and references here, what is missing there.

Read only. No query of it may fetch or build anything, so what is not there is never asked for here.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import anyio
import anyio.to_thread

from nixkube_deploy.backends.nix.program import NixProgram, parsed
from nixkube_deploy.backends.nix.store import StoreFiles
from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.model.packages import StoredPath
from nixkube_deploy.ports.closures import HostStore
from nixkube_deploy.ports.shell import Command, Shell

_TIMEOUT: Final = 300.0
_STORE: Final = "/nix/store"
_AT_ONCE: Final = 1500
"""Systems in one query: their paths must fit on one command line."""
_PATH: Final = re.compile(r"/nix/store/[0-9A-Za-z][0-9A-Za-z+._?=-]+")
_SIZED: Final = re.compile(rf"({_PATH.pattern})\s+(\d{{1,18}})")
_INVALID: Final = ("nix-store", "--check-validity", "--print-invalid")
_NIX: Final = "nix --extra-experimental-features nix-command"


class NixClosures:
    """Looks into the controller's store with its ``nix``, into a host's with the host's."""

    def __init__(self, program: NixProgram, files: StoreFiles, shell: Shell) -> None:
        self._program, self._files, self._shell = program, files, shell
        self._wanted: set[StorePath] = set()
        self._told: dict[StorePath, StoredPath] = {}
        self._asking = anyio.Lock()

    def expect(self, systems: Iterable[StorePath]) -> None:
        """Systems that are likely to be asked for one by one: the first question is then put for all of them."""
        self._wanted |= {system for system in islice(systems, _AT_ONCE) if system not in self._told}

    async def closure(self, system: StorePath) -> Mapping[StorePath, StoredPath]:
        """One system's; empty where it is not here. Those who ask at about the same time share one ``nix``.

        What was told once is not asked again: a path's closure never changes, and a run keeps what it copies.

        Raises:
            TaskError: as ``stored``.
        """
        self._wanted.add(system)
        async with self._asking:
            if system not in self._told:
                wanted, self._wanted = {system, *self._wanted}, set()
                self._told |= await self.stored(wanted)
        return closure_of(system, self._told)

    async def stored(self, systems: Collection[StorePath]) -> Mapping[StorePath, StoredPath]:
        """One ``nix path-info`` for all systems: hosts share most of their closures, and each path is told once."""
        asked = sorted(set(systems))
        here = await anyio.to_thread.run_sync(lambda: [path for path in asked if self._files.holds(path)])
        found: dict[StorePath, StoredPath] = {}
        for start in range(0, len(here), _AT_ONCE):
            paths = here[start : start + _AT_ONCE]
            result = await self._program.run("path-info", "--offline", "--json", "-r", *paths, timeout=_TIMEOUT)
            if not result.ok:
                raise task_error(
                    FailureKind.COMMAND,
                    "nix cannot say what the systems consist of",
                    evidence=result.tail(),
                    command="nix path-info --json -r ...",
                    exit_code=result.exit_code,
                    next="nix-store --verify",
                )
            found |= path_infos(parsed(result.stdout))
        return found

    async def on_host(self, host: Host, wanted: Collection[StorePath], running: StorePath | None = None) -> HostStore:
        """Thousands of paths fit on no command line, so they go through ``xargs``; each answer is a line of its own."""
        sizes: dict[StorePath, int] = {}
        missing: set[StorePath] = set()

        def hear(line: str) -> None:
            if match := _SIZED.fullmatch(line.strip()):
                sizes[StorePath(match[1])] = int(match[2])
            elif _PATH.fullmatch(line.strip()):
                missing.add(StorePath(line.strip()))

        argv: tuple[str, ...] = ("xargs", *_INVALID)
        if running is not None:
            script = f"{_NIX} path-info --offline -r -s '{running}'\n{' '.join(argv)}"
            argv = ("sh", "-c", script)
        stdin = "".join(f"{path}\n" for path in sorted(wanted))
        result = await self._shell.run(host, Command(argv=argv, stdin=stdin, timeout=_TIMEOUT), hear)
        if not result.ok:
            raise task_error(
                FailureKind.COMMAND,
                f"{host.name} cannot say which store paths it has",
                evidence=result.tail(),
                command=" ".join(("xargs", *_INVALID)),
                exit_code=result.exit_code,
                next=f"{host.login} nix-store --verify",
            )
        return HostStore(missing=frozenset(missing) & frozenset(wanted), running=sizes or None)


def closure_of(system: StorePath, known: Mapping[StorePath, StoredPath]) -> dict[StorePath, StoredPath]:
    """What of ``known`` a system needs, itself included."""
    found: dict[StorePath, StoredPath] = {}
    todo = [system]
    while todo:
        path = todo.pop()
        if path in known and path not in found:
            found[path] = known[path]
            todo += known[path].references
    return found


def path_infos(data: Any) -> dict[StorePath, StoredPath]:
    """What ``nix path-info --json`` printed: a list (2.8), an object by path (2.26), one by base name (format 2)."""
    found: dict[StorePath, StoredPath] = {}
    for path, info in _entries(data):
        size, references = info.get("narSize"), info.get("references")
        if isinstance(size, int) and isinstance(references, list):
            found[_whole(path)] = StoredPath(size=size, references=tuple(_whole(str(each)) for each in references))
    return found


def valid_paths(data: Any) -> frozenset[StorePath]:
    """Which paths ``nix path-info --json`` found; 2.8 says of the others that they are not valid, later ones null."""
    return frozenset(_whole(path) for path, info in _entries(data) if info and info.get("valid", True))


def _entries(data: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(data, list):
        yield from ((str(one.get("path")), one) for one in data if isinstance(one, Mapping))
    elif isinstance(data, Mapping):
        infos = data["info"] if isinstance(data.get("info"), Mapping) else data
        yield from ((str(path), info) for path, info in infos.items() if isinstance(info, Mapping))


def _whole(path: str) -> StorePath:
    return StorePath(path if path.startswith("/") else f"{_STORE}/{path}")
