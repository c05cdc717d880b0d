"""What a wrong inventory is answered with: where, the line with a caret, what was expected, what was likely meant.

It only words errors; finding them is everybody else's work.
"""

import difflib
from collections.abc import Iterable

from nixkube_deploy.model.error import UsageError

LONGEST_QUOTE = 48
_LONGEST_GUESS = 64


class InventoryError(UsageError):
    """The inventory is wrong. ``problem`` is one sentence, ``message`` is that sentence with its place and line."""

    def __init__(self, problem: str, *, where: str = "", snippet: str = "", hint: str = "") -> None:
        self.problem = problem
        self.where = where
        self.snippet = snippet
        head = f"{where}: {problem}" if where else problem
        super().__init__(f"{head}\n{snippet}" if snippet else head, hint=hint)


def quote(text: str) -> str:
    """Text from the inventory as a message may show it: in backticks, short, and without control characters."""
    short = text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 1] + "…"
    return f"`{printable(short)}`"


def printable(text: str) -> str:
    """The text with everything invisible made visible; a terminal must not obey an inventory."""
    return "".join("→" if c == "\t" else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` was likely meant to be."""
    if len(word) > _LONGEST_GUESS:
        return None
    names = list(known)
    folded = {name.lower().replace("-", "_"): name for name in names}
    if (same := folded.get(word.lower().replace("-", "_"))) is not None:
        return same
    return next(iter(difflib.get_close_matches(word, names, n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean `x`?``, or nothing."""
    guess = closest(word, known)
    return f"did you mean {quote(guess)}?" if guess is not None else ""


def listing(words: Iterable[str], most: int = 12) -> str:
    """``a, b, c``, cut where nobody would read on."""
    names = list(words)
    shown = ", ".join(printable(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
