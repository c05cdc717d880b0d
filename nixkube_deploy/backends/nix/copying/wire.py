"""The way from one ``nix copy`` to its host: over the connection that is open already, or through ``ssh`` with a tally.

Nix speaks its own protocol end to end, with its validity query, its signatures and its substitution; only what carries
the bytes is replaced, by a program named ``ssh`` that this one ``nix`` finds first. Nothing here reads them.
"""

import os
import shlex
import shutil
import sys
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from anyio.abc import SocketStream, TaskStatus

from nixkube_deploy.backends.nix.copying.pipes import RELAY, Pipes
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import ByteStream, Command, CommandResult, StreamingShell

SERVE: Final = Command(argv=("nix-store", "--serve", "--write"), privileged=True, timeout=24 * 3600.0)
"""What ``nix copy --to ssh://`` starts on a host; here as root, where the inventory says how to become it."""

_COUNT: Final = Path(__file__).with_name("ssh_count.py")
_PROGRAM: Final = """\
#!/bin/sh
ours=no asks=no starts=no
for word in "$@"; do
    case $word in
        "$NIXKUBE_WIRE_DESTINATION") ours=$NIXKUBE_WIRE_MODE ;;
        -O) asks=yes ;;
        *"LocalCommand=echo started"*) starts=yes ;;
    esac
done
test $ours = relay || exec {python} -IS {count} "$@"
# Newer versions of Nix ask whether a ControlMaster runs, and wait to be told that the login is over.
test $asks = no || exit 255
test $starts = no || echo started
"""
"""What Nix finds as ``ssh``; what it is not meant for goes on to the program that counts, or to the real one."""

_CHUNK: Final = 1 << 18
_LAST_WORDS: Final = 5.0
"""Seconds for the far end to say how it ended, once Nix has."""

_LONGEST: Final = 90
"""Bytes of a socket's path: the kernel takes little more than a hundred."""

OnBytes = Callable[[int], None]
Work = Callable[[Mapping[str, str]], Awaitable[CommandResult]]
"""Runs ``nix`` with this environment."""


