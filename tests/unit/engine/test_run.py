import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
import pytest
from trio.testing import MockClock

from nixkube_deploy.engine.limits import Limits
from nixkube_deploy.engine.run import Attempt, Done, Run, RunWorld
from nixkube_deploy.model.action import Stage
from nixkube_deploy.model.event import (
    Outcome,
    Record,
    RunDraining,
    RunFinished,
    RunStarted,
    SkipCause,
    TaskInterrupted,
    TaskReported,
    TaskRetrying,
    TaskSettled,
    TaskStarted,
    Verdict,
)
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import RunId, TaskId
from nixkube_deploy.model.strategy import RetryPolicy, Window
from nixkube_deploy.model.task import Pool, Rules, Task, TaskGraph
from tests.builders import a_graph
from tests.fakes.clock import EPOCH, LoopClock
from tests.fakes.ledger import MemoryLedger
from tests.fakes.perform import ScriptedPerform, fails

RUN = RunId("20261123T030000Z-0000")
A, B = TaskId("a"), TaskId("b")


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@dataclass
class Eyes:
    """A sink that remembers; ``broken`` makes it fail as a display with a bug does."""

    ledger: MemoryLedger
    seen: list[Record] = field(default_factory=list)
    reports: list[TaskReported] = field(default_factory=list)
    broken: bool = False

    def saw(self, record: Record) -> None:
        assert record in self.ledger.records, "shown before it was durable"
        self.seen.append(record)
        if self.broken:
            raise RuntimeError("no such column")

    def heard(self, report: TaskReported) -> None:
        self.reports.append(report)


def a_run(
    graph: TaskGraph,
    perform: ScriptedPerform,
    ledger: MemoryLedger,
    *,
    sinks: Sequence[Eyes] = (),
    limits: Limits | None = None,
) -> Run:
    world = RunWorld(clock=LoopClock(), random=random.Random(1), limits=limits or Limits(), sinks=tuple(sinks), run=RUN)
    return Run(graph, perform, ledger, world)


def a_task(**fields: object) -> Task:
    return Task(id=A, action=Stage(), **fields)


def resumed(ledger: MemoryLedger, upto: int | None = None) -> MemoryLedger:
    return MemoryLedger(ledger.records[:upto])


# --- the ledger comes first ------------------------------------------------------------------------------------------


async def test_a_run_begins_and_ends_on_the_ledger():
    graph, ledger = a_graph("a"), MemoryLedger()
    assert await a_run(graph, ScriptedPerform(), ledger)() is Outcome.CONVERGED
    assert ledger.events == [
        RunStarted(run=RUN, fingerprint=graph.fingerprint),
        TaskStarted(task=A, attempt=1),
        TaskSettled(task=A, verdict=Verdict.SUCCEEDED),
        RunFinished(outcome=Outcome.CONVERGED),
    ]


async def test_a_start_is_on_the_ledger_before_the_effect_begins():
    ledger = MemoryLedger()

    def look(task: Task, attempt: Attempt) -> None:
        assert ledger.events[-1] == TaskStarted(task=task.id, attempt=attempt.number)

    await a_run(a_graph("a>b"), ScriptedPerform(before=look), ledger)()


async def test_finding_nothing_to_do_is_a_verdict_of_its_own():
    ledger = MemoryLedger()
    script = {A: [Done(changed=False, detail="the closure was there")]}
    await a_run(a_graph("a"), ScriptedPerform(script=script), ledger)()
    assert ledger.events[-2] == TaskSettled(task=A, verdict=Verdict.UNCHANGED, detail="the closure was there")


async def test_an_empty_graph_has_converged():
    assert await a_run(TaskGraph([]), ScriptedPerform(), MemoryLedger())() is Outcome.CONVERGED


async def test_skips_are_committed_with_their_reason():
    ledger = MemoryLedger()
    outcome = await a_run(a_graph("a>b"), ScriptedPerform(script={A: [fails()]}), ledger)()
    expected = TaskSettled(task=B, verdict=Verdict.SKIPPED, detail="needs a, which failed", skip=SkipCause.DEPENDENCY)
    assert ledger.events[-2] == expected
    assert outcome is Outcome.HALTED


