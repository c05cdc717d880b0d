"""What was read: values that know where they were written, and layers of them, the later over the earlier.

It knows no field by name; what the fields are is ``grammar``'s, what they mean is ``assemble``'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from nixkube_deploy.inventory.source import Mark

NOWHERE = Mark(0, 0)


@dataclass(frozen=True, slots=True)
class Located:
    """One value and its place."""

    value: Any
    mark: Mark


@dataclass(frozen=True, slots=True)
class Listed:
    """A list, each item with its own place."""

    items: tuple["Found", ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Section:
    """Named values. ``mark`` is the place of the section's key where it has one."""

    entries: Mapping[str, "Found"] = field(default_factory=lambda: MappingProxyType({}))
    mark: Mark = NOWHERE

    def section(self, name: str) -> "Section":
        """The section ``name``; an empty one where nothing was written."""
        found = self.entries.get(name)
        return found if isinstance(found, Section) else Section(mark=self.mark)

    def items(self, name: str) -> tuple[Any, ...]:
        """The items of the list ``name``, each a ``Located`` or ``Section``."""
        found = self.entries.get(name)
        return found.items if isinstance(found, Listed) else ()

    def value(self, name: str, default: Any = None) -> Any:
        """The bare value ``name``, or ``default`` where nothing was written."""
        found = self.entries.get(name)
        return default if found is None else bare(found)

    def mark_of(self, name: str) -> Mark:
        """Where ``name`` was written; the section's own place if it was not."""
        found = self.entries.get(name)
        return self.mark if found is None else found.mark

    def values(self) -> dict[str, Any]:
        """Everything that was written here, bare; what was not written keeps the model's default."""
        return {name: bare(found) for name, found in self.entries.items()}


Found = Located | Listed | Section


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings, with the name that ``explain`` gives it: ``defaults``, ``group workers``, ``host``."""

    name: str
    section: Section


def bare(found: Found) -> Any:
    """The value without its place: a list is a tuple, a section a dict."""
    match found:
        case Located(value=value):
            return value
        case Listed(items=items):
            return tuple(bare(item) for item in items)
        case Section():
            return found.values()


def merge(base: Section, over: Section) -> Section:
    """``over`` over ``base``: sections merge key by key, anything else is replaced whole."""
    if not over.entries:
        return base
    if not base.entries:
        return over
    merged = dict(base.entries)
    for name, found in over.entries.items():
        below = merged.get(name)
        merged[name] = merge(below, found) if isinstance(found, Section) and isinstance(below, Section) else found
    return Section(merged, over.mark)
