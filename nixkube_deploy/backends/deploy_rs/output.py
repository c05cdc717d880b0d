"""What deploy-rs prints, as progress and as evidence. It does not decide anything: the host is looked at for that."""

import re
from dataclasses import dataclass, field
from enum import IntEnum

_DECORATION = re.compile(r"^[^\x00-\x7f\s]+\s*(?:[^\x00-\x7f\s]+\s*)?(?=\[)")
_MARKED = re.compile(r"^\[(?:deploy|activate|wait|revoke)\] \[([A-Z]+)\] (.*)")


class Stage(IntEnum):
    """How far it came, by its own words."""

    STARTED = 0
    EVALUATES = 1
    BUILDS = 2
    COPIES = 3
    ACTIVATES = 4
    WAITS = 5
    """The new system runs, and must be confirmed over a new connection."""
    CONFIRMED = 6


_STAGES = (
    ("Evaluating flake", Stage.EVALUATES, "evaluates the flake"),
    ("Building profile", Stage.BUILDS, "builds"),
    ("Copying profile", Stage.COPIES, "copies its profile to the host"),
    ("Activating profile `", Stage.ACTIVATES, "activates"),
    ("Activation succeeded", Stage.WAITS, "the host runs the new system"),
    ("Waiting for confirmation", Stage.WAITS, "the host waits for a new connection"),
    ("Success activating for next boot", Stage.CONFIRMED, "the next boot starts the new system"),
    ("Deployment confirmed", Stage.CONFIRMED, "confirmed over a new connection"),
)
_BACK = {
    "De-activating due to error": "takes the host back",
    "Attempting to re-activate": "activates the system before again",
}


@dataclass(slots=True)
class Transcript:
    """The run of one deploy-rs, line by line."""

    stage: Stage = Stage.STARTED
    took_back: bool = False
    """Whether it began to take the host back. The host is not always heard any more when it does."""
    errors: list[str] = field(default_factory=list)

    def hear(self, line: str) -> str:
        """Note a line, and give it back as progress."""
        line = cleaned(line)
        marked = _MARKED.match(line)
        if marked is None:
            return line
        level, text = marked.groups()
        if level == "ERROR":
            self.errors.append(text)
        for words, told in _BACK.items():
            if text.startswith(words):
                self.took_back = True
                return f"deploy-rs: {told}"
        for words, stage, told in _STAGES:
            if text.startswith(words):
                self.stage = max(self.stage, stage)
                return f"deploy-rs: {told}"
        return f"deploy-rs: {text}"


def cleaned(line: str) -> str:
    """A line of deploy-rs without the emoji before its ``[deploy] [INFO]``."""
    return _DECORATION.sub("", line).strip()
