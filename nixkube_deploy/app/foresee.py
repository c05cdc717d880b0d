"""A plan whose drains were looked at: made once to see who is drained, and again where one of these cannot be.

A plan that was reviewed is not made again: it is refused where one of its drains cannot succeed any more.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from nixkube_deploy.app.survey import OnStep
from nixkube_deploy.app.world import World
from nixkube_deploy.model.action import DrainNode
from nixkube_deploy.model.error import Refused
from nixkube_deploy.model.names import HostName, NodeName
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.protocols.drainable import Outlook, outlooks

Planner = Callable[[Prepared], Plan]


async def with_outlook(world: World, prepared: Prepared, plan: Planner, say: OnStep) -> tuple[Plan, Prepared]:
    """The plan, and what it was made from: with what speaks against the drains in it."""
    made = plan(prepared)
    nodes = {host.host: host.node for host in made.hosts if host.node is not None}
    found = await _foreseen(world, made, nodes, say)
    prepared = replace(
        prepared,
        undrainable={host: outlook.never for host, outlook in found.items() if outlook.never is not None},
        drain_waits={host: outlook.waits for host, outlook in found.items() if outlook.waits},
    )
    if not (prepared.undrainable or prepared.drain_waits):
        return made, prepared
    return plan(prepared), prepared


async def refuse_undrainable(world: World, reviewed: Plan, nodes: Mapping[HostName, NodeName], say: OnStep) -> None:
    """What a drain of a reviewed plan would have to wait for is said.

    Raises:
        Refused: one could be drained when the plan was made, and cannot be now.
    """
    found = await _foreseen(world, reviewed, nodes, say)
    never = tuple((str(host), outlook.never) for host, outlook in found.items() if outlook.never is not None)
    if never:
        raise Refused(
            "the world has moved since this plan was made: a host can no longer be drained; nothing was touched",
            hint=f"deploy plan {reviewed.inventory} -o PLAN.json",
            failures=never,
        )
    for host, outlook in found.items():
        for wait in outlook.waits:
            say(f"{host}: {wait}")


async def _foreseen(
    world: World, plan: Plan, nodes: Mapping[HostName, NodeName], say: OnStep
) -> Mapping[HostName, Outlook]:
    """What is to be expected of each drain in the plan, as far as it can be found out."""
    actions = (task.action for task in plan.graph.values())
    drains = {a.host: a.options for a in actions if isinstance(a, DrainNode) and a.host in nodes}
    if world.cluster is None or not drains:
        return {}
    seen = await outlooks(world.cluster, {nodes[host]: options for host, options in drains.items()}, say)
    return {host: seen[nodes[host]] for host in drains if nodes[host] in seen}
