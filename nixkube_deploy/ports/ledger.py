"""Where events become durable."""

from typing import Protocol

from nixkube_deploy.model.event import Event, Record


class Ledger(Protocol):
    """An append-only record of one run."""

    @property
    def past(self) -> tuple[Record, ...]:
        """What was on disk when the ledger was opened."""
        ...

    def append(self, event: Event) -> Record:
        """Make one event durable before returning. Synchronous on purpose: cancellation cannot fall between."""
        ...