async def test_a_ledger_that_cannot_be_written_stops_everything_at_once():
    ledger = MemoryLedger(full_after=3)
    perform = ScriptedPerform(durations={A: 5.0, B: 9.0})
    with pytest.raises(OSError, match="No space left"):
        await a_run(a_graph("a>c; b"), perform, ledger)()
    assert sorted(perform.performed) == [A, B]
    assert not perform.running


async def test_the_same_run_works_on_the_production_event_loop():
    ledger = MemoryLedger()
    run = a_run(a_graph("w1/a>w1/b; w2/a>w2/b"), ScriptedPerform(), ledger)
    assert await anyio.to_thread.run_sync(lambda: anyio.run(run.__call__, backend="asyncio")) is Outcome.CONVERGED
    assert len(run.progress.settled) == 4


# --- attempts --------------------------------------------------------------------------------------------------------


async def test_a_transient_failure_is_tried_again_after_a_while():
    task = a_task(retry=RetryPolicy(attempts=3, backoff=5.0, factor=2.0, jitter=0.0))
    ledger = MemoryLedger(clock=LoopClock())
    perform = ScriptedPerform(script={A: [fails("no answer", transient=True), fails("no", transient=True), Done()]})
    assert await a_run(TaskGraph([task]), perform, ledger)() is Outcome.CONVERGED
    assert [call.number for call in perform.calls] == [1, 2, 3]
    begin = perform.calls[0].at
    assert [call.at - begin for call in perform.calls] == [0.0, 5.0, 15.0]
    retrying = [e for e in ledger.events if isinstance(e, TaskRetrying)]
    assert [(e.attempt, e.delay, e.failure.message) for e in retrying] == [(1, 5.0, "no answer"), (2, 10.0, "no")]


async def test_jitter_comes_from_the_chance_that_was_passed_in():
    task = a_task(retry=RetryPolicy(attempts=2, backoff=10.0, jitter=0.2))
    ledger = MemoryLedger()
    await a_run(TaskGraph([task]), ScriptedPerform(script={A: [fails(transient=True), Done()]}), ledger)()
    expected = 10.0 * (1 + 0.2 * (2 * random.Random(1).random() - 1))
    assert [e.delay for e in ledger.events if isinstance(e, TaskRetrying)] == [expected]


async def test_a_failure_that_no_attempt_can_mend_is_final_at_once():
    task, ledger = a_task(retry=RetryPolicy(attempts=5)), MemoryLedger()
    perform = ScriptedPerform(script={A: [fails("permission denied")]})
    assert await a_run(TaskGraph([task]), perform, ledger)() is Outcome.HALTED
    assert len(perform.calls) == 1


async def test_the_last_attempts_failure_is_the_tasks():
    task, ledger = a_task(retry=RetryPolicy(attempts=2)), MemoryLedger()
    perform = ScriptedPerform(script={A: [fails("first", transient=True), fails("second", transient=True)]})
    await a_run(TaskGraph([task]), perform, ledger)()
    settled = ledger.events[-2]
    assert settled.verdict is Verdict.FAILED
    assert settled.failure.message == "second"


async def test_an_attempt_that_takes_too_long_ends_and_is_tried_again():
    task = a_task(timeout=30.0, retry=RetryPolicy(attempts=2))
    ledger = MemoryLedger()
    await a_run(TaskGraph([task]), ScriptedPerform(durations={A: 31.0}), ledger)()
    failures = [e.failure for e in ledger.events if isinstance(e, TaskRetrying | TaskSettled)]
    assert [f.kind for f in failures] == [FailureKind.TIMEOUT, FailureKind.TIMEOUT]
    assert failures[0].message == "did not finish within 30 s"


async def test_a_timeout_from_within_an_effect_is_a_timeout_too():
    ledger = MemoryLedger()
    await a_run(a_graph("a"), ScriptedPerform(script={A: [TimeoutError("the eviction took too long")]}), ledger)()
    failure = ledger.events[-2].failure
    assert (failure.kind, failure.message) == (FailureKind.TIMEOUT, "the eviction took too long")


async def test_an_expected_failure_out_of_a_task_group_is_still_expected():
    wrapped = ExceptionGroup("unhandled errors in a TaskGroup", [fails("no route")])
    ledger = MemoryLedger()
    assert await a_run(a_graph("a"), ScriptedPerform(script={A: [wrapped]}), ledger)() is Outcome.HALTED
    assert ledger.events[-2].failure.message == "no route"


# --- hosts and pools -------------------------------------------------------------------------------------------------


