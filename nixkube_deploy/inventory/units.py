"""Values that carry units: durations, shares of a group, sizes, times of day, time zones.

A bare number is never a duration or a size: ``soak: 60`` is an error, ``soak: 60s`` is not. It reads no field by name.
"""

import re
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nixkube_deploy.inventory.error import did_you_mean, quote
from nixkube_deploy.inventory.sections import Located
from nixkube_deploy.inventory.shape import At, Schema, Shape, Text, Unfit
from nixkube_deploy.inventory.tree import Node, Scalar
from nixkube_deploy.model.strategy import Limit

_DURATION = r"^(?=[0-9])([0-9]{1,4}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,8}(\.[0-9]{1,3})?s)?([0-9]{1,8}ms)?$"
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_LOOSE_DURATION = re.compile(
    r"\s*([0-9]+)\s*(?:(ms|millis\w*)|(s|sec\w*)?|(m|min\w*)|(h|hr|hrs|hour\w*)|(d|day\w*))\s*", re.IGNORECASE
)
_YEAR = 366 * 86400.0

_ALL = 100
"""Percent."""

_SIZE = r"^[0-9]{1,12}(\.[0-9]{1,3})?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)$"
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse_duration(text: str) -> float:
    """Seconds in ``1h30m``, ``30s``, ``250ms``, ``1.5s``.

    Raises:
        Unfit: the text is no duration.
    """
    if not re.fullmatch(_DURATION, text):
        raise Unfit("not a duration such as 30s, 5m or 1h30m", hint="a number and a unit: ms, s, m, h or d")
    parts = re.findall(r"([0-9.]+)(ms|d|h|m|s)", text)
    return round(sum(float(number) * _SECONDS[unit] for number, unit in parts), 3)


def show_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` reads as ``seconds`` (to the millisecond)."""
    left = round(seconds * 1000)
    if left <= 0:
        return "0s"
    text = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        text += f"{count}{unit}" if count else ""
    return text


def parse_size(text: str) -> int:
    """Bytes in ``2GiB``, ``1.5TB``, ``512B``.

    Raises:
        Unfit: the text is no size.
    """
    if not re.fullmatch(_SIZE, text):
        raise Unfit(
            "not a size such as 2GiB or 500MB", hint="a number and a unit: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"
        )
    number, unit = re.findall(r"([0-9.]+)(\w+)", text)[0]
    return round(float(number) * _BYTES[unit])


def show_size(size: int) -> str:
    """The size in the largest binary unit that keeps it whole."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def duration(least: float = 0.0, most: float = _YEAR) -> Text:
    """A duration between two bounds."""

    def convert(text: str, _: Path) -> float:
        seconds = parse_duration(text)
        if not least <= seconds <= most:
            raise Unfit(f"{text} is not between {show_duration(least)} and {show_duration(most)}")
        return seconds

    what = "a duration such as 30s, 5m or 1h30m"
    return Text(what=what, pattern=_DURATION, convert=convert, show=show_duration, suggest=_suggest_duration)


def size() -> Text:
    """A number of bytes."""
    convert: Callable[[str, Path], int] = lambda text, _: parse_size(text)  # noqa: E731 (typed)
    return Text(what="a size such as 2GiB or 500MB", pattern=_SIZE, convert=convert, show=show_size)


def time_of_day() -> Text:
    """Minutes after midnight; ``24:00`` is the end of the day."""

    def convert(text: str, _: Path) -> int:
        hours, minutes = text.split(":")
        return int(hours) * 60 + int(minutes)

    def suggest(text: str) -> str:
        found = re.fullmatch(r"([0-9])[:.]([0-5][0-9])", text)
        return f"0{found[1]}:{found[2]}" if found else ""

    return Text(
        what="a time of day such as 02:00 or 18:30",
        pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
        convert=convert,
        show=lambda minutes: f"{minutes // 60:02}:{minutes % 60:02}",
        suggest=suggest,
    )


def time_zone() -> Text:
    """A name of the IANA time zone database."""
    return Text(what="a time zone such as Europe/Zurich or UTC", pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$", convert=_zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimit(Shape):
    """A number of hosts, or a percentage of them."""

    least: int = 0
    """0 or 1, for both."""

    def _read(self, node: Node, at: At) -> Located:
        what = f"a number of hosts from {self.least} or a percentage such as 25%"
        if not isinstance(node, Scalar):
            raise at.misfit(node, what)
        found = re.fullmatch(r"(0|[1-9][0-9]{0,5})(%?)", node.text)
        if found and not node.plain and not found[2]:
            raise at.misfit(node, what, hint="a number is written without quotes")
        if not found or int(found[1]) < self.least or (found[2] and int(found[1]) > _ALL):
            raise at.misfit(node, what, hint=_suggest_limit(node.text))
        return Located(Limit(int(found[1]), percent=bool(found[2])), node.mark)

    def _schema(self, _defs: dict[str, Schema]) -> Schema:
        percent = "^([1-9][0-9]?|100)%$" if self.least else "^([0-9]|[1-9][0-9]|100)%$"
        number = {"type": "integer", "minimum": self.least, "maximum": 999_999}
        return {"oneOf": [number, {"type": "string", "pattern": percent}]}

    def _plain(self, value: Any) -> Any:
        return str(value) if value.percent else value.value


def _suggest_duration(text: str) -> str:
    found = _LOOSE_DURATION.fullmatch(text)
    if not found:
        return ""
    millis, _, minutes, hours, days = found.groups()[1:]
    unit = "ms" if millis else "m" if minutes else "h" if hours else "d" if days else "s"
    better = f"{found[1]}{unit}"
    return better if re.fullmatch(_DURATION, better) else ""


def _suggest_limit(text: str) -> str:
    if found := re.fullmatch(r"([1-9][0-9]?|100)\s+%", text):
        return f"did you mean {quote(found[1] + '%')}?"
    if found := re.fullmatch(r"0\.([0-9]{1,2})", text):
        return f"did you mean {quote(str(int(found[1].ljust(2, '0'))) + '%')}?"
    return ""


def _zone(text: str, _: Path) -> str:
    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        hint = did_you_mean(text, known) if known else "this machine has no time zone database: install tzdata"
        raise Unfit(f"there is no time zone {quote(text)}", hint=hint) from None
    return text
