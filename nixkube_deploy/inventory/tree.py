"""YAML text to a tree of scalars, lists and mappings that know where they were written.

Built from the parser's events without recursion, so depth, size and alias expansion are bounded while reading. It gives
no scalar a type (``no`` stays the text "no"): what a value means is decided by the shape that reads it.
"""

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import yaml

from nixkube_deploy.inventory.error import InventoryError, quote
from nixkube_deploy.inventory.source import Mark, Source
from nixkube_deploy.inventory.syntax import explain_syntax

MOST_VALUES = 1_000_000
"""Values in one inventory, counting each alias as all it stands for."""
DEEPEST = 32

_PLAIN_KINDS = (
    ("null", re.compile(r"|~|null|Null|NULL")),
    ("boolean", re.compile(r"true|True|TRUE|false|False|FALSE")),
    (
        "number",
        re.compile(
            r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
    ),
)


class Scalar(NamedTuple):
    """A single value. ``plain`` means written without quotes."""

    text: str
    plain: bool
    mark: Mark

    @property
    def kind(self) -> str:
        """``null``, ``boolean``, ``number`` or ``text``, by the YAML 1.2 core schema."""
        if self.plain:
            for kind, pattern in _PLAIN_KINDS:
                if pattern.fullmatch(self.text):
                    return kind
        return "text"

    @property
    def is_null(self) -> bool:
        """Whether nothing was written, or an explicit null."""
        return self.plain and self.kind == "null"


class Items(NamedTuple):
    """A list."""

    items: tuple[Any, ...]
    mark: Mark


class Entry(NamedTuple):
    """One key of a mapping and its value."""

    key: Scalar
    value: Any


class Table(NamedTuple):
    """A mapping; keys are text and each is there once."""

    entries: dict[str, Entry]
    mark: Mark


Node = Scalar | Items | Table


def describe(node: Node) -> str:
    """What a node is, for "must be x, not y"."""
    match node:
        case Items():
            return "a list"
        case Table():
            return "a mapping"
        case Scalar(text=text):
            kind = node.kind
            return "nothing" if kind == "null" else f"the {kind} {quote(text)}"


def compose(source: Source) -> Node:
    """The tree of the one document in ``source``.

    Raises:
        InventoryError: not YAML, or YAML that an inventory may not use (tags, cycles, several documents, ...).
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(source.text)
    composer = _Composer(source)
    try:
        while (event := loader.get_event()) is not None:
            composer.take(event)
    except yaml.YAMLError as error:
        raise explain_syntax(error, source) from error
    finally:
        loader.dispose()
    if composer.root is None or (isinstance(composer.root, Scalar) and composer.root.is_null):
        raise InventoryError(
            "the inventory is empty", where=source.name, hint="inventories/homelab.yaml is one to copy"
        )
    return composer.root


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    mark: Mark
    anchor: str | None
    before: int
    """Values counted before it, so that its own size is known at its end."""
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] | None = None
    key: Scalar | None = None


class _Composer:
    """Takes events one by one."""

    def __init__(self, source: Source) -> None:
        self.root: Node | None = None
        self._source = source
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._values = 0
        self._documents = 0

    def take(self, event: Any) -> None:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self._reject_tag(event)
            node = Scalar(event.value, event.implicit[0], _mark(event))
            self._count(1, node.mark)
            if event.anchor is not None:
                self._anchors[event.anchor] = (node, 1)
            self._add(node)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            self._open(event, {} if kind is yaml.MappingStartEvent else None)
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self._close()
        elif kind is yaml.AliasEvent:
            self._alias(event)
        elif kind is yaml.DocumentStartEvent:
            self._documents += 1
            if self._documents > 1:
                self._fail(_mark(event), "a second document begins here; an inventory is one document")

    def _open(self, event: Any, entries: dict[str, Entry] | None) -> None:
        self._reject_tag(event)
        mark = Mark(event.start_mark.line, event.start_mark.column)
        if len(self._stack) >= DEEPEST:
            self._fail(mark, f"nested deeper than {DEEPEST} levels")
        self._count(1, mark)
        self._stack.append(_Open(mark=mark, anchor=event.anchor, before=self._values, entries=entries))

    def _close(self) -> None:
        done = self._stack.pop()
        node = Items(tuple(done.items), done.mark) if done.entries is None else Table(done.entries, done.mark)
        if done.anchor is not None:
            self._anchors[done.anchor] = (node, self._values - done.before + 1)
        self._add(node)

    def _alias(self, event: Any) -> None:
        mark, name = _mark(event), event.anchor
        if any(frame.anchor == name for frame in self._stack):
            self._fail(mark, f"the alias {quote('*' + name)} stands inside its own anchor: a cycle")
        if name not in self._anchors:
            hint = "text that begins with * must be quoted"
            self._fail(mark, f"no anchor {quote('&' + name)} stands before this alias", hint)
        node, size = self._anchors[name]
        self._count(size, mark)
        self._add(node)

    def _add(self, node: Node) -> None:
        if not self._stack:
            self.root = node
            return
        frame = self._stack[-1]
        if frame.entries is None:
            frame.items.append(node)
        elif frame.key is None:
            frame.key = self._key(node, frame.entries)
        else:
            frame.entries[frame.key.text] = Entry(frame.key, node)
            frame.key = None

    def _key(self, node: Node, entries: dict[str, Entry]) -> Scalar:
        if not isinstance(node, Scalar):
            self._fail(node.mark, f"a key must be text, not {describe(node)}")
        if node.text == "<<" and node.plain:
            hint = "put what hosts share into `defaults` or into a group"
            self._fail(node.mark, "merge keys (`<<`) are not supported", hint)
        if node.text in entries:
            first = entries[node.text].key.mark.line + 1
            self._fail(node.mark, f"the key {quote(node.text)} is here twice; first on line {first}")
        if node.kind != "text":
            self._fail(
                node.mark, f"a key must be text, not {describe(node)}", f'write it in quotes: "{node.text[:40]}"'
            )
        return node

    def _reject_tag(self, event: Any) -> None:
        if event.tag is not None:
            hint = "text that begins with ! must be quoted; a tag is to be removed"
            self._fail(_mark(event), f"tags ({quote(event.tag)}) are not supported", hint)

    def _count(self, values: int, mark: Mark) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            self._fail(mark, f"more than {MOST_VALUES:,} values (an alias counts as all it stands for)")

    def _fail(self, mark: Mark, problem: str, hint: str = "") -> NoReturn:
        raise self._source.error(mark, problem, hint=hint)


def _mark(event: Any) -> Mark:
    start, end = event.start_mark, event.end_mark
    same_line = start.line == end.line
    return Mark(start.line, start.column, max(1, end.column - start.column) if same_line else 1)