async def test_two_tasks_of_one_host_never_run_at_once():
    perform = ScriptedPerform(durations={TaskId(f"w1/{t}"): 1.0 for t in "abc"})
    await a_run(a_graph("w1/a; w1/b; w1/c"), perform, MemoryLedger())()
    assert perform.most_at_once == 1
    assert len(perform.calls) == 3


async def test_a_pool_bounds_how_many_tasks_run_at_once():
    graph = a_graph("; ".join(f"w{n}/copy" for n in range(9)), task=Task(id=TaskId(""), action=Stage(), pool=Pool.COPY))
    perform = ScriptedPerform(durations=dict.fromkeys(graph, 1.0))
    await a_run(graph, perform, MemoryLedger(), limits=Limits(capacities={Pool.COPY: 4}))()
    assert perform.most_at_once == 4


async def test_a_task_that_backs_off_holds_no_place_in_its_pool():
    one = Limits(capacities={Pool.SSH: 1})
    graph = a_graph("w1/a; w2/a", task=a_task(retry=RetryPolicy(attempts=2, backoff=50.0, jitter=0.0)))
    perform = ScriptedPerform(
        script={TaskId("w1/a"): [fails(transient=True), Done()], TaskId("w2/a"): [fails(transient=True), Done()]}
    )
    ledger = MemoryLedger(clock=LoopClock())
    await a_run(graph, perform, ledger, limits=one)()
    assert ledger.records[-1].at - ledger.records[0].at == pytest.approx(50.0)


async def test_a_section_that_waits_for_a_token_while_the_run_is_halted_does_not_open():
    graph = a_graph("w1/in; w2/in; w3/in", sections={f"w{n}": f"w{n}/in" for n in (1, 2, 3)})
    perform = ScriptedPerform(script={task: [fails()] for task in graph}, durations=dict.fromkeys(graph, 1.0))
    ledger = MemoryLedger()
    assert await a_run(graph, perform, ledger, limits=Limits(capacities={Pool.SSH: 1}))() is Outcome.HALTED
    assert len(perform.calls) == 1
    assert sum(e.skip is SkipCause.HALTED for e in ledger.events if isinstance(e, TaskSettled)) == 2


async def test_a_window_that_closes_while_sections_wait_skips_them():
    closing = Window(days=frozenset({0}), start=0, end=EPOCH.hour * 60 + 1)
    graph = a_graph(
        "w1/in; w2/in", sections={"w1": "w1/in", "w2": "w2/in"}, rules=Rules(windows=(closing,)), task=a_task()
    )
    perform = ScriptedPerform(durations=dict.fromkeys(graph, 90.0))
    ledger = MemoryLedger()
    run = a_run(graph, perform, ledger, limits=Limits(capacities={Pool.SSH: 1}))
    assert LoopClock().now() - EPOCH < timedelta(seconds=1)
    assert await run() is Outcome.HALTED
    assert [e.skip for e in ledger.events if isinstance(e, TaskSettled)] == [None, SkipCause.WINDOW]


# --- drain and cancel ------------------------------------------------------------------------------------------------


async def during(run: Run, seconds: float, act) -> Outcome:
    async with anyio.create_task_group() as group:

        async def later() -> None:
            await anyio.sleep(seconds)
            act()

        group.start_soon(later)
        return await run()


async def test_a_drain_finishes_what_is_open_rollbacks_included_and_leaves_the_rest_for_later():
    graph = a_graph(
        "w1/in>w1/out; w1/in,w1/out!w1/back; w2/in; copy>copied",
        sections={"w1": "w1/in w1/out w1/back -> w1/out w1/back", "w2": "w2/in"},
        waves={"w2": 2},
    )
    perform = ScriptedPerform(script={TaskId("w1/out"): [fails()]}, durations=dict.fromkeys(graph, 2.0))
    ledger = MemoryLedger()
    run = a_run(graph, perform, ledger)
    assert await during(run, 1.0, lambda: run.drain("SIGINT received")) is Outcome.INTERRUPTED
    assert sorted(perform.performed) == ["copy", "w1/back", "w1/in", "w1/out"]
    assert RunDraining(reason="SIGINT received") in ledger.events
    assert sorted(graph.keys() - run.progress.settled.keys()) == ["copied", "w2/in"]
    ledger, perform = resumed(ledger), ScriptedPerform()
    assert await a_run(graph, perform, ledger)() is Outcome.HALTED
    assert perform.performed == ["copied"]


