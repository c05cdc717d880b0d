"""Text from elsewhere, made safe to put on a terminal or into a CI log.

Threat model: anything a host, a builder, an API server or a flake prints may be written by an attacker, or by a program
that believes it owns the terminal. Unfiltered it could move the cursor and forge our own lines, set the clipboard or
the window title, make the terminal answer as if the operator had typed, hide text by direction overrides or zero-width
characters, flood the screen, or give orders to the CI system that reads our output (``::add-mask::``, ``##vso[...]``).
What leaves this module is one line of printable characters of bounded length, without any of those.

It deliberately does not judge meaning, and keeps every script people write in: only control and format characters go.
"""

import re
import unicodedata
from collections.abc import Iterable

MAX_LENGTH = 2000
"""Characters of one line; what is longer is cut and says so."""

TAB = 4
"""Columns a tab becomes, without regard to where it stands."""

_MAX_MARKS = 2
"""Combining marks in a row; more would climb into the lines above and below."""

_SEQUENCES = re.compile(
    r"""
    (?:\x1b[PX^_\]]|[\x90\x98\x9d\x9e\x9f])     # a string: DCS, SOS, OSC, PM, APC
        [^\x07\x1b\x9c\n\r]*                      # its content, never beyond the line
        (?:\x07|\x1b\\|\x9c)?
    | (?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?          # CSI: cursor, colours, modes
    | \x1b[ -/]*[0-~]?                            # everything else that begins with ESC
    """,
    re.VERBOSE,
)
_DROPPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MARKS = frozenset({"Mn", "Me"})
_CI_LINE = re.compile(r"^(\s*):(:[A-Za-z-]+)")
_CI_ANYWHERE = re.compile(r"##(?=vso\[|\[|teamcity\[)", re.IGNORECASE)
_PLAIN = re.compile(r"[ -\"$-9;-~]*")
"""Printable ASCII without ``#`` and ``:`` needs no further look."""


def clean(text: str, limit: int = MAX_LENGTH) -> str:
    """One safe line: line breaks become blanks, tabs become four, the rest of what is unsafe is gone."""
    if len(text) <= limit and _PLAIN.fullmatch(text):
        return text
    # A bound on the work, before the bound on the result.
    text = _SEQUENCES.sub("", text[: limit * 8])
    text = text.replace("\t", " " * TAB).replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
    text = _without_orders(_printable(text))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def clean_lines(lines: Iterable[str], limit: int = MAX_LENGTH) -> tuple[str, ...]:
    """Each line safe; a line that holds line breaks becomes several."""
    return tuple(clean(part, limit) for line in lines for part in re.split(r"\r\n|\n|\r", line))


def _printable(text: str) -> str:
    kept: list[str] = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        if category in _DROPPED:
            continue
        marks = marks + 1 if category in _MARKS else 0
        if marks <= _MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def _without_orders(text: str) -> str:
    """Workflow commands lose the shape a CI runner looks for, but stay readable."""
    return _CI_ANYWHERE.sub("# #", _CI_LINE.sub(r"\1: \2", text))
