"""Which Nodes a run has yet to take out of service, from its graph and journal; ``protocols.marking`` marks them."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from nixkube_deploy.app.console import Console
from nixkube_deploy.app.world import World
from nixkube_deploy.model.action import DrainNode
from nixkube_deploy.model.event import Record, TaskSettled
from nixkube_deploy.model.names import HostName, NodeName, RunId
from nixkube_deploy.model.task import TaskGraph
from nixkube_deploy.protocols.marking import marked

WORTH_MARKING = 2
"""With one host to drain there is no other that its pods should avoid."""


def to_come(graph: TaskGraph, past: Iterable[Record], nodes: Mapping[HostName, NodeName]) -> frozenset[str]:
    """The Nodes of hosts that are to be drained and are not done with."""
    settled = {record.event.task for record in past if isinstance(record.event, TaskSettled)}
    left = {task.host for task in graph.values() if task.id not in settled}
    drained = {task.host for task in graph.values() if isinstance(task.action, DrainNode)}
    found = frozenset(nodes[host] for host in drained & left if host is not None and host in nodes)
    return found if len(found) >= WORTH_MARKING else frozenset()


@asynccontextmanager
async def marks(world: World, nodes: frozenset[str], run: RunId, console: Console) -> AsyncIterator[None]:
    """Mark them for the length of the block, which holds the cluster's lock; marks of dead runs go."""
    if world.cluster is None:
        yield
        return
    async with marked(world.cluster, nodes, run, console.say):
        yield