async def test_draining_twice_says_so_once():
    graph, ledger = a_graph("a>b"), MemoryLedger()
    run = a_run(graph, ScriptedPerform(durations={A: 2.0}), ledger)

    def twice() -> None:
        run.drain("first")
        run.drain("second")

    await during(run, 1.0, twice)
    assert [e.reason for e in ledger.events if isinstance(e, RunDraining)] == ["first"]


async def test_a_run_drained_before_it_begins_starts_nothing():
    ledger, perform = MemoryLedger(), ScriptedPerform()
    run = a_run(a_graph("a"), perform, ledger)
    run.drain("SIGTERM received")
    assert await run() is Outcome.INTERRUPTED
    assert not perform.calls
    run.drain("too late to matter")
    assert isinstance(ledger.events[-1], RunFinished)


async def test_a_drain_does_not_wait_for_the_back_off_of_what_would_not_start_again():
    task = a_task(retry=RetryPolicy(attempts=2, backoff=60.0, ceiling=3600.0, jitter=0.0))
    ledger = MemoryLedger(clock=LoopClock())
    run = a_run(TaskGraph([task]), ScriptedPerform(script={A: [fails(transient=True), Done()]}), ledger)
    assert await during(run, 1.0, lambda: run.drain("SIGINT received")) is Outcome.INTERRUPTED
    assert ledger.records[-1].at - ledger.records[0].at == pytest.approx(1.0)


async def test_a_task_of_an_open_section_backs_off_as_long_as_ever_while_the_run_drains():
    task = a_task(retry=RetryPolicy(attempts=2, backoff=30.0, jitter=0.0))
    graph = a_graph("w1/in", sections={"w1": "w1/in"}, task=task)
    ledger = MemoryLedger(clock=LoopClock())
    run = a_run(graph, ScriptedPerform(script={TaskId("w1/in"): [fails(transient=True), Done()]}), ledger)
    assert await during(run, 1.0, lambda: run.drain("SIGINT received")) is Outcome.CONVERGED
    assert ledger.records[-1].at - ledger.records[0].at == pytest.approx(30.0)


async def test_a_drain_that_lets_everything_finish_interrupts_nothing():
    ledger = MemoryLedger()
    run = a_run(a_graph("a"), ScriptedPerform(durations={A: 2.0}), ledger)
    assert await during(run, 1.0, lambda: run.drain("SIGINT received")) is Outcome.CONVERGED


async def test_a_cancelled_run_records_what_was_interrupted():
    graph, ledger = a_graph("w1/in>w1/out; b", sections={"w1": "w1/in w1/out"}), MemoryLedger()
    run = a_run(graph, ScriptedPerform(durations={TaskId("w1/in"): 9.0, B: 9.0}), ledger)
    assert await during(run, 1.0, run.cancel) is Outcome.INTERRUPTED
    assert {e.task for e in ledger.events if isinstance(e, TaskInterrupted)} == {"w1/in", "b"}
    assert ledger.events[-1] == RunFinished(outcome=Outcome.INTERRUPTED)


async def test_a_run_cancelled_before_it_begins_starts_nothing():
    perform = ScriptedPerform()
    run = a_run(a_graph("a"), perform, MemoryLedger())
    run.cancel()
    assert await run() is Outcome.INTERRUPTED
    assert not perform.calls


async def test_cancelling_whoever_waits_for_the_run_is_recorded_too():
    ledger = MemoryLedger()
    with anyio.move_on_after(1.0):
        await a_run(a_graph("a"), ScriptedPerform(durations={A: 9.0}), ledger)()
    assert ledger.events[-2:] == [TaskInterrupted(task=A), RunFinished(outcome=Outcome.INTERRUPTED)]


# --- resuming --------------------------------------------------------------------------------------------------------


async def test_a_resumed_run_says_so_and_repeats_nothing():
    graph, ledger = a_graph("a>b"), MemoryLedger()
    await a_run(graph, ScriptedPerform(), ledger)()
    ledger = resumed(ledger, upto=3)
    perform = ScriptedPerform()
    assert await a_run(graph, perform, ledger)() is Outcome.CONVERGED
    assert ledger.new[0] == RunStarted(run=RUN, fingerprint=graph.fingerprint, resumed=True)
    assert perform.performed == [B]
    assert not perform.calls[0].resumed


