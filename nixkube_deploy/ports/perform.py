"""Doing what one task says: the only thing the engine needs from the world besides time and a ledger."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nixkube_deploy.model.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Which attempt this is; ``report`` shows a line of progress."""

    number: int
    resumed: bool
    """An earlier controller began this task and never settled it: verify first."""
    report: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The task went well; ``changed`` False: there was nothing to do, and that is said."""

    changed: bool = True
    detail: str = ""


Perform = Callable[[Task, Attempt], Awaitable[Done]]
"""Raises TaskError or TimeoutError when the task failed as tasks may; anything else is a bug."""
