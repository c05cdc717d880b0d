"""What changes inside the closures, in words: a table of packages for hosts that change alike, sizes, what must travel.

It deliberately computes nothing; a plan that was made without looking into closures has no such part.
"""

import textwrap
from collections.abc import Iterator, Sequence

from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.packages import ClosureSizes, PackageChange, PackageChanges, PackageFate
from nixkube_deploy.model.rollout import HostPlan, Plan
from nixkube_deploy.model.size import growth_text, size_text
from nixkube_deploy.plan.outline import grouped
from nixkube_deploy.plan.wording import host_list

WIDTH = 100
"""Columns after which the names of what was rebuilt are wrapped."""
REBUILT = 12
"""Names of rebuilt packages that are shown before ``and N more``."""
LONGEST_NAME, LONGEST_CHANGE = 32, 44
"""Columns; what is longer pushes its own line to the right, and no other."""
LITTLE = 100
"""A closure that changes by less than one in so many is as big as it was."""
NO_VERSION = "(no version)"


def contents(plan: Plan) -> Iterator[list[str]]:
    """One block for each group of hosts that change alike."""
    alike: dict[HostName, PackageChanges] = {name: s.changes for s in plan.differences for name in s.hosts}
    told = [host for host in plan.hosts if host.host in alike or _says_something(host.sizes)]
    groups = grouped(told, lambda host: alike.get(host.host))
    blocks = [_block(group, alike.get(group[0].host)) for group in groups]
    yield from (["Packages", *blocks[0]], *blocks[1:]) if blocks else ()


def _says_something(sizes: ClosureSizes | None) -> bool:
    return sizes is not None and bool(sizes.paths or sizes.unknown)


def _block(group: Sequence[HostPlan], changes: PackageChanges | None) -> list[str]:
    lines = [f"  {host_list(host.host for host in alike)}: {_sizes(alike[0].sizes)}" for alike in _by_sizes(group)]
    if changes is None:
        return lines
    return [*lines, *_table(changes.packages), *_rebuilt(changes.rebuilt)]


def _by_sizes(group: Sequence[HostPlan]) -> list[list[HostPlan]]:
    return grouped(group, lambda host: _sizes(host.sizes))


def _sizes(sizes: ClosureSizes | None) -> str:
    if sizes is None:
        return ""
    return "; ".join(part for part in (_closure(sizes), _travel(sizes), sizes.unknown) if part)


def _closure(sizes: ClosureSizes) -> str:
    if sizes.after is None:
        return ""
    if sizes.before is None:
        return f"closure {size_text(sizes.after)}"
    delta = sizes.after - sizes.before
    if abs(delta) * LITTLE < sizes.after:
        return f"closure still {size_text(sizes.after)}"
    return f"closure {size_text(sizes.before)} -> {size_text(sizes.after)} ({growth_text(delta)})"


def _travel(sizes: ClosureSizes) -> str:
    if sizes.paths is None or sizes.travels is None:
        return ""
    if not sizes.paths:
        return "nothing must travel"
    return f"will travel: {sizes.paths} {'path' if sizes.paths == 1 else 'paths'}, {size_text(sizes.travels)}"


def _table(rows: Sequence[PackageChange]) -> Iterator[str]:
    name = min(max((len(row.name) for row in rows), default=0), LONGEST_NAME)
    change = min(max((len(_change(row)) for row in rows), default=0), LONGEST_CHANGE)
    delta = max((len(_growth(row)) for row in rows), default=0)
    for row in rows:
        yield f"    {row.name:<{name}}  {_change(row):<{change}}  {_growth(row):>{delta}}".rstrip()


def _growth(row: PackageChange) -> str:
    return growth_text(row.delta) if row.delta else ""


def _change(row: PackageChange) -> str:
    match row.fate:
        case PackageFate.ADDED:
            return f"added {_versions(row.new)}".rstrip()
        case PackageFate.REMOVED:
            return f"removed {_versions(row.old)}".rstrip()
        case PackageFate.REBUILT:
            return "rebuilt"
        case PackageFate.CHANGED if not row.old:
            return f"also {_versions(row.new) or NO_VERSION}"
        case PackageFate.CHANGED if not row.new:
            return f"no longer {_versions(row.old) or NO_VERSION}"
        case _:
            return f"{_versions(row.old) or NO_VERSION} -> {_versions(row.new) or NO_VERSION}"


def _versions(versions: Sequence[str]) -> str:
    """A package without a version, as parts of a system have none, is only one if it is alone."""
    return ", ".join(version or NO_VERSION for version in versions) if len(versions) > 1 else "".join(versions)


def _rebuilt(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - REBUILT} more" if len(names) > REBUILT else ""
    text = f"    rebuilt, same version: {', '.join(names[:REBUILT])}{more}"
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
