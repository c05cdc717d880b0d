"""From two closures to what changed in them, package by package. Pure; store paths are taken apart as Nix does it.

It deliberately does not know which closures these are, nor how anybody came by them.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache

from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.model.packages import (
    ClosureSizes,
    HostDifference,
    PackageChange,
    PackageChanges,
    PackageFate,
    SharedChanges,
    Sizes,
    StoredPath,
)
from nixkube_deploy.model.size import size_text
from nixkube_deploy.plan.difference import store_name

NOTICEABLE = 8 * 1024
"""Bytes from which on a package counts as changed although its version is the same (``nix store diff-closures``)."""

SYSTEM = "nixos-system-"
"""Begins the names of toplevels, specialisations' too. They differ always, and carry their host's name."""

_OUTPUT = re.compile(r"(.+)-([a-z]+|lib32|lib64)")
_OUTPUTS = frozenset(
    {"bin", "debug", "dev", "devdoc", "devman", "doc", "info", "lib", "lib32", "lib64", "man", "out", "static"}
)
"""What names an output even where there is no version before it."""
_NO_OUTPUTS = frozenset({"alpha", "beta", "git", "pre", "rc", "snapshot", "stable", "unstable"})
"""Words that end a version, never an output's name."""

_ORDER = tuple(PackageFate)
Versions = dict[str, dict[StorePath, int]]
"""Version to the paths of all outputs of it, with their sizes."""


def split_name(name: str) -> tuple[str, str]:
    """Package and version: the version begins after the first dash that no letter follows."""
    match = re.search(r"-(?=[^A-Za-z])", name)
    return (name[: match.start()], name[match.end() :]) if match and match.start() else (name, "")


@cache
def package_of(path: StorePath) -> tuple[str, str]:
    """Package and version of a store path, whichever of its outputs it is.

    Nix takes every last word for an output's name. Here that holds behind a version only (``linux-6.12.8-modules``);
    else ``system-units`` and ``system-path`` would be one package, and ``etc-hostname`` one with ``etc``.
    """
    name = store_name(path)[1]
    match = _OUTPUT.fullmatch(name)
    if match is None or match[2] in _NO_OUTPUTS:
        return split_name(name)
    package, version = split_name(match[1])
    return (package, version) if version or match[2] in _OUTPUTS else split_name(name)


def closure_of(root: StorePath, known: Mapping[StorePath, StoredPath]) -> Sizes | None:
    """The closure of ``root`` out of all that is known; None when it is not all there."""
    found: set[StorePath] = set()
    todo = {root}
    while todo:
        if not todo <= known.keys():
            return None
        found |= todo
        todo = set().union(*(known[path].references for path in todo)) - found
    return {path: known[path].size for path in found}


def package_changes(old: Sizes, new: Sizes) -> PackageChanges:
    """What differs between two closures. Toplevels are left out: they always differ."""
    differing = {package_of(path)[0] for path, _ in old.items() ^ new.items()}
    before, after = _grouped(old, differing), _grouped(new, differing)
    rows = [row for name in sorted(before.keys() | after.keys()) for row in _row(name, before, after)]
    shown = [row for row in rows if row.fate is not PackageFate.REBUILT or abs(row.delta) >= NOTICEABLE]
    shown.sort(key=lambda row: (_ORDER.index(row.fate), -abs(row.delta), row.name))
    quiet = tuple(row.name for row in rows if row.fate is PackageFate.REBUILT and abs(row.delta) < NOTICEABLE)
    return PackageChanges(packages=tuple(shown), rebuilt=quiet)


def host_difference(
    old: Sizes | None, new: Sizes, missing: Iterable[StorePath] | None, unknown: str = ""
) -> HostDifference:
    """One host's difference from its closures and from what it lacks; None is what nobody could find out."""
    travels = None if missing is None else [new[path] for path in missing]
    sizes = ClosureSizes(
        before=None if old is None else sum(old.values()),
        after=sum(new.values()),
        paths=None if travels is None else len(travels),
        travels=None if travels is None else sum(travels),
        unknown=unknown,
    )
    return HostDifference(changes=PackageChanges() if old is None else package_changes(old, new), sizes=sizes)


def shared(differences: Mapping[HostName, HostDifference]) -> tuple[SharedChanges, ...]:
    """Hosts that change alike together. A few bytes make no difference: sizes are the first host's."""
    groups: dict[object, list[HostName]] = {}
    for host, difference in differences.items():
        changes = difference.changes
        if changes.packages or changes.rebuilt:
            rows = tuple((row.name, row.fate, row.old, row.new, size_text(row.delta)) for row in changes.packages)
            groups.setdefault((rows, changes.rebuilt), []).append(host)
    return tuple(SharedChanges(hosts=tuple(g), changes=differences[g[0]].changes) for g in groups.values())


def _grouped(closure: Sizes, packages: Collection[str]) -> dict[str, Versions]:
    found: dict[str, Versions] = {}
    for path, size in closure.items():
        name, version = package_of(path)
        if name in packages and not name.startswith(SYSTEM):
            found.setdefault(name, {}).setdefault(version, {})[path] = size
    return found


def _row(name: str, before: Mapping[str, Versions], after: Mapping[str, Versions]) -> Iterator[PackageChange]:
    old, new = before.get(name, {}), after.get(name, {})
    gone, come = _ordered(old.keys() - new.keys()), _ordered(new.keys() - old.keys())
    if not old:
        fate = PackageFate.ADDED
    elif not new:
        fate = PackageFate.REMOVED
    else:
        fate = PackageFate.CHANGED if gone or come else PackageFate.REBUILT
    yield PackageChange(name=name, fate=fate, old=gone, new=come, delta=_total(new) - _total(old))


def _total(versions: Versions) -> int:
    return sum(size for paths in versions.values() for size in paths.values())


def _ordered(versions: Iterable[str]) -> tuple[str, ...]:
    """Numbers in a version count as numbers: 9 comes before 10."""
    return tuple(sorted(versions, key=lambda v: ([_part(p) for p in re.findall(r"\d+|[^\d]+", v)], v)))


def _part(text: str) -> tuple[int, int, str]:
    return (1, int(text), "") if text.isascii() and text.isdigit() else (0, 0, text)
