"""Times as people read them. It deliberately knows no clock."""

from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_FINE = 10.0


def duration(seconds: float) -> str:
    """``0.4s``, ``12s``, ``3m04s``, ``1h02m``, ``2d03h``."""
    seconds = max(0.0, seconds)
    if seconds < _FINE - 0.05:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def age(seconds: float) -> str:
    """The same in whole seconds, for what is redrawn."""
    return f"{int(max(0.0, seconds))}s" if seconds < _FINE else duration(seconds)


def elapsed(seconds: float) -> str:
    """A running clock, ``00:07``, ``12:30``, ``1:02:03``."""
    whole = int(max(0.0, seconds))
    hours, rest = divmod(whole, _HOUR)
    tail = f"{rest // _MINUTE:02}:{rest % _MINUTE:02}"
    return f"{hours}:{tail}" if hours else tail


def iso(at: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day_and_time(at: float) -> str:
    """``2026-11-22 20:49`` in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
