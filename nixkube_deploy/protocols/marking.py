"""Marks on the Nodes a run will take out of service later, so that evicted pods rather go where they can stay.

A mark is a taint of our own with the effect PreferNoSchedule and the run as its value: it forbids nothing, and whoever
holds the cluster's lock may take away what dead runs left. It deliberately fails nobody: a run without it only moves
some pods more than once.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import anyio

from nixkube_deploy.model.cluster import TO_COME_TAINT
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.names import RunId
from nixkube_deploy.ports.cluster import Cluster, LeaseConflict, NodePatch
from nixkube_deploy.protocols.together import together

AT_ONCE = 8
CONFLICTS = 10
CONFLICT_PAUSE = 0.2
MARKING_PATIENCE = 60.0
"""Seconds that marking may hold up a run."""
UNMARKING_PATIENCE = 30.0
"""Seconds for taking the marks away at the end; the next run takes away what is left."""

Say = Callable[[str], None]


@asynccontextmanager
async def marked(cluster: Cluster, nodes: frozenset[str], run: RunId, say: Say) -> AsyncIterator[None]:
    """Mark exactly these Nodes for the length of the block; each one's mark goes earlier, when it is uncordoned.

    The block must hold the cluster's lock: marks of other runs are those of dead ones, and are taken away.
    """
    await _leniently(lambda: mark_exactly(cluster, nodes, run), MARKING_PATIENCE, say)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await _leniently(lambda: _unmark(cluster, run), UNMARKING_PATIENCE, say)


async def mark_exactly(cluster: Cluster, nodes: frozenset[str], run: RunId) -> int:
    """Mark these Nodes as this run's and no others; the number of marks that dead runs had left elsewhere.

    Raises:
        TaskError: CLUSTER, the API refused or did not answer.
    """
    found = {node.name: node.marked_by for node in await cluster.nodes()}
    left = [name for name, owner in found.items() if owner is not None and name not in nodes]
    await _patch_all(cluster, [name for name in nodes & found.keys() if found[name] != run], run)
    await _patch_all(cluster, left, None)
    return len(left)


async def _unmark(cluster: Cluster, run: RunId) -> int:
    """Only what is our own: by now the lock may be somebody else's."""
    ours = [node.name for node in await cluster.nodes() if node.marked_by == run]
    await _patch_all(cluster, ours, None)
    return len(ours)


async def _patch_all(cluster: Cluster, nodes: Iterable[str], value: str | None) -> None:
    failures = list[TaskError]()

    async def patch(name: str) -> None:
        if not failures:
            try:
                await _patch(cluster, name, value)
            except TaskError as error:
                failures.append(error)

    await together(patch, nodes, AT_ONCE)
    if failures:
        raise failures[0]


async def _patch(cluster: Cluster, node: str, value: str | None) -> None:
    """Kubelets and controllers write Nodes all the time; one that is contended for too long is left as it is."""
    for _ in range(CONFLICTS):
        try:
            await cluster.patch_node(node, NodePatch(taints=((TO_COME_TAINT, value),)))
        except LeaseConflict:
            await anyio.sleep(CONFLICT_PAUSE)
        else:
            return


async def _leniently(work: Callable[[], Awaitable[int]], patience: float, say: Say) -> None:
    with anyio.move_on_after(patience) as scope:
        try:
            await work()
        except TaskError as error:
            say(f"the marks on the Nodes still to come are not as they should be: {error.failure.message}")
    if scope.cancelled_caught:
        say(f"the marks on the Nodes still to come are not as they should be after {patience:g} s; going on")