async def test_a_task_that_was_begun_and_never_settled_is_performed_again_as_resumed():
    graph, ledger = a_graph("a"), MemoryLedger()
    await a_run(graph, ScriptedPerform(), ledger)()
    perform = ScriptedPerform()
    await a_run(graph, perform, resumed(ledger, upto=2))()
    assert [(c.task, c.number, c.resumed) for c in perform.calls] == [(A, 1, True)]


async def test_every_attempt_of_a_resumed_task_is_told_to_verify_first():
    task = a_task(retry=RetryPolicy(attempts=3))
    graph, ledger = TaskGraph([task]), MemoryLedger()
    script = [fails(transient=True), fails(transient=True), Done()]
    await a_run(graph, ScriptedPerform(script={A: script}), ledger)()
    assert isinstance(ledger.events[2], TaskRetrying)
    perform = ScriptedPerform(script={A: script[1:]})
    await a_run(graph, perform, resumed(ledger, upto=3))()
    assert [(c.number, c.resumed) for c in perform.calls] == [(2, True), (3, True)]


# --- bugs ------------------------------------------------------------------------------------------------------------


async def test_a_bug_drains_the_run_and_is_raised_again_at_the_end():
    graph = a_graph("a>z; w1/in>w1/out; c>d", sections={"w1": "w1/in w1/out"})
    bug = KeyError("node")
    perform = ScriptedPerform(script={A: [bug]}, durations={TaskId("w1/in"): 5.0, TaskId("c"): 5.0})
    ledger = MemoryLedger()
    run = a_run(graph, perform, ledger)
    with pytest.raises(KeyError) as caught:
        await run()
    assert caught.value is bug
    assert run.progress.settled[A].failure.kind is FailureKind.BUG
    assert "KeyError" in run.progress.settled[A].failure.evidence[-1]
    assert RunDraining(reason="a bug: KeyError('node')") in ledger.events
    assert ledger.events[-1] == RunFinished(outcome=Outcome.BROKEN)
    assert sorted(perform.performed) == ["a", "c", "w1/in", "w1/out"]


async def test_the_first_of_several_bugs_is_the_one_that_is_raised():
    perform = ScriptedPerform(script={A: [KeyError("first")], B: [ValueError("second")]}, durations={B: 1.0})
    with pytest.raises(KeyError, match="first"):
        await a_run(a_graph("a; b"), perform, MemoryLedger())()


async def test_a_broken_display_drains_the_run_and_does_not_drop_hosts_half_way():
    graph, ledger = a_graph("w1/in>w1/out; later~z", sections={"w1": "w1/in w1/out"}), MemoryLedger()
    good, bad = Eyes(ledger), Eyes(ledger, broken=False)
    perform = ScriptedPerform(durations={TaskId("w1/in"): 1.0, TaskId("later"): 2.0})
    run = a_run(graph, perform, ledger, sinks=(bad, good))

    def break_it() -> None:
        bad.broken = True

    with pytest.raises(RuntimeError, match="no such column"):
        await during_unwrapped(run, 0.5, break_it)
    assert "w1/out" in perform.performed
    assert [r.seq for r in good.seen] == list(range(len(ledger.records)))


async def during_unwrapped(run: Run, seconds: float, act) -> Outcome:
    try:
        return await during(run, seconds, act)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


# --- eyes ------------------------------------------------------------------------------------------------------------


async def test_sinks_see_every_record_in_order_and_hear_reports():
    ledger = MemoryLedger()
    eyes = Eyes(ledger)

    def report(_task: Task, attempt: Attempt) -> None:
        attempt.report("evicting 3 pods")

    await a_run(a_graph("a"), ScriptedPerform(before=report), ledger, sinks=[eyes])()
    assert eyes.seen == ledger.records
    assert eyes.reports == [TaskReported(task=A, line="evicting 3 pods")]


# --- limits ----------------------------------------------------------------------------------------------------------


def test_limits_have_defaults_for_every_pool():
    assert {pool: Limits().of(pool) for pool in Pool} == {
        Pool.SSH: 64,
        Pool.COPY: 8,
        Pool.CLUSTER: 32,
        Pool.INSTALL: 8,
        Pool.WAIT: float("inf"),
    }
    assert Limits(capacities={Pool.COPY: 2}).of(Pool.COPY) == 2