@dataclass(slots=True, kw_only=True)
class _Ends:
    """What became of the far ends of one copy; Nix opens one."""

    said: str = ""
    """Standard error."""
    broken: TaskError | None = None
    """Why it could not be reached, or was lost."""
    open: int = 0
    idle: anyio.Event = field(default_factory=anyio.Event)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around one of them. When Nix goes away, how it ended tells the rest."""
        self.open += 1
        try:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                yield
        finally:
            self.open -= 1
            self.idle.set()


_Attend = Callable[..., Coroutine[None, None, None]]
"""Serves the far end of one copy: ``(place, ends, task_status=...)``, started once it can be found."""


class Wires:
    """Makes ways. ``folder`` is private to the run; ``path`` is where programs are found without us."""

    def __init__(self, shell: StreamingShell, folder: Path, path: str) -> None:
        self._shell, self._folder, self._path = shell, folder, path
        self._programs: Path | None = None
        self._installing = anyio.Lock()
        self._made = 0

    async def kept(self, host: Host, destination: str, on_bytes: OnBytes, work: Work) -> CommandResult:
        """Over the host's kept connection: without a login, and as root where the inventory says how.

        Raises:
            TaskError: the host could not be reached, or the connection was lost.
        """

        async def attend(place: Path, ends: _Ends, *, task_status: TaskStatus[None]) -> None:
            with Pipes(place) as link:
                task_status.started()
                await link.opened()
                with ends.at_work():
                    await carry(link, ends)

        async def carry(link: Pipes, ends: _Ends) -> None:
            try:
                async with self._shell.stream(host, SERVE) as far:
                    await _join(link, far, on_bytes)
                    ends.said += (await far.result()).stderr
            except TaskError as error:
                ends.broken = error

        return await self._run("relay", destination, attend, work)

    async def counted(self, destination: str, on_bytes: OnBytes, work: Work) -> CommandResult:
        """Through OpenSSH, whose encryption runs beside us; its bytes are only counted."""

        async def attend(place: Path, ends: _Ends, *, task_status: TaskStatus[None]) -> None:
            async def count(link: SocketStream) -> None:
                with ends.at_work():
                    async with link:
                        await _tally(link, on_bytes)

            with _removed(place):
                async with await anyio.create_unix_listener(place, mode=0o600) as listener:
                    task_status.started()
                    await listener.serve(count)

        return await self._run("count", destination, attend, work)

    async def _run(self, mode: str, destination: str, attend: _Attend, work: Work) -> CommandResult:
        programs = await self._find_programs()
        self._made += 1
        place = programs / str(self._made)
        environ = {
            "PATH": f"{programs}{os.pathsep}{self._path}",
            "NIXKUBE_WIRE_PROGRAMS": str(programs),
            "NIXKUBE_WIRE_DESTINATION": destination,
            "NIXKUBE_WIRE_MODE": mode,
            "NIXKUBE_WIRE_SOCKET": str(place),
        }
        ends, failed, result = _Ends(), None, None
        async with anyio.create_task_group() as group:
            await group.start(attend, place, ends)
            try:
                result = await work(environ)
                with anyio.move_on_after(_LAST_WORDS):
                    await _until_idle(ends)
            except TaskError as error:
                failed = error  # Out of the group as it is, not as a group of one.
            group.cancel_scope.cancel()
        return _outcome(result, failed, ends)

    async def _find_programs(self) -> Path:
        """Made once, however many copies begin at the same time. A folder of our own goes when we do."""
        async with self._installing:
            if self._programs is None:
                self._programs = await anyio.to_thread.run_sync(_installed, self._folder)
                if self._programs != self._folder:
                    weakref.finalize(self, shutil.rmtree, self._programs, ignore_errors=True)
            return self._programs


def _outcome(result: CommandResult | None, failed: TaskError | None, ends: _Ends) -> CommandResult:
    """The far end's own words come first: what Nix says of it is a consequence."""
    if failed is not None:
        raise failed
    assert result is not None
    if ends.broken is not None and not result.ok:
        raise ends.broken
    return CommandResult(
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=ends.said + result.stderr,
        truncated=result.truncated,
    )


@contextmanager
def _removed(place: Path) -> Iterator[None]:
    try:
        yield
    finally:
        place.unlink(missing_ok=True)


async def _tally(link: SocketStream, on_bytes: OnBytes) -> None:
    """The other side tells how many bytes went by, in words of four."""
    rest = b""
    async for data in link:
        rest += data
        whole = len(rest) // 4 * 4
        on_bytes(sum(int.from_bytes(rest[at : at + 4], "big") for at in range(0, whole, 4)))
        rest = rest[whole:]


async def _until_idle(ends: _Ends) -> None:
    while ends.open:
        ends.idle = anyio.Event()
        await ends.idle.wait()


async def _join(link: Pipes, far: ByteStream, on_bytes: OnBytes) -> None:
    """Both directions until the far end has nothing more to say."""

    async def upward() -> None:
        while data := await link.receive(_CHUNK):
            await far.send(data)
            on_bytes(len(data))
        await far.end_of_input()

    async with anyio.create_task_group() as group:
        group.start_soon(upward)
        while data := await far.receive():
            on_bytes(0)
            await link.send(data)
        group.cancel_scope.cancel()
    link.end()
    await far.end_of_input()


def _installed(folder: Path) -> Path:
    """The folder with the program named ``ssh``, made once a run."""
    if len(os.fsencode(folder)) > _LONGEST:
        folder = Path(tempfile.mkdtemp(prefix="nixkube-", dir="/tmp"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = folder / "ssh"
    program.write_text(_PROGRAM.format(python=shlex.quote(sys.executable), count=shlex.quote(str(_COUNT))) + RELAY)
    program.chmod(0o700)
    return folder
