"""Values to plain JSON data and back, by their types alone. What a plan file, the journal and the event stream share.

Frozen dataclasses become objects with a ``type`` key, sets become sorted lists. It knows the annotations the model uses
and nothing else; it deliberately does no I/O and no versioning (the journal and the plan file each carry a version).
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any

Plain = Any
"""None, bool, int, float, str, or lists and string-keyed dicts of them."""


class CodecError(ValueError):
    """The data does not have the shape the type asks for; the message says where."""


def to_plain(value: object) -> Plain:
    """Plain data for any model value.

    Raises:
        TypeError: the value is of no kind the model uses (a ``Secret``, say).
    """
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [to_plain(item) for item in value]
        case frozenset() | set():
            return sorted((to_plain(item) for item in value), key=repr)
        case Mapping():
            return {str(key): to_plain(item) for key, item in value.items()}
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = _field_names(type(value))
            return {"type": type(value).__name__} | {name: to_plain(getattr(value, name)) for name in fields}
        case _:
            raise TypeError(f"{type(value).__name__} is never serialised")


def from_plain(kind: Any, data: Plain, where: str = "$") -> Any:
    """The value of type ``kind`` that ``to_plain`` made ``data`` from.

    Raises:
        CodecError: the data does not fit; ``where`` in the message is a path such as ``$.tasks[3].action``.
    """
    kind = _strip(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        return _from_union(arguments, data, where)
    if origin in {tuple, frozenset, list}:
        return _from_sequence(origin, arguments, data, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, dict):
            raise CodecError(f"{where}: expected an object, got {type(data).__name__}")
        return {key: from_plain(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        return _from_object(kind, data, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError as error:
            raise CodecError(f"{where}: {error}") from error
    return _from_scalar(kind, data, where)


def _strip(kind: Any) -> Any:
    while isinstance(kind, typing.NewType):
        kind = kind.__supertype__
    return kind


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _from_union(members: tuple[Any, ...], data: Plain, where: str) -> Any:
    if data is None and type(None) in members:
        return None
    candidates = [m for m in members if m is not type(None)]
    if len(candidates) == 1:
        return from_plain(candidates[0], data, where)
    tag = data.get("type") if isinstance(data, dict) else None
    for candidate in candidates:
        if getattr(candidate, "__name__", None) == tag:
            return from_plain(candidate, data, where)
    raise CodecError(f"{where}: unknown type {tag!r}")


def _from_sequence(origin: type, arguments: tuple[Any, ...], data: Plain, where: str) -> Any:
    if not isinstance(data, list):
        raise CodecError(f"{where}: expected a list, got {type(data).__name__}")
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):  # noqa: PLR2004 (tuple[X, ...])
        if len(arguments) != len(data):
            raise CodecError(f"{where}: expected {len(arguments)} items, got {len(data)}")
        return tuple(
            from_plain(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, data, strict=True))
        )
    return origin(from_plain(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))


def _from_object(kind: Any, data: Plain, where: str) -> Any:
    if not isinstance(data, dict):
        raise CodecError(f"{where}: expected an object, got {type(data).__name__}")
    if data.get("type", kind.__name__) != kind.__name__:
        raise CodecError(f"{where}: expected {kind.__name__}, got {data['type']}")
    hints = _hints(kind)
    if unknown := sorted(data.keys() - hints.keys() - {"type"}):
        raise CodecError(f"{where}: unknown keys {unknown}")
    values = {name: from_plain(hints[name], item, f"{where}.{name}") for name, item in data.items() if name != "type"}
    try:
        return kind(**values)
    except TypeError as error:
        raise CodecError(f"{where}: {error}") from error


def _from_scalar(kind: Any, data: Plain, where: str) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise CodecError(f"{where}: expected {kind.__name__}, got {type(data).__name__}")
    return data
