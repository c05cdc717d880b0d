"""What the conductor needs of whoever watches: a voice, a yes, and eyes for a run."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from nixkube_deploy.model.event import Record
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ports.sink import Sink


class Console(Protocol):
    """The person or program at the other end."""

    def say(self, line: str) -> None:
        """One line of progress outside a run."""
        ...

    def approve(self, plan: Plan) -> bool:
        """Show the plan and ask whether to go on."""
        ...

    def watch(self, plan: Plan, run: RunId, past: Iterable[Record]) -> AbstractAsyncContextManager[tuple[Sink, ...]]:
        """Eyes for one run; drawing starts with the block and is finished with it.

        ``past`` is what an earlier controller did of it: known, but not told again.
        """
        ...
