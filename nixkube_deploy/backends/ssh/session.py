"""One command over one channel: bytes in, bounded output, exit code or the honest answer that it is unknown.

It knows nothing of privilege, of reconnecting or of what the command means.
"""

import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import anyio
import tenacity

from nixkube_deploy.backends.ssh.failures import words
from nixkube_deploy.backends.ssh.libraries import asyncssh
from nixkube_deploy.backends.ssh.quote import shell_line
from nixkube_deploy.model.error import OutcomeUnknown, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.secret import Secret
from nixkube_deploy.ports.output import Lines, Tail, harmless
from nixkube_deploy.ports.shell import CommandResult, OnLine

_SIGNALLED: Final = 128
"""A shell's exit code for a command ended by signal n is 128 + n."""


class NotSent(Exception):  # noqa: N818 (what happened)
    """The channel could not be opened, so the host never saw the command: it may be sent over another connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to run where."""

    label: str
    """The host, for messages."""
    argv: tuple[str, ...]
    stdin: str | None = field(repr=False)
    timeout: float
    patience: float
    """Seconds to wait for the channel itself; a connection that does not even open one is dead."""
    password: Secret | None = None
    """The first line of standard input; it is revealed only as it is written."""


class Session(asyncssh.SSHClientSession[bytes]):
    """Collects what one command does."""

    def __init__(self, on_line: OnLine | None = None) -> None:
        self.opened = False
        """Whether the command may have reached the host."""
        self.ended = anyio.Event()
        self.broken: Exception | None = None
        """What ``on_line`` raised: a bug that belongs to the caller."""
        self.lost: Exception | None = None
        self.on_end: Callable[[], None] = lambda: None
        """Called when it ends, however it does."""
        self._stirred = anyio.Event()
        """Set with the first complete line of standard output, and at the end."""
        self._opening: anyio.CancelScope | None = None
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._timeout = 0.0
        self._exit_code: int | None = None
        self._signal = ""
        self._stdout, self._stderr = Tail(), Tail()
        self._lines = (Lines(on_line), Lines(on_line)) if on_line is not None else None

    # asyncssh's side.

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """The channel is open; the command follows at once, and its own deadline counts from here."""
        self.opened, self._channel = True, chan
        if self._opening is not None:
            self._opening.deadline = anyio.current_time() + self._timeout

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Output arrived."""
        is_error = datatype == asyncssh.EXTENDED_DATA_STDERR
        (self._stderr if is_error else self._stdout).feed(data)
        if not is_error and b"\n" in data:
            self._stirred.set()
        if self._lines is not None and self.broken is None:
            try:
                self._lines[is_error].feed(data)
            except Exception as error:  # noqa: BLE001 (asyncssh would take it for a broken connection; run() raises it)
                self.broken = error
                self._end()

    def exit_status_received(self, status: int) -> None:
        """It ended by itself."""
        self._exit_code = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """It was ended."""
        del core_dumped, msg, lang
        self._signal = signal

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed, with or without the connection."""
        self.lost = exc
        self._end()

    def _end(self) -> None:
        self.ended.set()
        self._stirred.set()
        self.on_end()

    # Our side.

    async def open(self, connection: asyncssh.SSHClientConnection | None, request: Request) -> None:
        """Open the channel and send the command.

        Raises:
            NotSent: the host never saw it.
            OutcomeUnknown: the connection was lost while it was being sent.
            TaskError: the host refuses to run commands, or to run more of them.
        """
        if connection is None:
            raise NotSent("the connection was lost")
        self._timeout = request.timeout
        try:
            with anyio.move_on_after(request.patience) as self._opening:
                await self._create(connection, request)
            if self._opening.cancelled_caught and self.opened:
                raise self.overdue(request)
            if self._opening.cancelled_caught:
                raise NotSent(f"no channel within {request.patience:g} s")
        except (asyncssh.Error, OSError) as error:
            if connection.is_closed() and self.opened:
                raise self._unknown(request, f"the connection was lost ({words(error)})") from error
            if connection.is_closed():
                raise NotSent(words(error)) from error
            advice = "on the host: services.openssh.settings.MaxSessions, ForceCommand, the user's shell"
            raise task_error(
                FailureKind.UNREACHABLE,
                f"{request.label}: the host opens no session: {words(error)}",
                next=advice,
                transient=not self.opened,
            ) from error
        self._send(request)

    async def _create(self, connection: asyncssh.SSHClientConnection, request: Request) -> None:
        """Ask for a channel, and again for a while where sshd's MaxSessions is reached: nothing was sent yet."""

        def full(error: BaseException) -> bool:
            refused = isinstance(error, asyncssh.ChannelOpenError)
            return refused and not self.opened and not connection.is_closed()

        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(full),
            stop=tenacity.stop_after_delay(request.patience / 2),
            wait=tenacity.wait_random(0.05, 0.3),
            sleep=anyio.sleep,
            reraise=True,
        ):
            with attempt:
                await connection.create_session(lambda: self, shell_line(request.argv), encoding=None)

    def _send(self, request: Request) -> None:
        if self._channel is None:
            return
        with suppress(BrokenPipeError):  # It ended without reading; its exit code tells the rest.
            if request.password is not None:
                self._channel.write(f"{request.password.reveal()}\n".encode())
            if request.stdin:
                self._channel.write(request.stdin.encode())

    async def spoke_or_ended(self) -> None:
        """Wait for the first line, or for the end without one."""
        await self._stirred.wait()

    def end_of_input(self) -> None:
        """Tell the command that no more input comes."""
        if self._channel is not None:
            with suppress(BrokenPipeError):
                self._channel.write_eof()

    def close(self) -> None:
        """Let go of the channel. The remote process may live on; nobody assumes otherwise."""
        if self._channel is not None:
            self._channel.close()

    def result(self, request: Request) -> CommandResult:
        """The result of the command that ended.

        Raises:
            OutcomeUnknown: the channel closed without an exit code.
        """
        if self.broken is not None:
            raise self.broken
        self._finish_lines()
        code, last_words = self._exit_code, ""
        if self._signal:
            number = getattr(signal, f"SIG{self._signal}", 0)
            code, last_words = _SIGNALLED + int(number), f"ended by signal {harmless(self._signal)[:20]}\n"
        if code is None:
            reason = f" ({words(self.lost)})" if self.lost is not None else ""
            raise self._unknown(request, f"the connection was lost{reason}")
        return CommandResult(
            exit_code=code,
            stdout=self._stdout.text(),
            stderr=self._stderr.text() + last_words,
            truncated=self._stdout.truncated or self._stderr.truncated,
        )

    def overdue(self, request: Request) -> OutcomeUnknown:
        """The failure when the deadline passed."""
        return self._unknown(request, f"no end within {request.timeout:g} s")

    def gone(self, request: Request) -> OutcomeUnknown:
        """The failure when it was to run on and did not."""
        return self._unknown(request, "the connection was lost" if self._exit_code is None else "it ended early")

    def _finish_lines(self) -> None:
        if self._lines is not None:
            for lines in self._lines:
                lines.end()
            self._lines = None

    def _unknown(self, request: Request, why: str) -> OutcomeUnknown:
        line = harmless(shell_line(request.argv))
        seen = CommandResult(exit_code=-1, stdout=self._stdout.text(), stderr=self._stderr.text())
        return OutcomeUnknown(
            Failure(
                kind=FailureKind.OUTCOME_UNKNOWN,
                message=f"{request.label}: outcome unknown: {why} while this ran: {line[:200]}",
                expected="an exit code",
                seen=why,
                evidence=seen.tail(),
                did="nothing was repeated; the command may have succeeded, failed, or still run",
                command=line,
                transient=True,
            )
        )
