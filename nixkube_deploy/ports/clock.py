"""Time is passed in."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one for stamps and windows, one for durations."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...
