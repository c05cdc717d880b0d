"""What text and diagrams of a plan share: hosts by wave, equal hosts together, each host's chain of steps.

It draws nothing itself.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import HostPlan, Plan
from nixkube_deploy.plan.wording import hosts

ASIDE = frozenset({"undrain", "untouched", "rollback", "rollback-gate", "rollback-uncordon"})
"""Steps that run only when another failed."""

ROW = 3
"""Waves in a row from which on they are drawn together."""


def chains(plan: Plan) -> Mapping[HostName, tuple[str, ...]]:
    """Every host's steps, in their order, those that run only after a failure last."""
    found: dict[HostName, list[str]] = {}
    for task_id, task in plan.graph.items():
        if task.host is not None:
            found.setdefault(task.host, []).append(task_id.rpartition("/")[2])
    return {host: tuple(sorted(steps, key=ASIDE.__contains__)) for host, steps in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One wave, or several in a row of as many hosts each, which nobody wants to read one by one."""

    title: str
    first: int
    members: tuple[HostPlan, ...]


def stretches(plan: Plan) -> list[Stretch]:
    """The waves in their order, long rows of equal ones drawn together."""
    rank = {host: number for number, host in enumerate(plan.graph.sections)}
    waves: dict[int, list[HostPlan]] = {}
    for host in sorted((h for h in plan.hosts if h.host in rank), key=lambda h: rank[h.host]):
        waves.setdefault(plan.graph.sections[host.host].wave, []).append(host)
    rows: list[list[int]] = []
    for wave in sorted(waves):
        if rows and _alike(plan, waves[rows[-1][-1]], waves[wave]):
            rows[-1].append(wave)
        else:
            rows.append([wave])
    return [stretch for row in rows for stretch in _drawn(plan, row, waves)]


def _alike(plan: Plan, before: list[HostPlan], wave: list[HostPlan]) -> bool:
    return len(before) == len(wave) and not _remark(plan, before) and not _remark(plan, wave)


def _drawn(plan: Plan, row: list[int], waves: Mapping[int, list[HostPlan]]) -> Iterator[Stretch]:
    if len(row) < ROW:
        for wave in row:
            title = f"wave {wave}{_remark(plan, waves[wave])}"
            yield Stretch(title=title, first=wave, members=tuple(waves[wave]))
        return
    each = hosts(len(waves[row[0]]))
    members = tuple(host for wave in row for host in waves[wave])
    yield Stretch(title=f"waves {row[0]}..{row[-1]}, {each} each", first=row[0], members=members)


def _remark(plan: Plan, members: Iterable[HostPlan]) -> str:
    names = {host.host for host in members}
    if names <= plan.graph.rules.canaries:
        return " (canary)"
    return " (already unavailable)" if names <= plan.graph.rules.unhealthy else ""


def grouped(given: Iterable[HostPlan], key: Callable[[HostPlan], Hashable]) -> list[list[HostPlan]]:
    """Hosts with equal keys together, groups and hosts in the order of their first appearance."""
    groups: dict[Hashable, list[HostPlan]] = {}
    for host in given:
        groups.setdefault(key(host), []).append(host)
    return list(groups.values())
