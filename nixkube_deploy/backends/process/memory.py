"""How much memory a program on the controller has: read from /proc, as often as it could matter.

It ends nothing. Where there is no /proc nothing is seen, and nothing outgrows its limit.
"""

import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_FASTEST_GROWTH: Final = 2 * 1024**3
"""Bytes a second. No program fills memory faster, so the next look can wait for as long as it would need."""
_SHORTEST: Final = 0.005
_LONGEST: Final = 0.25
_SESSION: Final = 3
"""The field of /proc/PID/stat after the program's name."""


class MemoryWatch:
    """The resident memory of one session of processes against a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.peak: int | None = None
        self.outgrown = False
        self._members: tuple[str, ...] = ()
        self._look_around = 0.0

    def look(self, session: int) -> float | None:
        """Look once; seconds until the next look, None when there is none: it is gone, or has outgrown its limit."""
        if self._look_around <= 0:
            self._members, self._look_around = _members(session), _LONGEST
        used = sum(map(_resident, self._members))
        if not used:
            return None
        self.peak = max(self.peak or 0, used)
        if used > self._limit:
            self.outgrown = True
            return None
        pause = min(max((self._limit - used) / _FASTEST_GROWTH, _SHORTEST), _LONGEST)
        self._look_around -= pause
        return pause


def _members(session: int) -> tuple[str, ...]:
    """Every process of the session; the program itself is one, and what it started is unless it left."""
    try:
        found = [entry.name for entry in os.scandir(_PROC) if entry.name.isdigit()]
    except OSError:
        return ()
    return tuple(pid for pid in found if _session(pid) == session)


def _session(pid: str) -> int | None:
    try:
        fields = (_PROC / pid / "stat").read_bytes().rpartition(b")")[2].split()  # A name may be any bytes.
    except OSError:
        return None
    return int(fields[_SESSION])


def _resident(pid: str) -> int:
    try:
        return int((_PROC / pid / "statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0
