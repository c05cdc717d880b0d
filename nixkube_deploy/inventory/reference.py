"""Every key of the inventory as Markdown, written from the grammar itself, so that the page cannot be wrong.

It deliberately explains nothing but keys; how they play together is prose, and written by hand around it.
"""

from collections.abc import Iterator
from enum import StrEnum

from nixkube_deploy.inventory.grammar import INVENTORY
from nixkube_deploy.inventory.shape import NO_DEFAULT, Choice, Count, Field, Flag, ListOf, Record, Shape, TableOf, Text
from nixkube_deploy.inventory.units import HostLimit
from nixkube_deploy.inventory.values import Kubeconfig, SecretReference

_TABLE = ("| key | value | default | meaning |", "|---|---|---|---|")


def reference_markdown() -> str:
    """One section a record, in the order in which a reader meets them."""
    return "\n".join(_section(record) for record in records(INVENTORY, {}).values())


def records(record: Record, known: dict[str, Record]) -> dict[str, Record]:
    """``record`` and all that are inside it, added to ``known``."""
    known[record.name] = record
    for field in record.fields.values():
        shape = field.shape
        while isinstance(shape, ListOf | TableOf):
            shape = shape.item if isinstance(shape, ListOf) else shape.value
        if isinstance(shape, Record) and shape.name not in known:
            records(shape, known)
    return known


def _section(record: Record) -> str:
    return "\n".join([f"### {record.name}", "", record.doc, "", *_TABLE, *_rows(record), ""])


def _rows(record: Record) -> Iterator[str]:
    for name, field in record.fields.items():
        yield f"| `{name}` | {_cell(_words(field.shape))} | {_default(field)} | {_cell(field.doc)} |"


def _default(field: Field) -> str:
    if field.required:
        return "required"
    if field.default in (NO_DEFAULT, None, ()):
        return ""
    plain = field.shape.plain(field.default)
    text = plain.value if isinstance(plain, StrEnum) else str(plain).lower() if isinstance(plain, bool) else plain
    return f"`{text}`"


def _words(shape: Shape) -> str:
    match shape:
        case Text():
            return shape.what
        case Flag():
            return "`true` or `false`"
        case Count():
            return f"a whole number from {shape.minimum} to {shape.maximum}"
        case Choice():
            return ", ".join(f"`{word}`" for word in shape.words)
        case ListOf():
            return f"a list: {_words(shape.item)}"
        case TableOf():
            return f"a mapping: {_words(shape.key)}, to {_words(shape.value)}"
        case Record():
            return f"[{shape.name}](#{shape.name})"
        case HostLimit():
            return f"a number of hosts from {shape.least} or a percentage such as 25%"
        case SecretReference():
            return "`{env: NAME}`, `{file: PATH}` or `{command: [PROGRAM, ...]}`"
        case Kubeconfig():
            return "a path, `{fetch: true}` or `{in_cluster: true}`"
        case _:
            raise AssertionError(f"nobody has said how {type(shape).__name__} is written")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
