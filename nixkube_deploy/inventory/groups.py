"""Which groups a host is in, and in which order they speak.

A group's parents come before it, each group once. It knows names only, no settings.
"""

import graphlib
from collections.abc import Iterable, Mapping

from nixkube_deploy.inventory.error import did_you_mean, listing, quote
from nixkube_deploy.inventory.sections import Section
from nixkube_deploy.inventory.source import Source
from nixkube_deploy.model.names import GroupName

MOST_GROUPS = 1000

Lineage = Mapping[str, tuple[GroupName, ...]]
"""Each group's ancestors, farthest first, then the group itself."""


def lineages(groups: Section, source: Source) -> Lineage:
    """Every group's lineage.

    Raises:
        InventoryError: an unknown parent, a cycle, too many groups.
    """
    if len(groups.entries) > MOST_GROUPS:
        raise source.error(groups.mark, f"more than {MOST_GROUPS} groups", hint="labels tell hosts apart more cheaply")
    parents = {name: references(groups.section(name), groups, source) for name in groups.entries}
    try:
        order = tuple(graphlib.TopologicalSorter(parents).static_order())
    except graphlib.CycleError as error:
        cycle = list(reversed(error.args[1]))
        mark = groups.section(cycle[0]).mark_of("groups")
        raise source.error(mark, f"groups go in a circle: {listing(cycle, 20).replace(', ', ' -> ')}") from None
    found: dict[str, tuple[GroupName, ...]] = {}
    for name in order:
        found[name] = (*gather(parents[name], found), GroupName(name))
    return found


def references(section: Section, groups: Section, source: Source) -> tuple[str, ...]:
    """The groups that a host or group names, all of them known.

    Raises:
        InventoryError: one of them is not.
    """
    names = []
    for item in section.items("groups"):
        if item.value not in groups.entries:
            hint = did_you_mean(item.value, groups.entries) or f"the groups are {listing(groups.entries)}"
            raise source.error(item.mark, f"there is no group {quote(item.value)}", hint=hint)
        names.append(item.value)
    return tuple(names)


def gather(names: Iterable[str], lineage: Mapping[str, tuple[GroupName, ...]]) -> tuple[GroupName, ...]:
    """All groups in the lineages of ``names``, in order, each once."""
    return tuple(dict.fromkeys(group for name in names for group in lineage[name]))
