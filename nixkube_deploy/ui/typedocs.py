"""Documentation written from the types themselves, so that it cannot be wrong: Markdown of dataclasses and enums.

It deliberately knows nothing of what the types are for; the pages that use it do.
"""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

TABLE = ("| field | type | meaning |", "|---|---|---|")
_PRIMITIVES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def values(nested: dict[str, type]) -> Iterator[str]:
    """A section for each type named so far, and for those that these name in turn."""
    told: set[str] = set()
    while pending := [name for name in nested if name not in told]:
        for name in pending:
            told.add(name)
            yield _value(nested[name], nested)


def section(title: str, kind: type, nested: dict[str, type], skip: frozenset[str] = frozenset()) -> str:
    """One type; types of its fields that need a section of their own go into ``nested``."""
    rows = list(_rows(kind, nested, skip))
    table = [*TABLE, *rows, ""] if rows else []
    return "\n".join([f"### `{title}`", "", _doc(kind), "", *table])


def _value(kind: type, nested: dict[str, type]) -> str:
    if issubclass(kind, Enum):
        docs = _field_docs(kind)
        lines = [f"- `{m.value}`{': ' + docs[m.name] if m.name in docs else ''}" for m in kind]
        return "\n".join([f"### {kind.__name__}", "", _doc(kind), "", *lines, ""])
    rows = [f"| `type` | string | Always `{kind.__name__}`. |", *_rows(kind, nested, frozenset())]
    return "\n".join([f"### {kind.__name__}", "", _doc(kind), "", *TABLE, *rows, ""])


def _rows(kind: type, nested: dict[str, type], skip: frozenset[str]) -> Iterator[str]:
    hints, docs = typing.get_type_hints(kind), _field_docs(kind)
    for field in dataclasses.fields(kind):
        if field.name not in skip:
            yield f"| `{field.name}` | {_name(hints[field.name], nested)} | {docs.get(field.name, '')} |"


def _name(hint: Any, nested: dict[str, type]) -> str:
    while isinstance(hint, typing.NewType):
        hint = hint.__supertype__
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_name(a, nested) for a in arguments)
    if origin in {tuple, frozenset, list}:
        return f"list of {_name(arguments[0], nested)}s"
    if hint in _PRIMITIVES:
        return _PRIMITIVES[hint]
    nested.setdefault(hint.__name__, hint)
    return f"[{hint.__name__}](#{hint.__name__.lower()})"


def _doc(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split()).replace("``", "`")


def _field_docs(kind: type) -> dict[str, str]:
    """The string after each field, which Python itself forgets."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = typing.cast("ast.ClassDef", tree.body[0]).body
    docs: dict[str, str] = {}
    for statement, after in itertools.pairwise(body):
        match statement, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                docs[name] = " ".join(text.split()).replace("``", "`")
            case _:
                pass
    return docs
