"""What a running ``nix build`` has said so far, folded from its lines: how far it is, and why derivations failed.

Pure: it is told the time, prints nothing, and its memory is bounded whatever builders print.
"""

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from nixkube_deploy.backends.nix.building.internal_json import (
    Activity,
    Plain,
    Report,
    Reported,
    Said,
    Started,
    Stopped,
    read,
)

LOG_LINES: Final = 20
"""Last lines kept of each derivation's log."""

_LONGEST: Final = 500
_LOGS: Final = 300
"""Derivations whose last lines are kept."""
_SAID: Final = 400
_ACTIVITIES: Final = 10_000
"""More at once is no build, but somebody who wants our memory."""
_WARNING: Final = 1
_COUNTS: Final = 4
_NO_DATA: Final = (".narinfo", "/nix-cache-info", ".ls")
_TRAVELS: Final = re.compile(r"(copying|waiting for) ")
_NAMELESS: Final = re.compile(r"^(error:\s*)(?=timed out after )")
"""What 2.34 says of a build that took too long: not which. It is the one whose activity has just ended."""


@dataclass(slots=True, kw_only=True)
class Building:
    """One derivation being built right now."""

    drv: str
    machine: str
    since: float
    phase: str = ""

    @property
    def name(self) -> str:
        """``linux-6.12.8``."""
        return derivation_name(self.drv)


@dataclass(slots=True, kw_only=True)
class Counts:
    """How many there are, as Nix counts them now: it expects more as it finds them, less where a way is barred."""

    done: int = 0
    total: int = 0
    failed: int = 0

    def take(self, numbers: tuple[int, ...]) -> None:
        """Done, expected, running and failed, from one report. What failed is no longer expected then."""
        if len(numbers) == _COUNTS:
            self.done, expected, _, self.failed = numbers
            self.total = expected + self.failed


@dataclass(slots=True)
class BuildLog:
    """The fold. Feed it lines with ``hear``; everything else is what came of them."""

    building: dict[int, Building] = field(default_factory=dict)
    builds: Counts = field(default_factory=Counts)
    paths: Counts = field(default_factory=Counts)
    """Paths fetched from substituters."""
    travelling: dict[int, str] = field(default_factory=dict)
    """What goes to or comes from remote builders right now, in Nix's words."""
    _ended: str = ""
    """The derivation whose building was the last to end."""
    _kinds: dict[int, int] = field(default_factory=dict)
    _moving: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Bytes of transfers that run: activity to its kind and what it moved."""
    _moved: dict[int, int] = field(default_factory=dict)
    """Bytes of transfers that ended, by kind."""
    _expected: dict[int, int] = field(default_factory=dict)
    _logs: dict[str, deque[str]] = field(default_factory=dict)
    _said: deque[str] = field(default_factory=lambda: deque(maxlen=_SAID))

    def hear(self, line: str, now: float) -> None:
        """Take the next line of standard error."""
        match read(line):
            case Started() as started:
                self._start(started, now)
            case Stopped(id=id):
                self._stop(id)
            case Reported() as reported:
                self._report(reported)
            case Said(level=level, text=text) if level <= _WARNING:
                whose = _NAMELESS.sub(lambda found: f"{found[1]}building of '{self._ended}' ", text)
                self._said.extend(each[:_LONGEST] for each in (whose if self._ended else text).splitlines())
            case Plain(text=text):
                self._said.append(text[:_LONGEST])
            case _:
                pass

    @property
    def text(self) -> str:
        """Errors, warnings and lines that are not Nix's, as a person would have seen them without JSON."""
        return "".join(f"{line}\n" for line in self._said)

    @property
    def logs(self) -> Mapping[str, tuple[str, ...]]:
        """The last lines each derivation printed."""
        return {drv: tuple(lines) for drv, lines in self._logs.items()}

    @property
    def fetched(self) -> tuple[int, int]:
        """Bytes fetched and bytes to fetch: as they travel, where that is known, else unpacked."""
        kind = Activity.FILE_TRANSFER if self._expected.get(Activity.FILE_TRANSFER) else Activity.COPY_PATH
        running = sum(moved for of, moved in self._moving.values() if of == kind)
        total = self._expected.get(kind, 0)
        return min(self._moved.get(kind, 0) + running, total), total

    def _start(self, started: Started, now: float) -> None:
        if len(self._kinds) >= _ACTIVITIES:
            return
        kind = started.kind
        match kind:
            case Activity.BUILD:
                self.building[started.id] = Building(drv=started.word(0), machine=started.word(1), since=now)
            case Activity.FILE_TRANSFER if started.word(0).endswith(_NO_DATA):
                kind = Activity.OTHER
            case Activity.COPY_PATHS if started.text:  # To or from a builder; the fetching as a whole has no name.
                kind = Activity.OTHER
            case Activity.OTHER if _TRAVELS.match(started.text):
                self.travelling[started.id] = started.text[:_LONGEST]
            case _:
                pass
        self._kinds[started.id] = kind

    def _stop(self, id: int) -> None:  # noqa: A002 (Nix's word)
        self._kinds.pop(id, None)
        if ended := self.building.pop(id, None):
            self._ended = ended.drv
        self.travelling.pop(id, None)
        kind, moved = self._moving.pop(id, (Activity.OTHER, 0))
        self._moved[kind] = self._moved.get(kind, 0) + moved

    def _report(self, reported: Reported) -> None:
        kind = self._kinds.get(reported.id)
        building = self.building.get(reported.id)
        match reported.kind:
            case Report.LOG_LINE if building is not None:
                self._log(building.drv, reported.text)
            case Report.PHASE if building is not None:
                building.phase = reported.text[:40]
            case Report.PROGRESS if kind == Activity.BUILDS:
                self.builds.take(reported.numbers)
            case Report.PROGRESS if kind == Activity.COPY_PATHS:
                self.paths.take(reported.numbers)
            case Report.PROGRESS if kind in (Activity.COPY_PATH, Activity.FILE_TRANSFER) and reported.numbers:
                assert kind is not None
                self._moving[reported.id] = kind, reported.numbers[0]
            case Report.EXPECTED if kind == Activity.REALISE:
                self._expect(reported.numbers)
            case _:
                pass

    def _log(self, drv: str, line: str) -> None:
        lines = self._logs.pop(drv, None) or deque(maxlen=LOG_LINES)
        self._logs[drv] = lines  # The last to speak is the last in the dict: the longest silent is dropped first.
        lines.append(line[:_LONGEST])
        while len(self._logs) > _LOGS:
            del self._logs[next(iter(self._logs))]

    def _expect(self, numbers: tuple[int, ...]) -> None:
        match numbers:
            case (kind, expected) if kind in (Activity.COPY_PATH, Activity.FILE_TRANSFER):
                self._expected[kind] = max(self._expected.get(kind, 0), expected)
            case _:
                pass


def derivation_name(drv: str) -> str:
    """``/nix/store/…-linux-6.12.8.drv`` is ``linux-6.12.8``."""
    return drv.rpartition("/")[2].partition("-")[2].removesuffix(".drv") or drv
