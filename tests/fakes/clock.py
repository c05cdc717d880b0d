"""Clocks for tests: one that a test moves by hand, one that follows the event loop's (virtual) time."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio

EPOCH = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
"""A Monday, three in the morning."""


@dataclass(slots=True)
class ManualClock:
    """Stands still until ``advance``."""

    seconds: float = 0.0
    start: datetime = EPOCH

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, "time never goes back"
        self.seconds += seconds


@dataclass(slots=True)
class LoopClock:
    """Follows the running event loop, so that trio's MockClock moves the time of day too."""

    start: datetime = EPOCH

    def now(self) -> datetime:
        return self.start + timedelta(seconds=anyio.current_time())

    def monotonic(self) -> float:
        return anyio.current_time()
