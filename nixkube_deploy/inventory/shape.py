"""The combinators an inventory is described with: each shape reads a node, and says itself as JSON Schema.

One description, two uses, so the parser and the editor's schema cannot drift. Knows YAML nodes and JSON Schema, and not
one field of the inventory.
"""

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from nixkube_deploy.inventory.error import InventoryError, did_you_mean, listing, printable, quote
from nixkube_deploy.inventory.sections import Found, Listed, Located, Section, bare
from nixkube_deploy.inventory.source import Mark, Source
from nixkube_deploy.inventory.tree import Items, Node, Scalar, Table, describe

Schema = dict[str, Any]
LONGEST_TEXT = 4096
NO_DEFAULT = object()
"""A key whose absence means nothing (yet): not even the model has a value for it."""

_SHORT = 64
"""Longer texts are not repeated in hints."""


class At(NamedTuple):
    """Where a shape reads: the path is for messages, ``key`` is the place of the key that led here."""

    source: Source
    path: str = ""
    key: Mark | None = None

    def into(self, name: str, key: Mark | None = None) -> "At":
        """One step down."""
        return At(self.source, f"{self.path}.{name}" if self.path else name, key)

    @property
    def name(self) -> str:
        """The path as messages show it."""
        return f"`{printable(self.path[-80:])}`" if self.path else "the inventory"

    def wrong(self, mark: Mark, problem: str, *, hint: str = "") -> InventoryError:
        """An error about one place."""
        return self.source.error(mark, problem, hint=hint)

    def misfit(self, node: Node, what: str, *, hint: str = "") -> InventoryError:
        """A value of the wrong kind."""
        return self.wrong(node.mark, f"{self.name} must be {what}, not {describe(node)}", hint=hint)


