"""The documentation of the event stream, written from the types themselves, so that it cannot be wrong.

It deliberately knows nothing about streams; a test keeps ``docs/events.md`` equal to what it returns.
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

from nixkube_deploy.model.event import Event, TaskReported
from nixkube_deploy.ui.jsonl import EVENTS_VERSION, event_type

_HEAD = f"""# The event stream

`deploy apply --events FILE` (or `--events -` for standard output) writes one JSON object a line, as things happen.
An event is written after it is in the journal, so what a program reads here has happened.

This is version {EVENTS_VERSION}. New event types and new fields may come at any time: skip what you do not know.
A field that changes its meaning or goes away raises the version.

This page is written from the types in `nixkube_deploy/model/event.py`; a test keeps both equal.

## Every event

| field | type | meaning |
|---|---|---|
| `version` | integer | {EVENTS_VERSION} |
| `seq` | integer or null | Position in the run's journal, from 0 without gaps; null for `task-reported`. |
| `at` | string | When, ISO 8601 in UTC with milliseconds. |
| `type` | string | One of the types below. |
| `run` | string or null | The run's id, as `deploy show` takes it. |

Events about a task (those whose type begins with `task-`) also have:

| field | type | meaning |
|---|---|---|
| `task` | string | The task's id, `host/step`. |
| `host` | string or null | The inventory's name for the host; null for a task of the whole fleet. |
| `step` | string | What is done: `copy`, `drain`, `activate`, `gate`, ... |
"""

_TABLE = ("| field | type | meaning |", "|---|---|---|")
_PRIMITIVES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def events_markdown() -> str:
    """The whole page, with a newline at the end."""
    events = (*typing.get_args(Event), TaskReported)
    nested: dict[str, type] = {}
    parts = [_HEAD, "## Types\n"]
    common = frozenset({"task", "run"})
    parts.extend(_section(event_type(kind), kind, nested, common) for kind in events)
    parts.append("## Values\n")
    told: set[str] = set()
    while pending := [name for name in nested if name not in told]:
        for name in pending:
            told.add(name)
            parts.append(_value(nested[name], nested))
    return "\n".join(parts)


def _section(title: str, kind: type, nested: dict[str, type], skip: frozenset[str]) -> str:
    rows = list(_rows(kind, nested, skip))
    table = [*_TABLE, *rows, ""] if rows else []
    return "\n".join([f"### `{title}`", "", _doc(kind), "", *table])


def _value(kind: type, nested: dict[str, type]) -> str:
    if issubclass(kind, Enum):
        docs = _field_docs(kind)
        lines = [f"- `{m.value}`{': ' + docs[m.name] if m.name in docs else ''}" for m in kind]
        return "\n".join([f"### {kind.__name__}", "", _doc(kind), "", *lines, ""])
    rows = [f"| `type` | string | Always `{kind.__name__}`. |", *_rows(kind, nested, frozenset())]
    return "\n".join([f"### {kind.__name__}", "", _doc(kind), "", *_TABLE, *rows, ""])


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
