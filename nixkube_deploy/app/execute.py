"""Run one graph in one world: ledger, host locks, signals, eyes. Used by apply, resume, rollback and reboot alike."""

import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio

from nixkube_deploy.app.hostlocks import HostLocks, ReleaseWhenDone
from nixkube_deploy.app.nodes import NodeDirectory
from nixkube_deploy.app.perform import Performer
from nixkube_deploy.app.world import World
from nixkube_deploy.engine.limits import Limits
from nixkube_deploy.engine.run import Run, RunWorld
from nixkube_deploy.model.action import DrainNode, InstallNixos, SpareVoter, SwitchConfiguration
from nixkube_deploy.model.event import Outcome
from nixkube_deploy.model.names import HostName, NodeName, RunId
from nixkube_deploy.model.task import TaskGraph
from nixkube_deploy.ports.ledger import Ledger
from nixkube_deploy.ports.sink import Sink
from nixkube_deploy.protocols.gate import GateWorld


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What to run and who watches."""

    graph: TaskGraph
    run: RunId
    ledger: Ledger
    known_nodes: Mapping[HostName, NodeName]
    resolve: Callable[[str], frozenset[HostName]]
    """Selector to hosts, for command gates."""
    is_over: Callable[[str], bool] = lambda _run: False
    """Whether a name is that of a run of this controller which has ended: a lock it still has is nobody's."""
    sinks: tuple[Sink, ...] = ()
    limits: Limits = Limits()


async def execute(execution: Execution, world: World) -> Outcome:
    """Run the graph to its end.

    Raises:
        BaseException: a bug in an effect, after the run was drained and the journal closed.
    """
    async with AsyncExitStack() as stack:
        locks = await stack.enter_async_context(HostLocks(world.shell, execution.run, execution.is_over))
        run = _assemble(execution, world, locks)
        await stack.enter_async_context(_signals(run))
        return await run()


def _assemble(execution: Execution, world: World, locks: HostLocks) -> Run:
    nodes = NodeDirectory(world, dict(execution.known_nodes))
    actions = [task.action for task in execution.graph.values()]
    performer = Performer(
        world=world,
        run=execution.run,
        nodes=nodes,
        locks=locks,
        gate_world=GateWorld(
            shell=world.shell,
            cluster=world.cluster,
            web=world.web,
            clock=world.clock,
            node_of=nodes.known,
            hosts=world.whole.hosts,
            resolve=execution.resolve,
            distribution=world.fleet.cluster.distribution,
        ),
        switches={a.host: a for a in actions if isinstance(a, SwitchConfiguration)},
        drains={a.host: a for a in actions if isinstance(a, DrainNode)},
        installs=frozenset(a.host for a in actions if isinstance(a, InstallNixos)),
        resumed=bool(execution.ledger.past),
        voters=frozenset(a.host for a in actions if isinstance(a, SpareVoter)),
    )
    run_world = RunWorld(
        clock=world.clock,
        random=random.Random(),  # noqa: S311 (jitter, not a secret)
        limits=execution.limits,
        sinks=(*execution.sinks, ReleaseWhenDone(locks, execution.graph, execution.ledger.past)),
        run=execution.run,
    )
    return Run(execution.graph, performer, execution.ledger, run_world)


@asynccontextmanager
async def _signals(run: Run) -> AsyncIterator[None]:
    """First SIGINT or SIGTERM drains, the second cancels."""
    async with anyio.create_task_group() as group:
        group.start_soon(_listen, run)
        yield
        group.cancel_scope.cancel()


async def _listen(run: Run) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        count = 0
        async for received in signals:
            count += 1
            if count == 1:
                run.drain(f"{received.name} received")
            else:
                run.cancel()
