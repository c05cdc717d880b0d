"""The fold from records to rows: states, steps, waves, the estimate."""

import pytest

from nixkube_deploy.model.event import Outcome, SkipCause, Verdict
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ui.rows import HostState, Phase
from nixkube_deploy.ui.view import RunView
from tests.builders import a_failure
from tests.fakes.clock import ManualClock
from tests.unit.ui.stories import ACTIVATION, RUN, Story, a_plan, a_story, bad_run, good_run, stage


class Eyes:
    """A RunView as a sink."""

    def __init__(self, plan: Plan, _clock: ManualClock) -> None:
        self.view = RunView(plan)
        self.saw = self.view.apply
        self.heard = self.view.hear


def told(problem: str = "") -> tuple[Story, RunView]:
    story = a_story(Eyes, problem=problem)
    return story, story.sinks[0].view


def states(view: RunView) -> dict[str, str]:
    return {host.host: host.state.value for host in view.hosts}


def test_before_the_run_hosts_wait_or_have_nothing_to_do() -> None:
    _, view = told(problem="w4")
    assert states(view) == {
        "cp1": "waiting",
        "w1": "waiting",
        "w2": "waiting",
        "w3": "unchanged",
        "w4": "skipped",
    }
    assert view.host(HostName("w4")).reason == "no answer on port 22"


def test_a_good_run_ends_with_every_host_done() -> None:
    story, view = told()
    good_run(story)
    assert view.run == RUN
    assert view.outcome is Outcome.CONVERGED
    assert states(view) == {"cp1": "done", "w1": "done", "w2": "done", "w3": "unchanged", "w4": "unchanged"}
    assert view.counts == {HostState.DONE: 3, HostState.UNCHANGED: 2}
    assert view.active == ()


def test_a_bad_run_tells_failed_from_rolled_back_from_skipped() -> None:
    story, view = told()
    bad_run(story)
    assert states(view) == {"cp1": "skipped", "w1": "rolled back", "w2": "failed", "w3": "unchanged", "w4": "unchanged"}
    assert [f.task for f in view.failures] == ["w1/activate", "w2/drain"]
    assert view.host(HostName("w2")).failed_step == "drain"
    assert view.host(HostName("cp1")).reason == "the canary w1 failed"


def test_a_rollback_whose_gate_fails_is_a_failure() -> None:
    story, view = told()
    stage(story)
    story.start("w1/activate")
    story.fail("w1/activate", ACTIVATION)
    story.skip("w1/prove", "w1/gate", "w1/confirm", detail="w1/activate failed")
    story.do("w1/rollback")
    assert view.host(HostName("w1")).state is HostState.RUNNING
    story.start("w1/rollback-gate")
    story.fail("w1/rollback-gate", a_failure("not Ready"))
    assert view.host(HostName("w1")).state is HostState.FAILED


def test_a_row_shows_the_running_step_its_attempt_and_its_last_line() -> None:
    story, view = told()
    story.begin()
    story.start("w1/copy")
    story.clock.advance(2)
    story.retry("w1/copy", a_failure("connection reset"))
    row = view.host(HostName("w1"))
    assert (row.state, row.step, row.line) == (HostState.RUNNING, "copy", "attempt 1 failed: connection reset")
    assert view.active[0].phase is Phase.BACKING_OFF
    story.start("w1/copy", attempt=2)
    story.say("w1/copy", "copying \x1b[31mpath\x1b[0m 3/9")
    row = view.host(HostName("w1"))
    assert (row.attempt, row.line, row.since) == (2, "copying path 3/9", story.clock.now().timestamp())


def test_a_host_with_its_closure_waits_for_its_turn() -> None:
    story, view = told()
    stage(story)
    assert {s for h, s in states(view).items() if h in {"cp1", "w1", "w2"}} == {"waiting"}
    story.do("w2/cordon")
    assert view.host(HostName("w2")).state is HostState.RUNNING


def test_waves_count_settled_hosts() -> None:
    story, view = told()
    assert [(w.number, w.settled, w.total) for w in view.waves] == [(1, 0, 1), (2, 0, 1), (3, 0, 1)]
    good_run(story)
    assert all(w.is_done for w in view.waves)


def test_the_estimate_needs_one_finished_host_and_then_counts_down() -> None:
    story = Story(a_plan("w1..w9", "w1..w9=live"))
    view = RunView(story.plan)
    story.sinks = [type("S", (), {"saw": staticmethod(view.apply), "heard": staticmethod(view.hear)})()]
    story.begin()
    story.ok(*(f"w{i}/copy" for i in range(1, 10)))
    story.start("w1/activate")
    assert view.eta(story.clock.now().timestamp()) is None
    story.clock.advance(10)
    story.ok("w1/activate", "w1/prove", "w1/gate", "w1/confirm")
    story.spare("w1")
    assert view.eta(story.clock.now().timestamp()) == pytest.approx(80)
    story.start("w2/activate", "w3/activate")
    story.clock.advance(5)
    # Six whole hosts and two halves are left, and 20 host-seconds were worked in 15.
    assert view.eta(story.clock.now().timestamp()) == pytest.approx((6 * 10 + 2 * 5) / (20 / 15))


def test_an_interrupted_run_tells_what_was_cut_off_and_a_resumed_one_goes_on() -> None:
    story, view = told()
    stage(story)
    story.do("w1/activate")
    story.start("w1/prove")
    story.interrupt("w1/prove")
    story.end(Outcome.INTERRUPTED)
    assert view.host(HostName("w1")).state is HostState.INTERRUPTED
    assert view.host(HostName("w2")).state is HostState.WAITING
    story.begin(resumed=True)
    assert view.outcome is None
    story.do("w1/prove", "w1/gate", "w1/confirm")
    story.spare("w1")
    assert view.host(HostName("w1")).state is HostState.DONE


def test_a_killed_controller_runs_nothing_any_more_once_its_run_is_resumed() -> None:
    story, view = told()
    story.begin()
    story.start("w1/copy")
    story.begin(resumed=True)
    assert view.active == ()
    assert view.host(HostName("w1")).state is HostState.WAITING


def test_hosts_that_were_halted_are_skipped_with_the_reason() -> None:
    story, view = told()
    stage(story)
    for host in ("cp1", "w1", "w2"):
        story.rest(host, SkipCause.WINDOW, "the window closed at 06:00")
    assert view.host(HostName("w1")).reason == "the window closed at 06:00"
    assert view.counts[HostState.SKIPPED] == 3


def test_steps_that_found_nothing_to_do_make_an_unchanged_host() -> None:
    story, view = told()
    stage(story)
    story.ok("w1/copy", "w1/activate", "w1/prove", "w1/gate", "w1/confirm", verdict=Verdict.UNCHANGED)
    story.spare("w1")
    assert view.host(HostName("w1")).state is HostState.UNCHANGED
