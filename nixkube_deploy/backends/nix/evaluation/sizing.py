"""How many evaluators run side by side, and how many hosts each takes: by a guess first, then by what was seen.

Pure arithmetic over bytes, but for the one look at this machine.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from nixkube_deploy.model.building import EvaluationSettings

MIB: Final = 1024**2
BASE: Final = 448 * MIB
"""What an evaluator has that knows a nixpkgs and no host. This and the next two are measured, see docs/decisions."""
PER_HOST: Final = 128 * MIB
"""More for every host, where the last one's memory can be used for the next."""
PER_KEPT_HOST: Final = 304 * MIB
"""The same where every host's configuration lives as long as the evaluator."""
FEW: Final = 4
"""Fewer hosts than this for each are not worth a further evaluator."""
_BEST: Final = 3 * 1024 * MIB
"""More in one evaluator only slows it down: what hosts do not share is kept to the end, and searched for garbage."""
_SHARE: Final = (3, 4)
"""Of what is free, when the inventory sets no cap."""
_HEADROOM: Final = 64 * MIB
"""Of a share: what an evaluator can take between being looked at and being gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The controller, as far as evaluators care."""

    processors: int
    free: int
    """Bytes."""


WhatMachine = Callable[[], Machine]


_CONTROL_GROUP: Final = Path("/sys/fs/cgroup")


def this_machine() -> Machine:
    """This one: processors this process may use, memory that is free and that its control group leaves."""
    free = max(0, min(_available(), group_free(_CONTROL_GROUP)))
    return Machine(processors=len(os.sched_getaffinity(0)), free=free)


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 2 * 1024 * MIB


def group_free(group: Path) -> int:
    """What a control group leaves, version 2 only; no limit anywhere is a very large number.

    Files that were read count as used there until somebody needs the room: a build alone can fill a group with them.
    """
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = sum(int(size) for name, size in rows if name in {"active_file", "inactive_file"})
        return int(limit) - max(0, used - cached) if limit != "max" else 1 << 62
    except (OSError, ValueError):
        return 1 << 62


@dataclass(slots=True, kw_only=True)
class Sizes:
    """The cap, who shares it, and what a host is known to take."""

    cap: int
    workers: int
    share: int
    """Bytes for one evaluator; only ever grows."""
    per_host: int
    evaluators: int = 0
    """How many have run."""
    peak: int = 0
    """The most that one of them had."""
    _most: int = 0

    @staticmethod
    def limit_of(share: int) -> int:
        """At how many bytes an evaluator with this share is ended."""
        return share - min(share // 4, max(_HEADROOM, share // 32))

    def chunk(self, left: int, running: int) -> int:
        """How many of the hosts that are left the next evaluator takes: even chunks, none too large for its share."""
        capacity = max(1, (min(self.limit_of(self.share), _BEST) - BASE) // self.per_host)
        rounds = max(1, -(-(left + running) // (self.workers * capacity)))
        return min(left, -(-(left + running) // (self.workers * rounds)))

    def saw(self, peak: int | None, done: int, *, outgrew: bool) -> None:
        """What one evaluator had after so many hosts; where it was ended, it had begun with one more."""
        self.evaluators += 1
        if peak is None:
            return
        self.peak = max(self.peak, peak)
        if done:
            self._most = max(self._most, (peak - BASE) // (done + outgrew), MIB)
            self.per_host = self._most

    def grow(self) -> bool:
        """Larger shares, fewer side by side; False when one evaluator has everything already."""
        if self.share >= self.cap:
            return False
        self.share = min(self.cap, 2 * self.share)
        self.workers = max(1, min(self.workers, self.cap // self.share))
        return True


def sizes(hosts: int, settings: EvaluationSettings, machine: Machine, per_host: int = PER_HOST) -> Sizes:
    """How to begin with so many hosts."""
    numerator, denominator = _SHARE
    cap = settings.max_memory or machine.free * numerator // denominator
    if settings.workers is not None:
        workers = min(settings.workers, max(1, hosts))
    else:
        fitting = max(1, cap // (BASE + per_host))
        workers = max(1, min(machine.processors, hosts // FEW, fitting))
    return Sizes(cap=cap, workers=workers, share=cap // workers, per_host=per_host)


class Room:
    """Bytes to be taken and given back: what runs side by side never has more than the cap together."""

    def __init__(self, cap: int) -> None:
        self._free = cap
        self._changed = anyio.Condition()

    async def take(self, size: int) -> None:
        """Wait until there is room for ``size``."""
        async with self._changed:
            while self._free < size:
                await self._changed.wait()
            self._free -= size

    async def give(self, size: int) -> None:
        """Give it back."""
        async with self._changed:
            self._free += size
            self._changed.notify_all()
