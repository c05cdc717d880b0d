"""Colours for a plan in words, line by line; without them the very same words are there.

It deliberately knows only how the lines begin and end: what they say is the plan's business.
"""

import re

from rich.text import Text

_HEADS = {
    "install": "bold magenta",
    "reboot": "bold red",
    "node-restart": "bold yellow",
    "live": "bold green",
    "unchanged": "dim",
    "skipped": "dim",
    "cannot be planned": "bold red",
}
_TITLES = frozenset({"Order", "Packages", "Budgets", "Notes"})
_HEAD = re.compile(rf"({'|'.join(_HEADS)})(?=: )")
_WHOLE = (
    (re.compile(r" +risk: "), "yellow"),
    (re.compile(r" +(steps|on failure|rebuilt, same version): "), "dim"),
    (re.compile(r" +next: "), "cyan"),
)
_PARTS = (
    (r"(?<=\s)\+[0-9.]+ [KMGT]?i?B$", "yellow"),
    (r"(?<=\s)-[0-9.]+ [KMGT]?i?B$", "green"),
    (r"(?<=  )added(?=\s|$)", "green"),
    (r"(?<=  )removed(?=\s|$)", "red"),
    (r" -> ", "dim"),
    (r"will travel: .*", "bold"),
)


def painted(line: str) -> Text:
    """One line of a plan, with its colours."""
    text = Text(line)
    if line in _TITLES:
        text.stylize("bold")
    elif match := _HEAD.match(line):
        text.stylize(_HEADS[match[1]], 0, match.end())
    elif style := next((style for start, style in _WHOLE if start.match(line)), None):
        text.stylize(style)
    else:
        for part, style in _PARTS:
            text.highlight_regex(part, style)
    return text
