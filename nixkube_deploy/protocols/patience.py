"""Asking one host again until it answers: for steps in the middle of a change, where a lost connection proves nothing.

Only for what may safely be done twice; whether it may is the caller's knowledge.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

import anyio

from nixkube_deploy.model.error import OutcomeUnknown, TaskError, Unreachable
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.shell import Command, CommandResult, Shell
from nixkube_deploy.protocols.situation import Situation, look

T = TypeVar("T")

PATIENCE: Final = 180.0
"""Seconds without an answer after which a step ends as "outcome unknown"; another attempt takes it up again."""

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 2.0


def pauses() -> Iterator[float]:
    """20 ms, doubling up to 2 s, for ever: quick for what is quick, gentle to what is not."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


class PatientShell:
    """One host, asked until it answers or patience ends."""

    def __init__(self, shell: Shell, host: Host, clock: Clock) -> None:
        self.shell, self.host, self.clock = shell, host, clock

    async def run(self, *argv: str, privileged: bool = False, stdin: str | None = None) -> CommandResult:
        """An idempotent command."""
        command = Command(argv=argv, privileged=privileged, stdin=stdin)
        return await self.insist(lambda: self.shell.run(self.host, command))

    async def look(self) -> Situation:
        """Where the host stands now."""
        return await self.insist(lambda: look(self.shell, self.host))

    async def insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask, and ask again over a new connection when the answer was lost.

        Raises:
            OutcomeUnknown: the host did not answer for ``PATIENCE`` seconds.
            TaskError: it answered with a refusal (host key, authentication, privilege).
        """
        give_up = self.clock.monotonic() + PATIENCE
        for pause in pauses():
            try:
                return await ask()
            except (OutcomeUnknown, Unreachable) as error:
                if self.clock.monotonic() + pause > give_up:
                    raise _gave_up(self.host, error) from error
                await self.shell.forget(self.host)
                await anyio.sleep(pause)
        raise AssertionError("pauses never end")


def _gave_up(host: Host, error: TaskError) -> OutcomeUnknown:
    return OutcomeUnknown(
        Failure(
            kind=FailureKind.OUTCOME_UNKNOWN,
            message=f"{host.name} did not answer for {PATIENCE:g} s in the middle of a change",
            expected="a connection within that time",
            seen=error.failure.message,
            evidence=error.failure.evidence,
            did="nothing more: what runs on the host goes on without us, and its dead-man timer with it",
            next="deploy resume, once the host can be reached: it reads the outcome before it does anything",
            transient=True,
        )
    )
