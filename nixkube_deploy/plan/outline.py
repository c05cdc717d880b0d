"""What text and diagrams of a plan share: hosts by wave, equal hosts together, each host's chain of steps.

It draws nothing itself.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping

from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import HostPlan, Plan

ASIDE = frozenset({"undrain", "rollback", "rollback-gate", "rollback-uncordon"})
"""Steps that run only when another failed."""


def chains(plan: Plan) -> Mapping[HostName, tuple[str, ...]]:
    """Every host's steps, in their order, those that run only after a failure last."""
    found: dict[HostName, list[str]] = {}
    for task_id, task in plan.graph.items():
        if task.host is not None:
            found.setdefault(task.host, []).append(task_id.rpartition("/")[2])
    return {host: tuple(sorted(steps, key=ASIDE.__contains__)) for host, steps in found.items()}


def waves(plan: Plan) -> Mapping[int, list[HostPlan]]:
    """The hosts of each wave, in wave order and within it in the order in which they would like to go."""
    rank = {host: number for number, host in enumerate(plan.graph.sections)}
    found: dict[int, list[HostPlan]] = {}
    for host in sorted((h for h in plan.hosts if h.host in rank), key=lambda h: rank[h.host]):
        found.setdefault(plan.graph.sections[host.host].wave, []).append(host)
    return dict(sorted(found.items()))


def wave_title(plan: Plan, wave: int, members: Iterable[HostPlan]) -> str:
    """``wave 1 (canary)``."""
    names = {host.host for host in members}
    if names <= plan.graph.rules.canaries:
        return f"wave {wave} (canary)"
    return f"wave {wave} (already unavailable)" if names <= plan.graph.rules.unhealthy else f"wave {wave}"


def grouped(hosts: Iterable[HostPlan], key: Callable[[HostPlan], Hashable]) -> list[list[HostPlan]]:
    """Hosts with equal keys together, groups and hosts in the order of their first appearance."""
    groups: dict[Hashable, list[HostPlan]] = {}
    for host in hosts:
        groups.setdefault(key(host), []).append(host)
    return list(groups.values())
