"""Where a run's events go after the journal: eyes, files, programs."""

from typing import Protocol

from nixkube_deploy.model.event import Record, TaskReported


class Sink(Protocol):
    """Sees every record, in order, after it is durable. Must not block and must not fail."""

    def saw(self, record: Record) -> None:
        """One journalled event."""
        ...

    def heard(self, report: TaskReported) -> None:
        """One line of progress, not journalled."""
        ...
