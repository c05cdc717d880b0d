"""Programs on the controller."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from nixkube_deploy.model.secret import Secret
from nixkube_deploy.ports.shell import CommandResult, OnLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One program. ``env`` is added to the controller's own; secrets travel there or by stdin, never in argv."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, Secret] = field(default_factory=dict)
    stdin: str | None = None
    cwd: str | None = None
    timeout: float = 3600.0
    memory_limit: int | None = None
    """Resident bytes of the program and what it started; over it they are killed, and the result says ``outgrew``."""
    hear_stdout: bool = False
    """Whether ``on_line`` gets the lines of standard output too."""


class Processes(Protocol):
    """Runs programs, output streamed and bounded; on cancellation the process group ends (TERM, then KILL).

    Raises:
        TaskError: the program is not there (kind COMMAND), or the deadline passed (kind TIMEOUT).
    """

    async def run(self, invocation: Invocation, on_line: OnLine | None = None) -> CommandResult:
        """Run to the end; a non-zero exit code is a result, not an error. ``on_line`` sees standard error lines."""
        ...
