"""What may be done about a task now: the engine's answer, as values that can be shown and compared."""

from dataclasses import dataclass

from nixkube_deploy.model.event import SkipCause


@dataclass(frozen=True, slots=True)
class Start:
    """Run it now."""

    def __str__(self) -> str:
        return "may start now"


@dataclass(frozen=True, slots=True)
class Skip:
    """It will not run; ``text`` says why, for people."""

    cause: SkipCause
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now."""

    reason: str

    def __str__(self) -> str:
        return self.reason


Decision = Start | Skip | Wait
