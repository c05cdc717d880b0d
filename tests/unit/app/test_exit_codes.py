"""Which exit code a run's end has, beyond its outcome."""

import pytest

from nixkube_deploy.app.deploy import Report
from nixkube_deploy.model.event import Outcome, Record, TaskSettled, Verdict
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import TaskId
from tests.unit.ui.stories import a_plan


def exit_code(outcome: Outcome, *kinds: FailureKind, problem: str = "") -> int:
    events = [
        TaskSettled(task=TaskId(f"w{n}/x"), verdict=Verdict.FAILED, failure=Failure(kind=kind, message="no"))
        for n, kind in enumerate(kinds)
    ]
    records = tuple(Record(seq=n, at=0.0, event=event) for n, event in enumerate(events))
    return Report(plan=a_plan(problem=problem), outcome=outcome, records=records).exit_code


@pytest.mark.parametrize("outcome", [Outcome.HALTED, Outcome.ROLLED_BACK])
def test_a_run_that_only_met_somebody_elses_locks_says_so(outcome):
    assert exit_code(outcome, FailureKind.LOCKED, FailureKind.LOCKED) == 6
    assert exit_code(outcome, FailureKind.LOCKED, FailureKind.GATE) == outcome.exit_code
    assert exit_code(outcome, FailureKind.GATE) == outcome.exit_code


def test_a_run_that_converged_without_some_hosts_did_not_do_what_was_asked():
    assert exit_code(Outcome.CONVERGED, problem="w4") == 4
    assert exit_code(Outcome.CONVERGED) == 0


def test_an_interrupted_run_is_interrupted_whatever_failed():
    assert exit_code(Outcome.INTERRUPTED, FailureKind.LOCKED) == 130
