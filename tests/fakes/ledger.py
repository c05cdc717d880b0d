"""A Ledger in memory; it keeps nothing when the process ends, and may be told to break."""

from collections.abc import Iterable

from nixkube_deploy.model.event import Event, Record
from nixkube_deploy.ports.clock import Clock
from tests.fakes.clock import ManualClock


class MemoryLedger:
    """Numbers and stamps events as the journal does. ``full_after`` records, appending fails as a full disk does."""

    def __init__(self, past: Iterable[Record] = (), *, clock: Clock | None = None, full_after: int | None = None):
        self.past: tuple[Record, ...] = tuple(past)
        self.records: list[Record] = list(self.past)
        self.full_after = full_after
        self._clock = clock or ManualClock()

    def append(self, event: Event) -> Record:
        if self.full_after is not None and len(self.records) >= self.full_after:
            raise OSError(28, "No space left on device")
        record = Record(seq=len(self.records), at=self._clock.now().timestamp(), event=event)
        self.records.append(record)
        return record

    @property
    def events(self) -> list[Event]:
        return [record.event for record in self.records]

    @property
    def new(self) -> list[Event]:
        """What this controller appended."""
        return self.events[len(self.past) :]
