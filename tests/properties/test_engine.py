"""What must hold of every rollout, whatever fails, in whatever order things end, wherever the controller dies."""

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from nixkube_deploy.engine.progress import Progress
from nixkube_deploy.model.event import (
    Outcome,
    RunFinished,
    RunStarted,
    SkipCause,
    TaskInterrupted,
    TaskSettled,
    TaskStarted,
    Verdict,
)
from tests.fakes.clock import EPOCH
from tests.fakes.ledger import MemoryLedger
from tests.properties.engine_world import Observer, World, run_world, settled, started, worlds


def cases(count: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, suppress_health_check=slow)


def assert_ended_as_foretold(observer: Observer, ledger: MemoryLedger) -> None:
    """Everything settled once; what ran came to what it had to, and only whole sections were refused."""
    graph, verdicts = observer.world.graph, settled(ledger.records)
    assert verdicts.keys() == graph.keys()
    for task_id, end in verdicts.items():
        section = graph[task_id].section
        if section is not None and section not in observer.entered:
            assert end.verdict is Verdict.SKIPPED, task_id
        else:
            assert end.verdict is observer.foretold[task_id], task_id
        if end.skip is not None and end.skip.is_refusal:
            assert section not in observer.entered, f"{task_id} was refused in an open section"
    performed = {task for task, _ in observer.begun}
    assert performed == {t for t, end in verdicts.items() if end.verdict is not Verdict.SKIPPED}
    assert_refusals_were_right(observer, verdicts)


def assert_refusals_were_right(observer: Observer, verdicts: dict[str, TaskSettled]) -> None:
    rules = observer.world.graph.rules
    causes = {end.skip for end in verdicts.values()}
    if SkipCause.HALTED in causes:
        assert rules.max_failures is not None
        failed = observer.failed_hosts()
        assert len(failed) > rules.max_failures or failed & rules.canaries
    # Places may come free later after all: a section may wait for another one's end, an unhealthy host for its wave.
    entangled = any(task.endswith("/aside") for task in observer.world.graph) or rules.unhealthy
    if SkipCause.BUDGET in causes and not entangled:
        assert observer.unavailable() or any(budget.limit == 0 for budget in rules.budgets)


def assert_outcome(outcome: Outcome, verdicts: dict[str, TaskSettled], observer: Observer) -> None:
    failed = [t for t, end in verdicts.items() if end.verdict is Verdict.FAILED]
    refused = any(end.skip is not None and end.skip.is_refusal for end in verdicts.values())
    if not failed:
        assert outcome is (Outcome.HALTED if refused else Outcome.CONVERGED)
        return
    hosts = {observer.world.graph[t].host for t in failed}
    taken_back = {
        host for host in hosts if verdicts.get(f"{host}/rollback-gate", verdicts[failed[0]]).verdict.went_well
    }
    assert outcome is (Outcome.ROLLED_BACK if taken_back == hosts else Outcome.HALTED)


@given(world=worlds())
@cases(900)
def test_every_task_settles_once_and_nothing_begins_before_it_may(world: World) -> None:
    observer, ledger = Observer.of(world), MemoryLedger()
    outcome = run_world(observer, ledger)
    assert_ended_as_foretold(observer, ledger)
    assert_outcome(outcome, settled(ledger.records), observer)
    assert isinstance(ledger.events[0], RunStarted)
    assert ledger.events[-1] == RunFinished(outcome=outcome)
    event(f"outcome {outcome}")


@given(world=worlds(unlimited=True))
@cases(200)
def test_a_rollout_that_nothing_limits_refuses_nothing(world: World) -> None:
    observer, ledger = Observer.of(world), MemoryLedger()
    run_world(observer, ledger)
    assert {t: end.verdict for t, end in settled(ledger.records).items()} == observer.foretold


