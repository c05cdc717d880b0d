"""Programs that answer from a script; does not start anything."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

import anyio
import anyio.lowlevel

from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import CommandResult, OnLine

Respond = Callable[[Invocation], CommandResult]
"""Computes an answer; may raise TaskError, may change what it closes over (a small state machine)."""


@dataclass(slots=True, kw_only=True)
class _Rule:
    prefix: tuple[str, ...]
    respond: Respond
    takes: float
    left: int | None

    def matches(self, invocation: Invocation) -> bool:
        wanted, argv = self.prefix, invocation.argv
        if not wanted:
            return self.left != 0
        program = PurePath(argv[0]).name if "/" not in wanted[0] else argv[0]
        return self.left != 0 and program == wanted[0] and argv[1 : len(wanted)] == wanted[1:]


class FakeProcesses:
    """Programs are answered by argv prefix; the program's name may be given without its folder.

    Rules with ``times`` are used up first, in the order they were added; then the longest prefix wins, the newest
    among equals. A program without any rule is not installed. ``takes`` is slept through anyio; longer than the
    invocation's time-out it ends as TIMEOUT.
    """

    def __init__(self) -> None:
        self.ran: list[Invocation] = []
        self.cancelled: list[Invocation] = []
        self._rules: list[_Rule] = []

    def answers(
        self,
        *prefix: str,
        stdout: str = "",
        stderr: str = "",
        exit_code: int = 0,
        with_: Respond | None = None,
        times: int | None = None,
        takes: float = 0.0,
    ) -> "FakeProcesses":
        """Answer programs whose argv starts with ``prefix`` (all, when empty) with this, or with ``with_``'s result."""
        result = CommandResult(exit_code=exit_code, stdout=stdout, stderr=stderr)
        respond = with_ or (lambda _invocation: result)
        self._rules.append(_Rule(prefix=prefix, respond=respond, takes=takes, left=times))
        return self

    def lines(self) -> list[str]:
        """Every program so far as one line of text each."""
        return [" ".join(invocation.argv) for invocation in self.ran]

    async def run(self, invocation: Invocation, on_line: OnLine | None = None) -> CommandResult:
        await anyio.lowlevel.checkpoint()
        fitting = [rule for rule in self._rules if rule.matches(invocation)]
        used_up = [rule for rule in fitting if rule.left is not None]
        rule = used_up[0] if used_up else max(reversed(fitting), key=lambda r: len(r.prefix), default=None)
        self.ran.append(invocation)
        if rule is None:
            raise task_error(FailureKind.COMMAND, f"{invocation.argv[0]} is not installed")
        if rule.left is not None:
            rule.left -= 1
        await self._sleep(rule.takes, invocation)
        result = rule.respond(invocation)
        if on_line is not None:
            heard = (result.stdout if invocation.hear_stdout else "") + result.stderr
            for line in heard.splitlines():
                on_line(line)
        return result

    async def _sleep(self, seconds: float, invocation: Invocation) -> None:
        try:
            await anyio.sleep(min(seconds, invocation.timeout))
        except BaseException:
            self.cancelled.append(invocation)
            raise
        if seconds > invocation.timeout:
            raise task_error(FailureKind.TIMEOUT, f"{invocation.argv[0]} did not end within {invocation.timeout:g} s")
