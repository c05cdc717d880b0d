import json
from pathlib import Path

import pytest

from nixkube_deploy.journal.file import open_journal
from nixkube_deploy.journal.history import HostResult, is_over, read, results, run_ids, runs, unfinished
from nixkube_deploy.model.error import DeployError, UsageError
from nixkube_deploy.model.event import (
    Event,
    Outcome,
    Record,
    RunFinished,
    RunStarted,
    SkipCause,
    TaskSettled,
    TaskStarted,
    Verdict,
)
from nixkube_deploy.model.names import HostName, RunId, TaskId
from nixkube_deploy.model.rollout import Plan
from tests.builders import a_failure, a_flake, a_graph
from tests.fakes.clock import EPOCH, ManualClock

FIRST, SECOND = RunId("20261123T030000Z-aaaa"), RunId("20261124T030000Z-bbbb")
INVENTORY = "/etc/fleet/inventory.yaml"
GRAPH = "w1/copy>w1/switch; w2/copy>w2/switch; w1/copy,w2/copy~staged"


def a_plan(inventory: str = INVENTORY) -> Plan:
    return Plan(inventory=inventory, digest="d1", flake=a_flake(), hosts=(), graph=a_graph(GRAPH))


def settled(task: str, verdict: Verdict = Verdict.SUCCEEDED, **fields: object) -> TaskSettled:
    return TaskSettled(task=TaskId(task), verdict=verdict, **fields)


def skipped(task: str, cause: SkipCause, detail: str = "") -> TaskSettled:
    return settled(task, Verdict.SKIPPED, skip=cause, detail=detail)


def store(state: Path, run: RunId, *events: Event, inventory: str = INVENTORY) -> Path:
    clock = ManualClock()
    with open_journal(state, run, a_plan(inventory), clock) as journal:
        for event in events:
            journal.append(event)
            clock.advance(10)
    return state / "runs" / f"{run}.jsonl"


STARTED = RunStarted(run=FIRST, fingerprint="f")
ALL = [settled(task) for task in ("w1/copy", "w2/copy", "staged", "w1/switch", "w2/switch")]


# --- the list --------------------------------------------------------------------------------------------------------


def test_no_state_is_no_runs(tmp_path):
    assert runs(tmp_path / "nothing") == ()


def test_runs_are_listed_newest_first(tmp_path):
    store(tmp_path, FIRST, STARTED)
    store(tmp_path, SECOND, STARTED)
    assert [summary.run for summary in runs(tmp_path)] == [SECOND, FIRST]
    assert run_ids(tmp_path) == [SECOND, FIRST]


def test_a_finished_run_is_summed_up(tmp_path):
    failure = settled("w2/switch", Verdict.FAILED, failure=a_failure())
    store(tmp_path, FIRST, STARTED, *ALL[:4], failure, RunFinished(outcome=Outcome.HALTED))
    (summary,) = runs(tmp_path)
    assert (summary.inventory, summary.outcome, summary.hosts, summary.tasks) == (INVENTORY, Outcome.HALTED, 2, 5)
    assert (summary.started, summary.finished) == (EPOCH.timestamp(), EPOCH.timestamp() + 60)
    assert summary.counts == {Verdict.SUCCEEDED: 4, Verdict.FAILED: 1}
    assert summary.unsettled == 0
    assert not summary.is_unfinished


def test_only_a_run_of_ours_that_ended_is_over(tmp_path):
    store(tmp_path, FIRST, settled("w1/gate"), RunFinished(outcome=Outcome.HALTED))
    store(tmp_path, SECOND, settled("w1/gate"))
    assert is_over(tmp_path, FIRST)
    assert not is_over(tmp_path, SECOND)
    assert not is_over(tmp_path, "20200101T000000Z-0000")
    assert not is_over(tmp_path, "../../etc/passwd")
    assert not is_over(tmp_path, "")


def test_a_run_that_was_killed_is_unfinished(tmp_path):
    store(tmp_path, FIRST, STARTED, TaskStarted(task=TaskId("w1/copy"), attempt=1))
    (summary,) = runs(tmp_path)
    assert (summary.outcome, summary.finished, summary.unsettled) == (None, None, 5)
    assert summary.is_unfinished


def test_a_run_killed_before_its_first_record_is_unfinished(tmp_path):
    path = store(tmp_path, FIRST, STARTED)
    path.write_text(path.read_text().splitlines()[0] + "\n")
    (summary,) = runs(tmp_path)
    assert (summary.started, summary.is_unfinished) == (None, True)


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    store(tmp_path, FIRST)
    assert runs(tmp_path) == ()


@pytest.mark.parametrize("outcome", [Outcome.INTERRUPTED, Outcome.BROKEN])
def test_a_run_that_ended_early_is_unfinished_while_anything_is_left(tmp_path, outcome):
    store(tmp_path, FIRST, STARTED, RunFinished(outcome=outcome))
    store(tmp_path, SECOND, STARTED, *ALL, RunFinished(outcome=outcome))
    assert [summary.is_unfinished for summary in runs(tmp_path)] == [False, True]


def test_a_run_that_was_taken_up_again_is_not_finished_by_its_first_end(tmp_path):
    again = RunStarted(run=FIRST, fingerprint="f", resumed=True)
    store(tmp_path, FIRST, STARTED, RunFinished(outcome=Outcome.INTERRUPTED), again)
    (summary,) = runs(tmp_path)
    assert (summary.outcome, summary.finished) == (None, None)
    assert summary.started == EPOCH.timestamp()


