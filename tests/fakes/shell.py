"""A Shell whose hosts answer from a script; does not know what any command means."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import anyio.lowlevel

from nixkube_deploy.model.error import OutcomeUnknown, TaskError, Unreachable
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine

Respond = Callable[[Host, Command], CommandResult]
"""Computes an answer; may raise TaskError, may change what it closes over (a small state machine)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One command that reached a host, in order."""

    host: str
    command: Command
    fresh: bool = False
    held: bool = False

    @property
    def argv(self) -> tuple[str, ...]:
        return self.command.argv

    @property
    def line(self) -> str:
        return " ".join(self.command.argv)


@dataclass(slots=True, kw_only=True)
class _Rule:
    prefix: tuple[str, ...]
    host: str | None
    respond: Respond
    takes: float
    left: int | None
    holding: str = ""

    def matches(self, host: Host, command: Command) -> bool:
        fits = command.argv[: len(self.prefix)] == self.prefix and self.holding in " ".join(command.argv)
        return fits and self.left != 0 and self.host in (None, host.name)


class FakeShell:
    """Commands are answered by argv prefix.

    Rules with ``times`` are used up first, in the order they were added; then the longest prefix wins, the newest
    among equals. A command without a rule gets 127, as on a real host. ``takes`` is slept through anyio, so it costs
    nothing under trio's MockClock; longer than the command's time-out it ends as OutcomeUnknown, as in reality.
    """

    def __init__(self) -> None:
        self.ran: list[Ran] = []
        self.forgotten: list[str] = []
        self.held: list[str] = []
        """Hosts on which a held command runs right now."""
        self.connect_timeout = 0.0
        """Seconds that it takes to find out that a host is unreachable."""
        self._rules: list[_Rule] = []
        self._unreachable: set[str] = set()
        self._blocks: dict[str, list[anyio.CancelScope]] = {}

    # The script.

    def answers(
        self,
        *prefix: str,
        stdout: str = "",
        stderr: str = "",
        exit_code: int = 0,
        with_: Respond | None = None,
        host: str | None = None,
        times: int | None = None,
        takes: float = 0.0,
        holding: str = "",
    ) -> "FakeShell":
        """Answer commands that start with ``prefix`` (all, when empty) with this result, or with ``with_``'s.

        ``holding`` narrows that to commands with this text in them: scripts.
        """
        result = CommandResult(exit_code=exit_code, stdout=stdout, stderr=stderr)
        respond = with_ or (lambda _host, _command: result)
        rule = _Rule(prefix=prefix, host=host, respond=respond, takes=takes, left=times, holding=holding)
        self._rules.append(rule)
        return self

    def loses(
        self,
        *prefix: str,
        host: str | None = None,
        times: int | None = 1,
        first: Respond | None = None,
        holding: str = "",
    ) -> "FakeShell":
        """The connection drops during the command; ``first`` may still do its work on the host."""

        def lost(host: Host, command: Command) -> CommandResult:
            if first is not None:
                first(host, command)
            raise _outcome_unknown(host, "the connection was lost while the command ran")

        return self.answers(*prefix, with_=lost, host=host, times=times, holding=holding)

    def unreachable(self, *hosts: str) -> None:
        """From now on no connection to these hosts can be made."""
        self._unreachable.update(hosts)

    def reachable(self, *hosts: str) -> None:
        """These hosts answer again."""
        self._unreachable.difference_update(hosts)

    def drops(self, host: str) -> None:
        """The kept connection is lost, and with it every command that is held over it."""
        for block in self._blocks.get(host, ()):
            block.cancel()

    # What happened.

    def lines(self, host: str | None = None) -> list[str]:
        """Every command so far as one line of text each."""
        return [ran.line for ran in self.ran if host in (None, ran.host)]

    # The port.

    async def run(self, host: Host, command: Command, on_line: OnLine | None = None) -> CommandResult:
        result = await self._perform(Ran(host=host.name, command=command), host)
        if on_line is not None:
            for line in (result.stdout + result.stderr).splitlines():
                on_line(line)
        return result

    async def run_fresh(self, host: Host, command: Command) -> CommandResult:
        return await self._perform(Ran(host=host.name, command=command, fresh=True), host)

    async def forget(self, host: Host) -> None:
        self.forgotten.append(host.name)
        await anyio.lowlevel.checkpoint()

    @asynccontextmanager
    async def hold(self, host: Host, command: Command) -> AsyncIterator[CommandResult | None]:
        """Exit code 0 means it keeps running; anything else means it ended before its first line."""
        result = await self._perform(Ran(host=host.name, command=command, held=True), host)
        if not result.ok:
            yield result
            return
        self.held.append(host.name)
        with anyio.CancelScope() as block:
            self._blocks.setdefault(host.name, []).append(block)
            try:
                yield None
            finally:
                self.held.remove(host.name)
                self._blocks[host.name].remove(block)
        if block.cancelled_caught:
            raise _outcome_unknown(host, "the connection was lost while a command was held")

    @asynccontextmanager
    async def stream(self, host: Host, command: Command) -> AsyncIterator["FakeStream"]:
        """The command's answer, as if it had read all of its input before it said a word."""
        stream = FakeStream(
            lambda given: self._perform(Ran(host=host.name, command=replace(command, stdin=given)), host)
        )
        yield stream

    async def _perform(self, ran: Ran, host: Host) -> CommandResult:
        await anyio.lowlevel.checkpoint()
        if host.name in self._unreachable:
            await anyio.sleep(self.connect_timeout)
            raise Unreachable(
                Failure(kind=FailureKind.UNREACHABLE, message=f"{host.name} does not answer", transient=True)
            )
        self.ran.append(ran)
        rule = self._rule(host, ran.command)
        if rule is None:
            return CommandResult(exit_code=127, stderr=f"sh: {ran.argv[0]}: command not found\n")
        if rule.left is not None:
            rule.left -= 1
        await anyio.sleep(min(rule.takes, ran.command.timeout))
        if rule.takes > ran.command.timeout:
            raise _outcome_unknown(host, f"no answer within {ran.command.timeout:g} s")
        return rule.respond(host, ran.command)

    def _rule(self, host: Host, command: Command) -> _Rule | None:
        fitting = [rule for rule in self._rules if rule.matches(host, command)]
        if used_up := [rule for rule in fitting if rule.left is not None]:
            return used_up[0]
        return max(reversed(fitting), key=lambda rule: len(rule.prefix), default=None)


class FakeStream:
    """A command that answers once its input has ended."""

    def __init__(self, perform: Callable[[str], Awaitable[CommandResult]]) -> None:
        self._perform = perform
        self._given = bytearray()
        self._ended = anyio.Event()
        self._result: CommandResult | None = None
        self._error: TaskError | None = None
        self._said = False

    async def send(self, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self._given += data

    async def end_of_input(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._ended.set()

    async def receive(self) -> bytes:
        if self._said:
            return b""
        self._said = True
        try:
            return (await self.result()).stdout.encode()
        except TaskError as error:
            self._error = error
            return b""

    async def result(self) -> CommandResult:
        await self._ended.wait()
        if self._error is not None:
            raise self._error
        if self._result is None:
            self._result = await self._perform(self._given.decode("utf-8", "replace"))
        return self._result


def _outcome_unknown(host: Host, why: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        Failure(kind=FailureKind.OUTCOME_UNKNOWN, message=f"{host.name}: outcome unknown: {why}", transient=True)
    )
