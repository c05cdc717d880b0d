"""The real clocks and run ids. The one place where the product reads the time of day."""

import random
import time
from datetime import UTC, datetime

from nixkube_deploy.model.names import RunId


class SystemClock:
    """``ports.clock.Clock`` on this machine."""

    def now(self) -> datetime:
        """The time of day in UTC."""
        return datetime.now(UTC)  # noqa: TID251 (this is the clock the rule points to)

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()


def new_run_id(at: datetime, chance: random.Random) -> RunId:
    """A fresh run id; sorts by time, unique enough within a second."""
    return RunId(f"{at:%Y%m%dT%H%M%SZ}-{chance.randrange(16**4):04x}")