def test_a_torn_tail_does_not_keep_a_live_run_from_being_listed(tmp_path):
    path = store(tmp_path, FIRST, STARTED)
    path.write_bytes(path.read_bytes() + b'{"seq":1,')
    assert runs(tmp_path)[0].unreadable == ""


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda header: b"", "ends before its header"),
        (lambda header: b"\x00\xff garbage\n{}\n", ":1: the journal is damaged"),
        (lambda header: json.dumps(header | {"version": 9}).encode() + b"\n", "version 9"),
        (lambda header: json.dumps(header | {"plan": {"graph": []}}).encode() + b"\n", "plan.graph: expected dict"),
        (lambda header: json.dumps(header | {"plan": {"graph": {"tasks": [1]}}}).encode() + b"\n", "expected dict"),
    ],
)
def test_a_damaged_journal_is_listed_as_unreadable_and_hides_no_other(tmp_path, damage, why):
    path = store(tmp_path, FIRST, STARTED)
    store(tmp_path, SECOND, STARTED)
    path.write_bytes(damage(json.loads(path.read_bytes().splitlines()[0])))
    good, bad = runs(tmp_path)
    assert good.unreadable == ""
    assert why in bad.unreadable
    assert bad.run == FIRST
    assert not bad.is_unfinished


def test_a_journal_that_may_not_be_read_is_listed_as_unreadable(tmp_path):
    store(tmp_path, FIRST, STARTED)
    (tmp_path / "runs" / f"{SECOND}.jsonl").mkdir()
    assert "Is a directory" in runs(tmp_path)[0].unreadable


# --- what is unfinished ----------------------------------------------------------------------------------------------


def test_the_latest_run_of_an_inventory_is_unfinished_when_it_was_cut_off(tmp_path):
    store(tmp_path, FIRST, STARTED)
    store(tmp_path, SECOND, STARTED, inventory="/etc/fleet/other.yaml")
    found = unfinished(tmp_path, INVENTORY)
    assert found is not None
    assert found.run == FIRST
    assert unfinished(tmp_path, "/etc/fleet/third.yaml") is None


def test_an_unfinished_run_before_a_finished_one_is_not_worth_finishing(tmp_path):
    store(tmp_path, FIRST, STARTED)
    store(tmp_path, SECOND, STARTED, *ALL, RunFinished(outcome=Outcome.CONVERGED))
    assert unfinished(tmp_path, INVENTORY) is None


# --- one run ---------------------------------------------------------------------------------------------------------


def test_a_run_is_read_back_with_its_plan(tmp_path):
    store(tmp_path, FIRST, STARTED, *ALL)
    stored = read(tmp_path, FIRST)
    assert (stored.run, stored.inventory, stored.digest) == (FIRST, INVENTORY, "d1")
    assert stored.plan.graph.fingerprint == a_plan().graph.fingerprint
    assert [record.event for record in stored.records] == [STARTED, *ALL]


def test_a_run_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=f"there is no run {FIRST}") as caught:
        read(tmp_path, FIRST)
    assert caught.value.hint == "deploy runs"


def test_a_plan_that_was_tampered_with_is_refused(tmp_path):
    path = store(tmp_path, FIRST, STARTED)
    path.write_bytes(path.read_bytes().replace(b'"timeout":600.0', b'"timeout":601.0', 1))
    with pytest.raises(DeployError, match=r"the plan is damaged: .*changed after the plan was written"):
        read(tmp_path, FIRST)


# --- results ---------------------------------------------------------------------------------------------------------


def result_of(host: str, *events: TaskSettled) -> HostResult:
    records = [Record(seq=i, at=0.0, event=event) for i, event in enumerate(events)]
    return results(a_graph(GRAPH), [*records, Record(seq=9, at=0.0, event=STARTED)])[HostName(host)]


def test_results_come_in_the_graphs_order_for_hosts_only():
    assert list(results(a_graph(GRAPH), [])) == ["w1", "w2"]


def test_a_failure_outweighs_everything():
    failure = a_failure()
    result = result_of("w1", settled("w1/copy", Verdict.FAILED, failure=failure))
    assert result.verdict is Verdict.FAILED
    assert result.failures == (("w1/copy", failure),)


def test_a_host_with_work_left_has_no_verdict_yet():
    assert result_of("w1", settled("w1/copy")).verdict is None


def test_a_host_that_was_left_out_says_why():
    result = result_of("w1", settled("w1/copy"), skipped("w1/switch", SkipCause.HALTED, "failed: w9"))
    assert (result.verdict, result.skipped) == (Verdict.SKIPPED, "failed: w9")


def test_a_host_that_changed_succeeded():
    assert result_of("w1", settled("w1/copy", Verdict.UNCHANGED), settled("w1/switch")).verdict is Verdict.SUCCEEDED


def test_what_was_not_needed_is_not_held_against_a_host():
    result = result_of("w1", settled("w1/copy", Verdict.UNCHANGED), skipped("w1/switch", SkipCause.NOT_NEEDED))
    assert (result.verdict, result.skipped) == (Verdict.UNCHANGED, "")
    nothing = result_of("w1", skipped("w1/copy", SkipCause.NOT_NEEDED), skipped("w1/switch", SkipCause.NOT_NEEDED))
    assert nothing.verdict is Verdict.UNCHANGED
