"""How far a build is, in one line for people, said often enough and no more often than that.

It knows no process and no host: it is fed lines, and speaks through ``on_line``.
"""

from collections.abc import Awaitable
from dataclasses import replace
from typing import Final

import anyio

from nixkube_deploy.backends.nix.building.log import Building, BuildLog
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.size import size_text
from nixkube_deploy.ports.shell import CommandResult, OnLine

TICK: Final = 0.5
"""Seconds between two looks; nothing is said more often."""

SLOWEST: Final = 10.0
"""Seconds between two lines of a build that takes long: news is rarer news the longer it goes on."""

HEARTBEAT: Final = 30.0
"""Seconds without news after which what runs is said again."""

_SHARE: Final = 20
_SHOWN: Final = 3
_SHORT: Final = 5.0
_MINUTE: Final = 60


def in_words(log: BuildLog, now: float | None = None) -> str:
    """What is going on; empty when nothing is. Without ``now`` no durations: equal texts mean that nothing moved."""
    return "; ".join(part for part in (_building(log, now), *_travelling(log), _fetched(log)) if part)


def tally(log: BuildLog) -> str:
    """What came of it; empty when nothing was to be done."""
    _, total = log.fetched
    parts = (
        f"built {counted(log.builds.done, 'derivation')}" if log.builds.done else "",
        f"fetched {counted(log.paths.done, 'path')}" + (f" ({size_text(total)})" if total else "")
        if log.paths.done
        else "",
        f"{log.builds.failed} failed" if log.builds.failed else "",
    )
    return ", ".join(part for part in parts if part)


def counted(number: int, noun: str) -> str:
    """``1 path``, ``2 paths``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _building(log: BuildLog, now: float | None) -> str:
    builds, running = log.builds, sorted(log.building.values(), key=lambda one: one.since)
    if not running:
        return ""
    shown = ", ".join(_one(one, now) for one in running[:_SHOWN])
    more = f" and {len(running) - _SHOWN} more" if len(running) > _SHOWN else ""
    total = max(builds.total, builds.done + len(running))
    counts = [f"{builds.done} done"] if builds.done else []
    counts += [f"{builds.failed} failed"] if builds.failed else []
    return "; ".join([f"building {len(running)} of {total}: {shown}{more}", *counts])


def _one(building: Building, now: float | None) -> str:
    waited = 0.0 if now is None else now - building.since
    remarks = (building.phase, _duration(waited) if waited >= _SHORT else "")
    in_brackets = ", ".join(remark for remark in remarks if remark)
    on = f" on {building.machine.rpartition('@')[2].removeprefix('ssh://')}" if building.machine else ""
    return f"{building.name}{on}" + (f" ({in_brackets})" if in_brackets else "")


def _travelling(log: BuildLog) -> list[str]:
    return list(dict.fromkeys(log.travelling.values()))[:1]


def _fetched(log: BuildLog) -> str:
    done, total = log.fetched
    if not log.paths.total or log.paths.done >= log.paths.total:
        return ""
    size = f", {size_text(done)} of {size_text(total)}" if total else ""
    return f"fetched {log.paths.done} of {counted(log.paths.total, 'path')}{size}"


def _duration(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    minutes = int(seconds // _MINUTE)
    return f"{minutes} min" if minutes < 2 * _MINUTE else f"{minutes // _MINUTE} h {minutes % _MINUTE} min"


def _last_words(stderr: str, heard: str) -> str:
    """What was added once Nix had ended, about how it ended."""
    last = stderr.rstrip("\n").rpartition("\n")[2]
    return "" if not last or last.startswith("@nix") or last in heard else f"{last}\n"


class Follower:
    """Hears what Nix says and tells people, in its own time, how far it is."""

    def __init__(self, on_line: OnLine | None, label: str = "") -> None:
        self.log = BuildLog()
        self._on_line = on_line or (lambda _line: None)
        self._label = f"{label}: " if label else ""
        self._said = ""
        """The last line without its durations."""

    def hear(self, line: str) -> None:
        """``on_line`` for whoever runs Nix."""
        self.log.hear(line, anyio.current_time())

    async def during(self, work: Awaitable[CommandResult]) -> CommandResult:
        """Say how far it is for as long as Nix works, and then what came of it.

        In the result's standard error there are the lines a person would have seen, not JSON.
        """
        result, failed = None, None
        async with anyio.create_task_group() as group:
            group.start_soon(self._speak)
            try:
                result = await work
            except TaskError as error:
                failed = error  # Out of the group as it is, not as a group of one.
            group.cancel_scope.cancel()
        if end := tally(self.log):
            self._say(end)
        if failed is not None:
            raise failed
        assert result is not None
        return replace(result, stderr=self.log.text + _last_words(result.stderr, self.log.text))

    async def _speak(self) -> None:
        started = last = anyio.current_time()
        while True:
            await anyio.sleep(TICK)
            now = anyio.current_time()
            news = in_words(self.log)
            pace = min(max(TICK, (now - started) / _SHARE), SLOWEST) if news != self._said else HEARTBEAT
            if now - last >= pace and (news or pace == HEARTBEAT):
                self._said, last = news, now
                self._say(in_words(self.log, now) or f"nothing to report for {_duration(now - started)}")

    def _say(self, line: str) -> None:
        self._on_line(self._label + line)
