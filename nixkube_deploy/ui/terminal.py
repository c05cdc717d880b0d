"""What kind of terminal we talk to, if it is one: width, colour, whether pictures can be redrawn.

It deliberately asks only the stream and the environment it is given.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.text import Text

DEFAULT_WIDTH = 120
"""Columns of a pipe or a file."""


class _Console(Console):
    """Rich ends the program when its reader goes away; whether that matters is for whoever prints to say."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@dataclass(frozen=True, slots=True)
class Terminal:
    """One output stream, and how to write to it."""

    stream: TextIO
    console: Console
    interactive: bool
    """A terminal that can redraw; a dumb one cannot."""

    @property
    def width(self) -> int:
        """Columns."""
        return self.console.width

    def tell(self, text: str, paint: Callable[[str], Text] = Text) -> None:
        """Print plain text as it is; in a terminal, lines that are too long go on further in, broken between words.

        ``paint`` gives a line its colours, where colours are wanted.
        """
        if self.stream.isatty():
            lines = (part for line in text.split("\n") for part in _folded(line, self.width))
            self.show(Text("\n").join(paint(line) for line in lines))
        else:
            self.stream.write(text + "\n")
            self.stream.flush()

    def wipe(self) -> None:
        """Make room for a new picture where pictures can be redrawn; elsewhere they follow one another."""
        if self.interactive:
            self.console.clear()

    def show(self, text: Text) -> None:
        """Print a text, with colours where they are wanted, never wrapped by us."""
        self.console.print(text, soft_wrap=True)


def _folded(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    wrapped = textwrap.wrap(
        line, width, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False
    )
    return wrapped or [""]


def open_terminal(stream: TextIO, environment: Mapping[str, str]) -> Terminal:
    """Decide once. ``NO_COLOR`` (set and not empty) takes the colours, ``TERM=dumb`` and CI take the redrawing too."""
    is_tty = stream.isatty()
    dumb = environment.get("TERM", "") in {"dumb", "unknown", ""}
    colours = is_tty and not dumb and not environment.get("NO_COLOR")
    console = _Console(
        file=stream,
        force_terminal=is_tty and not dumb,
        no_color=not colours,
        color_system="auto" if colours else None,
        width=None if is_tty else DEFAULT_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
        _environ=dict(environment),
    )
    return Terminal(stream=stream, console=console, interactive=is_tty and not dumb and not environment.get("CI"))
