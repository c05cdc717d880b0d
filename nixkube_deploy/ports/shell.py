"""Commands on hosts of the fleet."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host

OnLine = Callable[[str], None]
"""Receives each line of output, already sanitised, as it arrives."""


@dataclass(frozen=True, slots=True)
class SshInvocation:
    """How programs that call OpenSSH themselves (``nix copy``, ``nixos-rebuild``) reach a host."""

    destination: str
    """``user@address``."""
    options: tuple[str, ...] = ()
    """OpenSSH options, ready for ``NIX_SSHOPTS`` after quoting: ``-p``, ``-i``, ``-o``, ``-F``."""

    def spaced(self) -> str:
        """The options in one string, as ``NIX_SSHOPTS`` and deploy-rs' ``--ssh-opts`` take them.

        Both split at spaces, and no quoting is understood by every version, so a value that would need it is refused.

        Raises:
            TaskError: PREFLIGHT, naming the value.
        """
        for option in self.options:
            if not option or set(option) & set(" \t\n'\"\\"):
                raise task_error(
                    FailureKind.PREFLIGHT,
                    f"the SSH option {option!r} cannot be handed to Nix",
                    expected="options without blanks, quotes and backslashes: Nix splits NIX_SSHOPTS at blanks",
                    next="move the file to a path without blanks, or put the option into an ssh_config",
                )
        return " ".join(self.options)


SshOptions = Callable[[Host], SshInvocation]
"""Makes the invocation for a host; the wiring passes the SSH backend's to the backends that need it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One program on a host. Quoted in one place (the backend); ``privileged`` prefixes the host's sudo/doas/run0."""

    argv: tuple[str, ...]
    stdin: str | None = None
    privileged: bool = False
    timeout: float = 60.0
    """Seconds until the outcome counts as unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What came back. Output is bounded (the last 64 KiB of each stream) and free of control sequences."""

    exit_code: int
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    """Whether the beginning of a stream is missing."""
    peak_memory: int | None = None
    """The most bytes it had at once; only of a program on the controller that was given a memory limit."""
    outgrew: bool = False
    """Whether it was ended for going over that limit."""

    @property
    def ok(self) -> bool:
        """Exit code 0."""
        return self.exit_code == 0

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines of standard output, then of standard error: evidence."""
        return tuple((self.stdout.splitlines() + self.stderr.splitlines())[-lines:])


class Shell(Protocol):
    """Runs commands on hosts over one kept connection each.

    Raises:
        Unreachable: no connection could be made; nothing happened.
        OutcomeUnknown: connection or deadline lost while the command ran.
        TaskError: host key, authentication or privilege refused.
    """

    async def run(self, host: Host, command: Command, on_line: OnLine | None = None) -> CommandResult:
        """Run to the end; a non-zero exit code is a result, not an error."""
        ...

    async def run_fresh(self, host: Host, command: Command) -> CommandResult:
        """The same over a brand-new connection, which proves that one can still be made."""
        ...

    async def forget(self, host: Host) -> None:
        """Drop the kept connection (before and during a reboot); the next command connects anew."""
        ...

    def hold(self, host: Host, command: Command) -> AbstractAsyncContextManager[CommandResult | None]:
        """Keep a command running for the length of the block (a lock that dies with us).

        Yields None once it printed its first line, or its result if it ended before that. Should it end after that and
        before the block, or the connection be lost, the block is cancelled and ends as OutcomeUnknown.
        """
        ...


class ByteStream(Protocol):
    """Raw bytes to and from a command that runs on a host; its standard error is kept as evidence."""

    async def send(self, data: bytes) -> None:
        """Hand bytes to the command; waits while it does not take them. Bytes for a command that ended are dropped."""
        ...

    async def end_of_input(self) -> None:
        """Tell the command that no more input comes."""
        ...

    async def receive(self) -> bytes:
        """What it printed next; empty at the end."""
        ...

    async def result(self) -> CommandResult:
        """How it ended, without its standard output. Raises OutcomeUnknown when the connection was lost."""
        ...


class StreamingShell(Shell, Protocol):
    """A shell that also carries what is neither text nor small, over the same kept connections."""

    def stream(self, host: Host, command: Command) -> AbstractAsyncContextManager[ByteStream]:
        """Start a command and talk to it; its channel is closed with the block."""
        ...
