"""A plan whose drains were looked at: made once to see who is drained, and again where one of these cannot be."""

from collections.abc import Callable
from dataclasses import replace

from nixkube_deploy.app.survey import OnStep
from nixkube_deploy.app.world import World
from nixkube_deploy.model.action import DrainNode
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.protocols.drainable import outlooks

Planner = Callable[[Prepared], Plan]


async def with_outlook(world: World, prepared: Prepared, plan: Planner, say: OnStep) -> tuple[Plan, Prepared]:
    """The plan, and what it was made from: with what speaks against the drains in it."""
    made = plan(prepared)
    actions = (task.action for task in made.graph.values())
    nodes = {host.host: host.node for host in made.hosts}
    drains = {a.host: a.options for a in actions if isinstance(a, DrainNode) and nodes[a.host] is not None}
    if world.cluster is None or not drains:
        return made, prepared
    asked = {str(nodes[host]): options for host, options in drains.items()}
    seen = await outlooks(world.cluster, asked, say)
    found = {host: seen[str(nodes[host])] for host in drains if str(nodes[host]) in seen}
    prepared = replace(
        prepared,
        undrainable={host: outlook.never for host, outlook in found.items() if outlook.never is not None},
        drain_waits={host: outlook.waits for host, outlook in found.items() if outlook.waits},
    )
    if not (prepared.undrainable or prepared.drain_waits):
        return made, prepared
    return plan(prepared), prepared
