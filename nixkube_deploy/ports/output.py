"""What Shell and Processes promise about output, in code: bounded, decoded, and harmless to a terminal.

It judges no content: which lines matter is the caller's business.
"""

import codecs
import re
import unicodedata
from collections import deque
from collections.abc import Callable
from typing import Final

TAIL: Final = 64 * 1024
"""Bytes kept of each stream unless said otherwise."""

LONGEST_LINE: Final = 4096
"""Characters of one line that are handed on; the rest of the line is dropped, and a ``…`` says so."""

_CHUNKS: Final = 1024

_SEQUENCE = re.compile(
    r"(?:\x1b[\]P^_X]|[\x90\x98\x9d\x9e\x9f])[^\n]*?(?:\x07|\x1b\\|\x9c|(?=\n)|\Z)"  # strings: OSC, DCS, PM, APC, SOS
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*(?:[@-~]|(?=[^ -~])|\Z)"  # CSI, also when cut off
    r"|\x1b[ -/]*(?:[0-~]|(?=[^ -~])|\Z)"  # two- and three-character escapes
)
_HARMFUL: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, invisible formatting (bidi overrides, zero-width), surrogates, Unicode line breaks."""


def harmless(text: str) -> str:
    """Text of a hostile host, fit for a terminal, a log and ``splitlines``; newlines and tabs stay.

    A terminal would show only what was written last after a carriage return, so only that is kept: progress bars
    do not pile up, and nothing can hide a line by overwriting it.
    """
    return "\n".join(_harmless_line(line) for line in _SEQUENCE.sub("", text).split("\n"))


def _harmless_line(line: str) -> str:
    if line.isprintable():
        return line
    shown = next((part for part in reversed(line.split("\r")) if part), "")
    return "".join(c for c in shown if c == "\t" or unicodedata.category(c) not in _HARMFUL)


class Tail:
    """The last ``limit`` bytes of a stream, whatever its length; memory stays below twice that."""

    def __init__(self, limit: int = TAIL) -> None:
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._kept = 0
        self.seen = 0
        """Bytes that went by."""

    @property
    def truncated(self) -> bool:
        """Whether anything is missing."""
        return self.seen > self._limit

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.seen += len(data)
        self._chunks.append(data[-self._limit :])
        self._kept += len(self._chunks[-1])
        while self._kept - len(self._chunks[0]) >= self._limit:
            self._kept -= len(self._chunks.popleft())
        if len(self._chunks) > _CHUNKS:  # Tiny writes cost objects, not bytes.
            self._chunks = deque([b"".join(self._chunks)[-self._limit :]])
            self._kept = len(self._chunks[0])

    def text(self) -> str:
        """What was kept, harmless. After a cut it begins with a whole line where there is one."""
        data = b"".join(self._chunks)[-self._limit :]
        if self.truncated:
            newline = data.find(b"\n")
            data = data[newline + 1 :] if 0 <= newline < len(data) - 1 else data
        return harmless(data.decode("utf-8", "replace"))


class Lines:
    """Cuts a stream into harmless lines and hands each on as it ends."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> None:
        """Take the next bytes; calls ``on_line`` for every line that is now complete."""
        *whole, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        for line in whole:
            self._hand_on(line)
        if len(self._rest) > 2 * LONGEST_LINE and "\r" in self._rest:
            self._rest = self._rest[self._rest.rindex("\r") :]  # A progress bar: what was overwritten is gone.
        if len(self._rest) > 2 * LONGEST_LINE:
            self._rest = self._rest[: LONGEST_LINE + 1]

    def end(self) -> None:
        """The stream ended; a last line without a newline counts."""
        self._rest += self._decoder.decode(b"", final=True)
        if self._rest:
            self._hand_on(self._rest)
        self._rest = ""

    def _hand_on(self, line: str) -> None:
        line = harmless(line)
        self._on_line(line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "…")
