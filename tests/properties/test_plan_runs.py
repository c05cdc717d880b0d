"""Plans run by the real engine, with effects that do nothing: what ``plan`` promises, ``engine`` keeps."""

import random

import anyio
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from nixkube_deploy.engine.limits import Limits
from nixkube_deploy.engine.run import Run, RunWorld
from nixkube_deploy.model.event import Outcome, TaskSettled, Verdict
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.model.strategy import OnFailure, Strategy
from nixkube_deploy.model.task import Pool
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.rollout import rollout
from tests.builders import a_flake, a_fleet, closures_for, facts_for
from tests.fakes.clock import LoopClock
from tests.fakes.ledger import MemoryLedger
from tests.fakes.perform import ScriptedPerform, fails
from tests.strategies import fleets, preparations

CASES = settings(max_examples=60, deadline=None)
LIMITS = Limits(capacities={Pool.SSH: 4, Pool.COPY: 4, Pool.CLUSTER: 4, Pool.INSTALL: 4})


def run(plan: Plan, **script):
    """The outcome, and each task's verdict."""
    perform = ScriptedPerform(script={task.replace("__", "/"): (end,) for task, end in script.items()})
    ledger = MemoryLedger()
    world = RunWorld(clock=LoopClock(), random=random.Random(0), limits=LIMITS, sinks=(), run="20260101T000000Z-0000")

    async def main():
        return await Run(plan.graph, perform, ledger, world)()

    outcome = anyio.run(main, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})
    settled = {e.task: e.verdict for e in ledger.events if isinstance(e, TaskSettled)}
    return outcome, settled


def plan_of(fleet, changed="", **facts):
    prepared = Prepared(flake=a_flake(), facts=facts_for(fleet, **facts), closures=closures_for(fleet, changed=changed))
    return rollout(fleet, prepared, Choices())


@CASES
@given(fleets().flatmap(lambda fleet: st.tuples(st.just(fleet), preparations(fleet))))
def test_a_plan_without_lasting_absences_converges_when_every_step_goes_well(world):
    fleet, prepared = world
    plan = rollout(fleet, prepared, Choices())
    away = plan.graph.rules.unhealthy
    assume(plan.changes_anything and len(away) <= 1 and away <= plan.graph.sections.keys())
    outcome, settled = run(plan)
    assert outcome is Outcome.CONVERGED
    main = {task for task in plan.graph if "rollback" not in task and not task.endswith("undrain")}
    assert {task for task, verdict in settled.items() if verdict is Verdict.SUCCEEDED} == main


def test_a_host_whose_gate_stays_shut_is_taken_back_and_given_back_and_nobody_else_begins():
    plan = plan_of(a_fleet("cp1 | w1 w2"), "cp1=reboot w1=reboot w2=reboot")
    outcome, settled = run(plan, w1__gate=fails())
    assert outcome is Outcome.ROLLED_BACK
    assert settled["w1/rollback-uncordon"] is Verdict.SUCCEEDED
    assert settled["w1/uncordon"] is Verdict.SKIPPED
    assert settled["w2/copy"] is Verdict.SUCCEEDED
    assert settled["w2/cordon"] is settled["cp1/cordon"] is Verdict.SKIPPED


def test_a_drain_that_fails_is_undone_and_nothing_is_rolled_back():
    plan = plan_of(a_fleet("w1 w2"), "w1 w2")
    _, settled = run(plan, w1__drain=fails())
    assert settled["w1/undrain"] is Verdict.SUCCEEDED
    assert settled["w1/rollback"] is settled["w1/activate"] is settled["w2/cordon"] is Verdict.SKIPPED


def test_a_copy_that_fails_costs_only_its_own_host_when_failures_do_not_stop_the_run():
    plan = plan_of(a_fleet("w1 w2", strategy=Strategy(on_failure=OnFailure.CONTINUE)), "w1 w2")
    _, settled = run(plan, w1__copy=fails())
    assert settled["w1/cordon"] is Verdict.SKIPPED
    assert settled["w2/uncordon"] is Verdict.SUCCEEDED


def test_a_host_that_a_dead_run_left_cordoned_does_not_block_its_group():
    plan = plan_of(a_fleet("w1 w2"), "w1", leftover="w2")
    outcome, settled = run(plan)
    assert outcome is Outcome.CONVERGED
    assert settled["w2/uncordon"] is settled["w1/uncordon"] is Verdict.SUCCEEDED
