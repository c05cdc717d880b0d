"""Programs on the controller: the Processes port.

Each runs in a session of its own, so that ending it ends what it started. It retries nothing and reads no output.
"""

import os
import shlex
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePath
from subprocess import DEVNULL, PIPE
from typing import Final

import anyio
from anyio import open_process
from anyio.abc import ByteReceiveStream, Process

from nixkube_deploy.backends.process.memory import MemoryWatch
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.output import Lines, Tail, harmless
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import CommandResult, OnLine

_OVERRIDES: Final = {
    "nix": "NIXKUBE_NIX",
    "nix-eval-jobs": "NIXKUBE_NIX_EVAL_JOBS",
    "nixos-anywhere": "NIXKUBE_NIXOS_ANYWHERE",
    "nixos-rebuild": "NIXKUBE_NIXOS_REBUILD",
    "deploy-rs": "NIXKUBE_DEPLOY_RS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """What one program may take."""

    stdout: int = 256 * 1024 * 1024
    """Bytes of standard output; it is data, so more is an error and never a silent cut."""
    grace: float = 5.0
    """Seconds between TERM and KILL."""
    linger: float = 1.0
    """Seconds to wait for output once the program ended: what it left in the background may hold its pipes for ever."""


class LocalProcesses:
    """Starts programs, streams their standard error, and ends the whole process group on cancellation."""

    def __init__(self, limits: ProcessLimits = ProcessLimits()) -> None:
        self._limits = limits

    async def run(self, invocation: Invocation, on_line: OnLine | None = None) -> CommandResult:
        """Run to the end; a non-zero exit code is a result, not an error."""
        process = await _start(invocation)
        watch = _Watch(self._limits.stdout, on_line, invocation)
        try:
            with anyio.move_on_after(invocation.timeout) as deadline:
                await self._follow(process, invocation, watch)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(process)
        if deadline.cancelled_caught:
            raise _overdue(invocation, watch)
        if watch.broken is not None:
            raise watch.broken
        if watch.overflow:
            raise _too_much(invocation, self._limits.stdout)
        assert process.returncode is not None
        return watch.result(process.returncode)

    async def _follow(self, process: Process, invocation: Invocation, watch: "_Watch") -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        async with anyio.create_task_group() as group:
            watch.stop = group.cancel_scope.cancel
            group.start_soon(_feed, process, invocation.stdin)
            group.start_soon(_pump, process.stdout, watch.out)
            group.start_soon(_pump, process.stderr, watch.err)
            async with _weighed(process, watch.memory):
                await process.wait()
            group.cancel_scope.deadline = anyio.current_time() + self._limits.linger

    async def _end(self, process: Process) -> None:
        if process.returncode is None:
            _signal_group(process, signal.SIGTERM)
            with anyio.move_on_after(self._limits.grace):
                await process.wait()
            _signal_group(process, signal.SIGKILL)  # Also for what outlived the program itself.
        await process.aclose()


class _Watch:
    """What one program printed."""

    def __init__(self, limit: int, on_line: OnLine | None, invocation: Invocation) -> None:
        self.memory = MemoryWatch(invocation.memory_limit) if invocation.memory_limit is not None else None
        self.broken: Exception | None = None
        """What ``on_line`` raised: a bug that belongs to the caller."""
        self.overflow = False
        self.stop: Callable[[], None] = lambda: None
        self._limit = limit
        self._stdout = bytearray()
        self._stderr = Tail()
        self._lines = Lines(on_line) if on_line is not None else None
        self._data_lines = Lines(on_line) if on_line is not None and invocation.hear_stdout else None

    def out(self, data: bytes) -> None:
        if len(self._stdout) + len(data) > self._limit:
            self.overflow = True
            self.stop()
            return
        self._stdout += data
        self._hear(self._data_lines, lambda lines: lines.feed(data))

    def err(self, data: bytes) -> None:
        self._stderr.feed(data)
        self._hear(self._lines, lambda lines: lines.feed(data))

    def evidence(self) -> tuple[str, ...]:
        """The last lines of standard error."""
        return tuple(self._stderr.text().splitlines()[-20:])

    def result(self, returncode: int) -> CommandResult:
        self._hear(self._data_lines, lambda lines: lines.end())
        self._hear(self._lines, lambda lines: lines.end())
        if self.broken is not None:
            raise self.broken
        stderr = self._stderr.text()
        if returncode < 0:
            stderr += f"ended by signal {signal.Signals(-returncode).name}\n"
        return CommandResult(
            exit_code=returncode if returncode >= 0 else 128 - returncode,
            stdout=harmless(self._stdout.decode("utf-8", "replace")),
            stderr=stderr,
            truncated=self._stderr.truncated,
            peak_memory=self.memory.peak if self.memory is not None else None,
            outgrew=self.memory is not None and self.memory.outgrown,
        )

    def _hear(self, lines: Lines | None, hand_on: Callable[[Lines], None]) -> None:
        if lines is None or self.broken is not None:
            return
        try:
            hand_on(lines)
        except Exception as error:  # noqa: BLE001 (not ours: run() raises it once the program has ended)
            self.broken = error
            self.stop()


async def _start(invocation: Invocation) -> Process:
    secrets = {name: secret.reveal() for name, secret in invocation.secret_env.items()}
    try:
        return await open_process(
            invocation.argv,
            stdin=DEVNULL if invocation.stdin is None else PIPE,
            stdout=PIPE,
            stderr=PIPE,
            cwd=invocation.cwd,
            env={**os.environ, **invocation.env, **secrets},
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(invocation, error) from None


async def _feed(process: Process, stdin: str | None) -> None:
    if stdin is None or process.stdin is None:
        return
    try:
        await process.stdin.send(stdin.encode())
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # It did not want to read it all; its exit code tells the rest.
    finally:
        await process.stdin.aclose()


async def _pump(stream: ByteReceiveStream, sink: Callable[[bytes], None]) -> None:
    try:
        async for data in stream:
            sink(data)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return


@asynccontextmanager
async def _weighed(process: Process, memory: MemoryWatch | None) -> AsyncIterator[None]:
    """For the length of the block, and no longer: between two looks may be more time than the program took."""
    async with anyio.create_task_group() as group:
        if memory is not None:
            group.start_soon(_weigh, process, memory)
        yield
        group.cancel_scope.cancel()


async def _weigh(process: Process, memory: MemoryWatch) -> None:
    """Kill it, rather than ask it to end: while it is asked it goes on growing."""
    while True:
        pause = memory.look(process.pid)
        if pause is None:
            break
        await anyio.sleep(pause)
    if memory.outgrown:
        _signal_group(process, signal.SIGKILL)


def _signal_group(process: Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _not_started(invocation: Invocation, error: OSError) -> TaskError:
    program, cwd = invocation.argv[0], invocation.cwd
    name = PurePath(program).name
    override = _OVERRIDES.get(name)
    advice = f"install {name}" + (f", or name it: export {override}=/path/to/{name}" if override else "")
    why = (error.strerror or str(error)).lower()
    if isinstance(error, FileNotFoundError) and error.filename == cwd and cwd is not None:
        return task_error(FailureKind.COMMAND, f"{name} cannot start: the folder {cwd} is not there", command=program)
    if isinstance(error, FileNotFoundError):
        return task_error(FailureKind.NOT_INSTALLED, f"{name} is not installed on this machine", seen=why, next=advice)
    return task_error(
        FailureKind.COMMAND, f"{name} cannot be started: {why}", seen=why, command=_line(invocation), next=advice
    )


def _overdue(invocation: Invocation, watch: _Watch) -> TaskError:
    name = PurePath(invocation.argv[0]).name
    return task_error(
        FailureKind.TIMEOUT,
        f"{name} did not end within {invocation.timeout:g} s",
        expected=f"an end within {invocation.timeout:g} s",
        evidence=watch.evidence(),
        did="it and everything it started was ended",
        command=_line(invocation),
        transient=True,
    )


def _too_much(invocation: Invocation, limit: int) -> TaskError:
    name = PurePath(invocation.argv[0]).name
    return task_error(
        FailureKind.COMMAND,
        f"{name} printed more than {limit // (1024 * 1024)} MiB",
        expected=f"at most {limit // (1024 * 1024)} MiB of standard output",
        did="it was ended",
        command=_line(invocation),
    )


def _line(invocation: Invocation) -> str:
    return harmless(shlex.join(invocation.argv))
