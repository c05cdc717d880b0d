"""An inventory's text: read with limits, and quoted line by line in errors.

It knows nothing of YAML; it only guarantees text that is small enough, UTF-8 and free of control characters.
"""

import codecs
import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nixkube_deploy.inventory.error import InventoryError, printable

LARGEST = 10 * 1024 * 1024
"""Bytes. A fleet of 10,000 hosts takes about 1.5 MiB."""

_WIDTH = 100
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_SECRET = re.compile(
    r"""(?ix) (?: passw | passphrase | secret | token | credential ) [\w.-]{0,64} ["']? \s{0,8} :
    \s* (?! \{ \s* ["']? (?: env | file | command ) \b ) (?P<value> \S.* )"""
)


class Mark(NamedTuple):
    """A place in the text, counted from 0, and how many columns it spans."""

    line: int
    column: int
    length: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One inventory's text and where it came from."""

    name: str
    """As messages show it."""
    text: str
    base: Path
    """The folder that relative paths start from."""
    digest: str = ""
    """SHA-256 of what was read."""
    note: str = ""
    """Said under every error, when the text shown is not literally what a person wrote."""

    def where(self, mark: Mark) -> str:
        """``file:line:column``, as editors and terminals link it."""
        return f"{self.name}:{mark.line + 1}:{mark.column + 1}"

    def snippet(self, mark: Mark, *, conceal: bool = False) -> str:
        """The line with a caret under the place. What may be a secret is asterisks; ``conceal`` makes it so."""
        line = self.line(mark.line)
        if conceal:
            line = line[: mark.column] + "*" * len(line[mark.column :])
        elif found := _SECRET.search(line):
            line = line[: found.start("value")] + "*" * len(found["value"])
        begin = max(0, mark.column - _WIDTH * 2 // 3) if len(line) > _WIDTH else 0
        shown = line[begin : begin + _WIDTH]
        column = mark.column - begin
        length = max(1, min(mark.length, len(shown) - column))
        number = str(mark.line + 1)
        pad = " " * _columns(shown[:column])
        caret = "^" * max(1, _columns(shown[column : column + length]))
        return f"  {number} | {printable(shown).rstrip()}\n  {' ' * len(number)} | {pad}{caret}"

    def error(self, mark: Mark, problem: str, *, hint: str = "", conceal: bool = False) -> InventoryError:
        """An error about one place."""
        snippet = self.snippet(mark, conceal=conceal)
        if self.note:
            snippet += f"\n  ({self.note})"
        return InventoryError(problem, where=self.where(mark), snippet=snippet, hint=hint)

    def line(self, number: int) -> str:
        """One line of the text, counted from 0, without its end."""
        start = 0
        for count, found in enumerate(_BREAK.finditer(self.text)):
            if count == number:
                return self.text[start : found.start()]
            start = found.end()
        return self.text[start:]


def source_of_text(text: str, name: str, base: Path, *, note: str = "", largest: int = LARGEST) -> Source:
    """A source from text that is already at hand.

    Raises:
        InventoryError: too large, or characters that no inventory has.
    """
    data = text.encode(errors="surrogatepass")
    _reject_large(len(data), name, largest)
    source = Source(name=name, text=text, base=base, digest=hashlib.sha256(data).hexdigest(), note=note)
    if found := _FORBIDDEN.search(text):
        mark = _mark_of(text, found.start())
        code = f"U+{ord(found.group()):04X}"
        raise source.error(
            mark, f"the character {code} does not belong in an inventory", hint="is this a text file? remove it"
        )
    return source


def source_of_bytes(data: bytes, name: str, base: Path) -> Source:
    """A source from a file's bytes, which must be UTF-8.

    Raises:
        InventoryError: too large, not UTF-8, or characters that no inventory has.
    """
    _reject_large(len(data), name, LARGEST)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InventoryError("the file is UTF-16; an inventory is UTF-8", where=name, hint="save it as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        good = data[: error.start].decode()
        mark = _mark_of(good, len(good))
        source = Source(name=name, text=data.decode(errors="replace"), base=base)
        raise source.error(
            mark, f"byte 0x{data[error.start]:02x} is not UTF-8; an inventory is UTF-8 text", hint="save it as UTF-8"
        ) from None
    return source_of_text(text, name, base)


def _reject_large(size: int, name: str, largest: int) -> None:
    if size > largest:
        raise InventoryError(
            f"the inventory is larger than {largest // 1024**2} MiB",
            where=name,
            hint="is this the right file? an inventory of 10,000 hosts takes about 1.5 MiB",
        )


def _mark_of(text: str, offset: int) -> Mark:
    line, start = 0, 0
    for found in _BREAK.finditer(text, 0, offset):
        line, start = line + 1, found.end()
    return Mark(line, offset - start)


def _columns(text: str) -> int:
    """How many terminal columns the text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
