"""The main job: prepare, plan, run. Everything that can be wrong is found before the first host is touched."""

import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from nixkube_deploy.app.activators import with_activators
from nixkube_deploy.app.clock import new_run_id
from nixkube_deploy.app.compare import differences
from nixkube_deploy.app.console import Console
from nixkube_deploy.app.execute import Execution, execute
from nixkube_deploy.app.foresee import with_outlook
from nixkube_deploy.app.marks import marks, to_come
from nixkube_deploy.app.prepare import prepare
from nixkube_deploy.app.privilege import with_rights
from nixkube_deploy.app.request import Request, Target
from nixkube_deploy.app.world import World
from nixkube_deploy.inventory.select import select
from nixkube_deploy.journal.file import open_journal
from nixkube_deploy.journal.history import is_over, runs
from nixkube_deploy.journal.lock import user_name
from nixkube_deploy.model.error import Locked, Refused
from nixkube_deploy.model.event import Outcome, Record, TaskSettled
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Fleet
from nixkube_deploy.model.names import HostName, NodeName, RunId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from nixkube_deploy.protocols.lease import LOCK_NAME, bury, hold_lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a command over a fleet ended."""

    plan: Plan
    run: RunId | None = None
    """None when there was nothing to do."""
    outcome: Outcome = Outcome.CONVERGED
    records: tuple[Record, ...] = ()

    @property
    def exit_code(self) -> int:
        """The outcome's; 4 also when hosts were left out because of a problem; 6 when only locks were in the way."""
        failures = [r.event.failure for r in self.records if isinstance(r.event, TaskSettled) and r.event.failure]
        ended = self.outcome in {Outcome.HALTED, Outcome.ROLLED_BACK}
        if ended and failures and all(failure.kind is FailureKind.LOCKED for failure in failures):
            return Locked.exit_code
        left_out = any(host.problem is not None for host in self.plan.hosts)
        if self.outcome is Outcome.CONVERGED and left_out:
            return Outcome.HALTED.exit_code
        return self.outcome.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan and what it was made from."""

    plan: Plan
    prepared: Prepared

    @property
    def nodes(self) -> dict[HostName, NodeName]:
        """The Nodes found while preparing."""
        return {name: f.node.name for name, f in self.prepared.facts.items() if f.node is not None}


async def plan_rollout(request: Request, target: Target, world: World, console: Console) -> Planned:
    """Everything ``apply`` would do, touching nothing.

    Raises:
        Refused: nothing could be evaluated, or the cluster does not answer.
    """
    prepared = await with_rights(world, await with_activators(world, await prepare(world, console.say)))
    if request.diff:
        prepared = replace(prepared, differences=await differences(world, prepared, console.say))
    choices = Choices(
        bootstrap=request.bootstrap,
        only_install=request.only_install,
        yes_wipe=request.yes_wipe,
        mode=request.mode,
        digest=target.loaded.digest,
    )
    plan, prepared = await with_outlook(world, prepared, lambda p: rollout(world.fleet, p, choices), console.say)
    return Planned(plan=plan, prepared=prepared)


async def carry_out(planned: Planned, request: Request, world: World, state: Path, console: Console) -> Report:
    """Check the plan, ask, run it.

    Raises:
        Refused: too many hosts have problems, or the answer was no.
        Locked: another controller is at work.
    """
    plan = planned.plan
    refuse_on_problems(plan, world.fleet, request)
    if not plan.changes_anything:
        await _unmark(planned, world, state, console)
        return Report(plan=plan)
    if not console.approve(plan):
        raise Refused("not approved; nothing was touched", hint="add --yes to skip the question")
    run = new_run_id(world.clock.now(), random.SystemRandom())
    return await run_plan(plan, run, planned.nodes, world, state, console)


async def _unmark(planned: Planned, world: World, state: Path, console: Console) -> None:
    """Nothing is left to do, but a run left Nodes marked as still to come; if it died, the marks go."""
    if not any(f.node is not None and f.node.marked_by for f in planned.prepared.facts.values()):
        return
    run = new_run_id(world.clock.now(), random.SystemRandom())
    with suppress(Locked):  # A living run's marks are its own business.
        async with _cluster_lock(world, run, state, console), marks(world, frozenset(), run, console):
            console.say("took marks of a run that died from Nodes")


async def run_plan(
    plan: Plan, run: RunId, nodes: dict[HostName, NodeName], world: World, state: Path, console: Console
) -> Report:
    """Execute a plan under its journal; a run id that is on disk already is taken up where it stopped.

    Raises:
        Locked: another controller is at work on the run or on the cluster.
    """
    with open_journal(state, run, plan, world.clock) as ledger:
        nodes_to_come = to_come(plan.graph, ledger.past, nodes)
        async with (
            _cluster_lock(world, run, state, console),
            marks(world, nodes_to_come, run, console),
            console.watch(plan, run, ledger.past) as sinks,
        ):
            outcome = await execute(
                Execution(
                    graph=plan.graph,
                    run=run,
                    ledger=ledger,
                    known_nodes=nodes,
                    resolve=_resolver(world.whole),
                    is_over=partial(is_over, state),
                    sinks=sinks,
                ),
                world,
            )
        return Report(plan=plan, run=run, outcome=outcome, records=ledger.records())


@asynccontextmanager
async def _cluster_lock(world: World, run: RunId, state: Path, console: Console) -> AsyncIterator[None]:
    """One run a cluster, whatever machine its controller is on. Plain hosts have their own locks only."""
    if world.cluster is None:
        yield
        return
    here = f"{user_name()}@{socket.gethostname()}"

    def is_dead(holder: str) -> bool:
        """Ours is the lock of the inventory, so nobody here works on another run of it."""
        known = (each.run for each in runs(state) if each.inventory == world.fleet.source)
        return any(holder == f"{here}:{each}" for each in known if each != run)

    await bury(world.cluster, LOCK_NAME, is_dead)
    holder = f"{here}:{run}"
    async with hold_lease(world.cluster, world.clock, LOCK_NAME, holder, say=console.say):
        yield


def _resolver(fleet: Fleet) -> Callable[[str], frozenset[HostName]]:
    return lambda selector: select(selector, fleet)


def refuse_on_problems(plan: Plan, fleet: Fleet, request: Request) -> None:
    """More hosts with problems than ``max_failures`` allows and nothing is touched at all."""
    problems = tuple((host.host, host.problem) for host in plan.hosts if host.problem is not None)
    if request.skip_unreachable:
        problems = tuple(p for p in problems if p[1].kind is not FailureKind.UNREACHABLE)
    strategy = plan.strategy or fleet.strategy
    allowed = strategy.max_failures.of(len(plan.hosts))
    if strategy.on_failure.keeps_going or len(problems) <= allowed:
        return
    names = ",".join(f"!{name}" for name, _ in problems)
    raise Refused(
        f"{len(problems)} of {len(plan.hosts)} hosts cannot be deployed and max_failures is {allowed}; "
        "nothing was touched",
        hint=f"mend them, leave them out (--on '{names}'), or raise strategy.max_failures",
        failures=tuple((str(name), failure) for name, failure in problems),
    )
