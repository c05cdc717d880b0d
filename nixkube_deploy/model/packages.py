"""Two closures compared, package by package, and what of the new one must travel.

Values only: how they are made from store paths is ``plan.packages``' business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from nixkube_deploy.model.names import HostName, StorePath


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPath:
    """What a store knows of one path."""

    size: int
    """Bytes of its NAR: what travels uncompressed, and about what it takes on a disk."""
    references: tuple[StorePath, ...] = ()


Sizes = Mapping[StorePath, int]
"""A closure: every path in it with its size."""


class PackageFate(StrEnum):
    """What becomes of a package."""

    CHANGED = "changed"
    """Other versions of it."""
    ADDED = "added"
    REMOVED = "removed"
    REBUILT = "rebuilt"
    """The same versions, built anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageChange:
    """One package. Versions that both closures have are in neither list; a version may be empty."""

    name: str
    fate: PackageFate
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    delta: int = 0
    """By how many bytes all versions and outputs of it grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageChanges:
    """How two closures differ, in the order of importance."""

    packages: tuple[PackageChange, ...] = ()
    rebuilt: tuple[str, ...] = ()
    """Packages that were built anew and are the same in version and, nearly, in size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosureSizes:
    """One host's closures in numbers. None: not known."""

    before: int | None = None
    """Bytes of the closure of what it runs."""
    after: int | None = None
    """Bytes of the closure it is to run."""
    paths: int | None = None
    """Paths of the new closure that the host does not have."""
    travels: int | None = None
    """Their bytes, before compression."""
    unknown: str = ""
    """Why something is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDifference:
    """What ``plan --diff`` found out about one host."""

    changes: PackageChanges = PackageChanges()
    sizes: ClosureSizes = ClosureSizes()


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedChanges:
    """The same changes on several hosts."""

    hosts: tuple[HostName, ...]
    changes: PackageChanges
