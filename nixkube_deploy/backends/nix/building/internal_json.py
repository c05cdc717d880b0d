"""Lines of Nix's ``--log-format internal-json`` to values. Whatever a line holds, reading it never raises.

It keeps nothing and judges nothing: what the values mean together is ``build_log``'s business.
"""

import json
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from nixkube_deploy.ports.output import harmless

OPTIONS: Final = ("--log-format", "internal-json", "-v")
"""What makes Nix print such lines; every version from 2.8 on knows them, ``nix-store`` too."""

_PREFIX: Final = "@nix "
_LARGEST: Final = 2**63
_CUT_MESSAGE: Final = re.compile(r'\{"action":"msg".*?"level":(\d),.*?"msg":"((?:[^"\\]|\\.)*)')


class Activity(IntEnum):
    """The types of activities that matter here, by Nix's own numbers."""

    OTHER = 0
    COPY_PATH = 100
    FILE_TRANSFER = 101
    REALISE = 102
    COPY_PATHS = 103
    BUILDS = 104
    BUILD = 105


class Report(IntEnum):
    """The types of results that matter here, by Nix's own numbers."""

    LOG_LINE = 101
    PHASE = 104
    PROGRESS = 105
    EXPECTED = 106


Field = str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """An activity began."""

    id: int
    kind: int
    text: str
    fields: tuple[Field, ...]

    def word(self, index: int) -> str:
        """A field that is text; empty when it is not there or is none."""
        value = self.fields[index] if index < len(self.fields) else ""
        return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """An activity ended; how, is not said."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """Something about a running activity."""

    id: int
    kind: int
    fields: tuple[Field, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The fields, if all of them are numbers."""
        numbers = tuple(field for field in self.fields if isinstance(field, int))
        return numbers if len(numbers) == len(self.fields) else ()

    @property
    def text(self) -> str:
        """The first field, if it is text."""
        return next((field for field in self.fields[:1] if isinstance(field, str)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A message, possibly of many lines. ``level`` 0 is an error, 1 a warning, more is talk."""

    level: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A line that is not Nix's: of ssh, of a build hook, or of a Nix that was not asked for JSON."""

    text: str


Line = Started | Stopped | Reported | Said | Plain


def read(line: str) -> Line | None:
    """One line of standard error; None for what is Nix's but says nothing that anybody here understands."""
    if not line.startswith(_PREFIX):
        return Plain(text=line)
    try:
        data = json.loads(line[len(_PREFIX) :])
    except (ValueError, RecursionError):
        return _cut(line) or Plain(text=line)
    if not isinstance(data, dict):
        return Plain(text=line)
    match data.get("action"):
        case "start":
            return Started(id=_id(data), kind=_number(data, "type"), text=_text(data, "text"), fields=_fields(data))
        case "stop":
            return Stopped(id=_id(data))
        case "result":
            return Reported(id=_id(data), kind=_number(data, "type"), fields=_fields(data))
        case "msg":
            return Said(level=_number(data, "level"), text=_text(data, "msg"))
        case _:
            return None


def _cut(line: str) -> Said | None:
    """A message that was too long for one line: its text up to the cut. Of anything else a part is worth nothing."""
    match = _CUT_MESSAGE.search(line)
    if match is None:
        return None
    try:
        return Said(level=int(match[1]), text=harmless(json.loads(f'"{match[2]}"', strict=False)))
    except ValueError:
        return None


def _id(data: dict[str, Any]) -> int:
    return _number(data, "id")


def _number(data: dict[str, Any], key: str) -> int:
    value = data.get(key)
    return value if isinstance(value, int) and 0 <= value < _LARGEST else 0


def _text(data: dict[str, Any], key: str) -> str:
    """JSON hides control sequences from whoever read the line, so the text is made harmless once more."""
    value = data.get(key)
    return harmless(value) if isinstance(value, str) else ""


def _fields(data: dict[str, Any]) -> tuple[Field, ...]:
    value = data.get("fields")
    return tuple(_field(each) for each in value) if isinstance(value, list) else ()


def _field(value: Any) -> Field:
    if isinstance(value, str):
        return harmless(value)
    return value if isinstance(value, int) and 0 <= value < _LARGEST else ""