class Unfit(ValueError):  # noqa: N818 (raised by converters and always turned into an InventoryError)
    """A text that has the right type but no meaning. ``hint`` is what to write instead."""

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class Shape(ABC):
    """What a value may look like."""

    def read(self, node: Node, at: At) -> Found:
        """The value in ``node``, or an InventoryError that says what was expected."""
        return self._read(node, at)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """The same in JSON Schema; named shapes put themselves into ``defs``."""
        return self._schema(defs)

    def plain(self, value: Any) -> Any:
        """A value of the model as it would be written."""
        return self._plain(value)

    @abstractmethod
    def _read(self, node: Node, at: At) -> Found: ...

    @abstractmethod
    def _schema(self, defs: dict[str, Schema]) -> Schema: ...

    def _plain(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Shape):
    """Text with a grammar (``pattern``) and, where a pattern cannot say it all, a ``convert`` that may raise Unfit."""

    what: str = "text"
    pattern: str = r"\S"
    convert: Callable[[str, Path], Any] = lambda text, _: text
    show: Callable[[Any], Any] = lambda value: value
    suggest: Callable[[str], str] = lambda _: ""
    """A better spelling of a text that does not fit."""

    def _read(self, node: Node, at: At) -> Located:
        if not isinstance(node, Scalar):
            raise at.misfit(node, self.what)
        if node.kind != "text":
            raise at.misfit(node, self.what, hint=self._better(node.text) or self._quoted(node))
        if not self._fits(node.text):
            raise at.misfit(node, self.what, hint=self._better(node.text))
        try:
            return Located(self.convert(node.text, at.source.base), node.mark)
        except Unfit as error:
            raise at.wrong(node.mark, f"{at.name}: {error}", hint=error.hint) from None

    def _schema(self, _defs: dict[str, Schema]) -> Schema:
        return {"type": "string", "pattern": self.pattern, "maxLength": LONGEST_TEXT}

    def _plain(self, value: Any) -> Any:
        return self.show(value)

    def _fits(self, text: str) -> bool:
        return len(text) <= LONGEST_TEXT and _compiled(self.pattern).search(text) is not None

    def _better(self, text: str) -> str:
        better = self.suggest(text) if len(text) <= _SHORT else ""
        return f"did you mean {quote(better)}?" if better else ""

    def _quoted(self, node: Scalar) -> str:
        fits = len(node.text) <= _SHORT and self._fits(node.text)
        return f'if text is meant, write it in quotes: "{node.text}"' if fits else ""


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as JSON Schema means it: ``$`` is the very end, not the place before a last newline."""
    return re.compile(pattern.replace("$", r"\Z"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag(Shape):
    """``true`` or ``false``."""

    def _read(self, node: Node, at: At) -> Located:
        if not isinstance(node, Scalar) or node.kind != "boolean":
            yes = isinstance(node, Scalar) and node.text.lower() in {
                "yes",
                "on",
                "y",
                "no",
                "off",
                "n",
                "true",
                "false",
            }
            hint = "YAML 1.2 knows only true and false, without quotes" if yes else ""
            raise at.misfit(node, "true or false", hint=hint)
        return Located(node.text.lower() == "true", node.mark)

    def _schema(self, _defs: dict[str, Schema]) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(Shape):
    """A whole number within bounds."""

    minimum: int
    maximum: int

    def _read(self, node: Node, at: At) -> Located:
        what = f"a whole number from {self.minimum} to {self.maximum}"
        if not isinstance(node, Scalar):
            raise at.misfit(node, what)
        digits = re.fullmatch(r"-?(?:0|[1-9][0-9]{0,17})", node.text)
        if not node.plain and digits:
            raise at.misfit(node, what, hint="a number is written without quotes")
        if not digits or not self.minimum <= int(node.text) <= self.maximum:
            raise at.misfit(node, what)
        return Located(int(node.text), node.mark)

    def _schema(self, _defs: dict[str, Schema]) -> Schema:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Shape):
    """One of a few words; ``make`` turns the word into the model's value (an enum does that itself)."""

    words: tuple[str, ...]
    make: Callable[[str], Any] = str
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """Words people use for one of ours; only ever hinted at."""

    @classmethod
    def of(cls, kind: type[StrEnum]) -> "Choice":
        """The members of an enum."""
        return cls(words=tuple(member.value for member in kind), make=kind)

    def _read(self, node: Node, at: At) -> Located:
        if isinstance(node, Scalar) and node.kind == "text" and node.text in self.words:
            return Located(self.make(node.text), node.mark)
        word = node.text if isinstance(node, Scalar) else ""
        meant = self.synonyms.get(word.lower())
        hint = f"did you mean {quote(meant)}?" if meant else did_you_mean(word, self.words)
        raise at.misfit(node, f"one of {listing(self.words, len(self.words))}", hint=hint)

    def _schema(self, _defs: dict[str, Schema]) -> Schema:
        return {"type": "string", "enum": list(self.words)}

    def _plain(self, value: Any) -> Any:
        return value.value if isinstance(value, StrEnum) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOf(Shape):
    """A list of one shape, at least ``least`` items, none twice where ``unique``."""

    item: Shape
    least: int = 0
    unique: bool = False
    missing: str = ""
    """What is wrong with too few, in the inventory's words."""

    def _read(self, node: Node, at: At) -> Listed:
        if not isinstance(node, Items):
            hint = ""
            if isinstance(node, Scalar) and not node.is_null and len(node.text) <= _SHORT:
                hint = f"write it as a list: [{printable(node.text)}]"
            raise at.misfit(node, "a list", hint=hint)
        if len(node.items) < self.least:
            raise at.wrong(node.mark, f"{at.name} is empty: {self.missing or 'at least one is needed'}")
        found = tuple(self.item.read(item, at.into(str(index))) for index, item in enumerate(node.items))
        if self.unique:
            self._reject_twice(found, at)
        return Listed(found, node.mark)

    def _schema(self, defs: dict[str, Schema]) -> Schema:
        schema: Schema = {"type": "array", "items": self.item.schema(defs)}
        if self.least:
            schema["minItems"] = self.least
        if self.unique:
            schema["uniqueItems"] = True
        return schema

    def _plain(self, value: Any) -> Any:
        return [self.item.plain(item) for item in value]

    def _reject_twice(self, found: tuple[Found, ...], at: At) -> None:
        seen: set[Any] = set()
        for item in found:
            value = bare(item)
            if value in seen:
                raise at.wrong(item.mark, f"{quote(str(self.item.plain(value)))} is in {at.name} twice")
            seen.add(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOf(Shape):
    """A mapping whose keys the user chooses, all values of one shape."""

    key: Text
    value: Shape
    least: int = 0

    def _read(self, node: Node, at: At) -> Section:
        if isinstance(node, Scalar) and node.is_null and not self.least:
            return Section(mark=at.key or node.mark)
        if not isinstance(node, Table):
            raise at.misfit(node, "a mapping")
        if len(node.entries) < self.least:
            raise at.wrong(node.mark, f"{at.name} is empty")
        entries: dict[str, Found] = {}
        for name, (key, value) in node.entries.items():
            self.key.read(key, at.into(name))
            entries[name] = self.value.read(value, at.into(name, key.mark))
        return Section(entries, at.key or node.mark)

    def _schema(self, defs: dict[str, Schema]) -> Schema:
        schema: Schema = {
            "type": "object" if self.least else ["object", "null"],
            "propertyNames": {"pattern": self.key.pattern},
            "additionalProperties": self.value.schema(defs),
        }
        if self.least:
            schema["minProperties"] = self.least
        return schema


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a record. ``default`` is the model's own, for the schema and for ``explain``."""

    shape: Shape
    doc: str
    default: Any = NO_DEFAULT
    _: KW_ONLY
    required: bool = False
    missing: str = ""
    """The hint when a required key is not there."""

    @property
    def nullable(self) -> bool:
        """Whether ``null`` is allowed and means "as if nobody had set it"."""
        return self.default is None

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """The shape's schema with this key's words and default."""
        schema = {**self.shape.schema(defs), "description": self.doc}
        if self.nullable and isinstance(schema.get("type"), str):
            schema["type"] = [schema["type"], "null"]
        elif self.nullable and "oneOf" in schema:
            schema["oneOf"] = [*schema["oneOf"], {"type": "null"}]
        if self.default is not NO_DEFAULT and self.default is not None:
            schema["default"] = self.shape.plain(self.default)
        return schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Shape):
    """A mapping with known keys. Where none is required, nothing (``workers:``) is an empty one."""

    name: str
    doc: str
    fields: Mapping[str, Field]
    hints: Mapping[str, str] = field(default_factory=dict)
    """What to say to keys that people bring from other tools."""

    def _read(self, node: Node, at: At) -> Section:
        if isinstance(node, Scalar) and node.is_null and not self._required:
            return Section(mark=at.key or node.mark)
        if not isinstance(node, Table):
            raise at.misfit(node, f"a mapping ({listing(self.fields)})")
        entries: dict[str, Found] = {}
        for name, (key, value) in node.entries.items():
            known = self.fields.get(name)
            if known is None:
                raise self._unknown(key, at)
            if known.nullable and isinstance(value, Scalar) and value.is_null:
                entries[name] = Located(None, value.mark)
            else:
                entries[name] = known.shape.read(value, at.into(name, key.mark))
        mark = at.key or node.mark
        for name in self._required:
            if name not in entries:
                raise at.wrong(mark, f"{at.name} lacks the key {quote(name)}", hint=self.fields[name].missing)
        return Section(entries, mark)

    def _schema(self, defs: dict[str, Schema]) -> Schema:
        if self.name not in defs:
            defs[self.name] = {}  # Reserves the place, so that definitions stand in reading order.
            schema: Schema = {"description": self.doc, "type": "object" if self._required else ["object", "null"]}
            schema["properties"] = {name: known.schema(defs) for name, known in self.fields.items()}
            if self._required:
                schema["required"] = list(self._required)
            schema["additionalProperties"] = False
            defs[self.name] = schema
        return {"$ref": f"#/$defs/{self.name}"}

    @property
    def _required(self) -> tuple[str, ...]:
        return tuple(name for name, known in self.fields.items() if known.required)

    def _unknown(self, key: Scalar, at: At) -> InventoryError:
        hint = self.hints.get(key.text) or did_you_mean(key.text, self.fields)
        hint = hint or f"{at.name if at.path else 'it'} knows {listing(self.fields, len(self.fields))}"
        return at.wrong(key.mark, f"unknown key {quote(key.text)} in {at.name}", hint=hint)


def _default(each: dataclasses.Field[Any]) -> Any:
    return each.default if each.default_factory is dataclasses.MISSING else each.default_factory()


def fields_of(model: Any, described: Mapping[str, tuple[Shape, str]]) -> dict[str, Field]:
    """Fields whose defaults are the model's own; one without default is required, a record's stand inside it."""
    found = {}
    defaults = {each.name: _default(each) for each in dataclasses.fields(model)}
    for name, (shape, doc) in described.items():
        required = defaults[name] is dataclasses.MISSING
        default = NO_DEFAULT if required or isinstance(shape, Record) else defaults[name]
        found[name] = Field(shape, doc, default, required=required)
    return found