@given(world=worlds(), cuts=st.lists(st.integers(1, 40), min_size=1, max_size=3))
@cases(700)
def test_a_controller_that_dies_anywhere_repeats_nothing_and_loses_nothing(world: World, cuts: list[int]) -> None:
    observer, ledger = Observer.of(world), MemoryLedger()
    for cut in cuts:
        ledger.full_after = len(ledger.records) + cut
        try:
            run_world(observer, ledger)
        except (OSError, ExceptionGroup):
            event("died")
        ledger = resume(observer, ledger)
    outcome = run_world(observer, ledger)
    assert_ended_as_foretold(observer, ledger)
    assert_outcome(outcome, settled(ledger.records), observer)


def resume(observer: Observer, ledger: MemoryLedger) -> MemoryLedger:
    """The next controller's ledger; from now on what settled is not to be repeated, what was begun to be verified."""
    done, begun = settled(ledger.records).keys(), started(ledger.records)
    first = len(observer.begun)
    # An end that never reached the ledger is not known to anybody until the task is verified.
    observer.final = {task: verdict for task, verdict in observer.final.items() if task in done}

    def check(task: str) -> None:
        assert task not in done, f"{task} is repeated"
        _, attempt = observer.begun[-1]
        is_first_here = all(earlier != task for earlier, _ in observer.begun[first:-1])
        assert not is_first_here or attempt.resumed == (task in begun), f"{task}: resumed is {attempt.resumed}"

    observer.hook = check
    return MemoryLedger(ledger.records)


@given(world=worlds(), at=st.floats(0, 30))
@cases(400)
def test_a_drain_finishes_open_sections_and_opens_none(world: World, at: float) -> None:
    observer, ledger = Observer.of(world), MemoryLedger()
    entered: list[str] = []
    performed: list[str] = []

    def drain(run) -> None:
        run.drain("SIGINT received")
        entered.extend(observer.entered)
        performed.extend(task for task, _ in observer.begun)

    outcome = run_world(observer, ledger, drain, at)
    if entered or performed:
        assert observer.entered == entered
        afterwards = [task for task, _ in observer.begun[len(performed) :]]
        assert all(world.graph[task].section in entered for task in afterwards)
    verdicts = settled(ledger.records)
    assert (outcome is Outcome.INTERRUPTED) == (len(verdicts) < len(world.graph))
    waits_outside = {t for host in observer.entered for t in world.graph.members(host) if t.endswith("/aside")}
    for host in observer.entered:
        assert all(t in verdicts for t in world.graph.members(host) if not waits_outside), f"{host} was left half-way"
    ledger = resume(observer, ledger)
    run_world(observer, ledger)
    assert_ended_as_foretold(observer, ledger)


@given(world=worlds(), at=st.floats(0, 20))
@cases(300)
def test_a_cancelled_run_says_what_was_interrupted_and_can_be_resumed(world: World, at: float) -> None:
    observer, ledger = Observer.of(world), MemoryLedger()
    running: set[str] = set()

    def cancel(run) -> None:
        run.cancel()
        running.update(observer.running)

    outcome = run_world(observer, ledger, cancel, at)
    interrupted = {e.task for e in ledger.events if isinstance(e, TaskInterrupted)}
    assert interrupted <= running
    assert interrupted | settled(ledger.records).keys() >= running
    assert ledger.events[-1] == RunFinished(outcome=outcome)
    ledger = resume(observer, ledger)
    run_world(observer, ledger)
    assert_ended_as_foretold(observer, ledger)


@given(world=worlds())
@cases(200)
def test_the_fold_of_a_ledger_decides_as_the_run_that_wrote_it_did(world: World) -> None:
    """Replaying any prefix gives a state in which every later start was allowed and every settled task is settled."""
    observer, ledger = Observer.of(world), MemoryLedger()
    run_world(observer, ledger)
    folded = Progress(world.graph)
    for happened in ledger.events:
        if isinstance(happened, TaskStarted):
            assert folded.why(happened.task, EPOCH)
            assert happened.task not in folded.settled
        folded.apply(happened)
    assert len(folded.settled) == len(world.graph)
    assert folded.outcome() is ledger.events[-1].outcome
