import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from nixkube_deploy.engine.progress import Progress
from nixkube_deploy.model.action import RollBack, WayBack
from nixkube_deploy.model.decision import Skip, Start, Wait
from nixkube_deploy.model.event import (
    Outcome,
    RunDraining,
    RunFinished,
    RunStarted,
    SkipCause,
    TaskInterrupted,
    TaskRetrying,
    TaskSettled,
    TaskStarted,
    Verdict,
)
from nixkube_deploy.model.names import HostName, RunId, StorePath, TaskId
from nixkube_deploy.model.strategy import Window
from nixkube_deploy.model.task import Budget, Rules, TaskGraph
from tests.builders import a_failure, a_graph, names
from tests.fakes.clock import EPOCH

NEVER = Skip(SkipCause.NOT_NEEDED, "nothing failed that it would answer")


def ran(progress: Progress, *tasks: str, verdict: Verdict = Verdict.SUCCEEDED, detail: str = "") -> None:
    for task in tasks:
        progress.apply(TaskStarted(task=TaskId(task), attempt=1))
        failure = a_failure() if verdict is Verdict.FAILED else None
        progress.apply(TaskSettled(task=TaskId(task), verdict=verdict, detail=detail, failure=failure))


def failed(progress: Progress, *tasks: str) -> None:
    ran(progress, *tasks, verdict=Verdict.FAILED)


def begin(progress: Progress, *tasks: str) -> None:
    for task in tasks:
        progress.apply(TaskStarted(task=TaskId(task), attempt=1))


def decide(progress: Progress, task: str, now: datetime | None = EPOCH) -> Start | Skip | Wait:
    return progress.decide(TaskId(task), now)


def settle_all(progress: Progress, now: datetime = EPOCH) -> list[str]:
    """Take every step, skip what is to be skipped, let the rest go well; the order of what ran."""
    order: list[str] = []
    while (step := progress.next(now)) is not None:
        task, decision = step
        if isinstance(decision, Skip):
            skip = TaskSettled(task=task.id, verdict=Verdict.SKIPPED, detail=decision.text, skip=decision.cause)
            progress.apply(skip)
        else:
            ran(progress, task.id)
            order.append(task.id)
    return order


def budget(text: str, limit: int, name: str = "workers") -> Budget:
    return Budget(name=name, members=frozenset(names(text)), limit=limit)


def hosts(text: str, rules: Rules = Rules(), waves: dict[str, int] | None = None, chain: str = "in out") -> TaskGraph:
    """A section of two tasks, ``in`` and then ``out``, for every host."""
    chains = ["; ".join([">".join(f"{host}/{step}" for step in chain.split())]) for host in names(text)]
    sections = {host: " ".join(f"{host}/{step}" for step in chain.split()) for host in names(text)}
    return a_graph("; ".join(chains), sections=sections, waves=waves, rules=rules)


# --- dependencies ----------------------------------------------------------------------------------------------------


def test_a_task_that_needs_nothing_may_start():
    assert decide(Progress(a_graph("copy")), "copy") == Start()


def test_a_task_waits_for_what_has_not_settled_and_names_it():
    progress = Progress(a_graph("a>d; b~d; c!d"))
    assert decide(progress, "d") == Wait("waits for a, b, c")
    ran(progress, "b")
    assert decide(progress, "d") == Wait("waits for a, c")


def test_a_long_wait_names_three_and_counts_the_rest():
    assert decide(Progress(a_graph("a,b,c,d,e~z")), "z") == Wait("waits for a, b, c and 2 more")


def test_a_settled_task_says_how_it_settled():
    progress = Progress(a_graph("a; b"))
    ran(progress, "a")
    ran(progress, "b", verdict=Verdict.UNCHANGED, detail="it was there")
    assert decide(progress, "a") == Wait("succeeded")
    assert decide(progress, "b") == Wait("unchanged: it was there")


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.UNCHANGED])
def test_what_it_requires_went_well(verdict):
    progress = Progress(a_graph("a>b"))
    ran(progress, "a", verdict=verdict)
    assert decide(progress, "b") == Start()


def test_a_failed_requirement_skips_what_needs_it_and_the_whole_cascade_names_the_root():
    progress = Progress(a_graph("w2/drain>w2/switch>w2/gate"))
    failed(progress, "w2/drain")
    because = Skip(SkipCause.DEPENDENCY, "needs w2/drain, which failed")
    assert decide(progress, "w2/switch") == because
    settle_all(progress)
    assert progress.settled[TaskId("w2/gate")].detail == because.text


def test_of_several_missing_requirements_the_one_that_failed_is_named():
    progress = Progress(a_graph("a,z>b"))
    progress.apply(TaskSettled(task=TaskId("a"), verdict=Verdict.SKIPPED, skip=SkipCause.BUDGET))
    failed(progress, "z")
    assert decide(progress, "b") == Skip(SkipCause.DEPENDENCY, "needs z, which failed")


def test_a_requirement_that_was_refused_is_named_as_skipped():
    progress = Progress(a_graph("a>b"))
    progress.apply(TaskSettled(task=TaskId("a"), verdict=Verdict.SKIPPED, skip=SkipCause.BUDGET))
    assert decide(progress, "b") == Skip(SkipCause.DEPENDENCY, "needs a, which was skipped")


def test_what_only_comes_after_a_failed_task_may_start():
    progress = Progress(a_graph("a~b"))
    failed(progress, "a")
    assert decide(progress, "b") == Start()


def test_an_answer_to_failure_runs_when_one_of_its_causes_failed():
    progress = Progress(a_graph("a,b!c"))
    ran(progress, "a")
    failed(progress, "b")
    assert decide(progress, "c") == Start()


def test_an_answer_to_failure_is_not_needed_when_none_of_its_causes_failed():
    progress = Progress(a_graph("a>b; a,b!c"))
    failed(progress, "a")
    settle_all(progress)
    assert progress.settled[TaskId("c")].verdict is Verdict.SUCCEEDED
    progress = Progress(a_graph("a,b!c"))
    ran(progress, "a", "b")
    assert decide(progress, "c") == NEVER


def test_an_answer_to_failure_that_also_requires_something_needs_both():
    for a_failed, b_failed, expected in [
        (True, False, Start()),
        (False, False, NEVER),
        (True, True, Skip(SkipCause.DEPENDENCY, "needs b, which failed")),
        (False, True, NEVER),
    ]:
        progress = Progress(a_graph("a!c; b>c"))
        (failed if a_failed else ran)(progress, "a")
        (failed if b_failed else ran)(progress, "b")
        assert decide(progress, "c") == expected


def test_what_requires_an_answer_that_was_not_needed_is_not_needed_either():
    progress = Progress(a_graph("a!rollback>rollback-gate>rollback-uncordon"))
    ran(progress, "a")
    settle_all(progress)
    assert {progress.settled[TaskId(t)].skip for t in ("rollback-gate", "rollback-uncordon")} == {SkipCause.NOT_NEEDED}


def test_each_task_is_handed_out_once():
    progress = Progress(a_graph("a>b; a>c; b,c>d"))
    task, decision = progress.next(EPOCH)
    assert (task.id, decision) == ("a", Start())
    assert progress.next(EPOCH) is None
    ran(progress, "a")
    assert {progress.next(EPOCH)[0].id, progress.next(EPOCH)[0].id} == {"b", "c"}
    assert progress.next(EPOCH) is None
    ran(progress, "b", "c")
    assert progress.next(EPOCH)[0].id == "d"


def test_a_cascade_of_thousands_of_skips_does_not_recurse():
    ids = [f"t{n}" for n in range(5000)]
    progress = Progress(a_graph(">".join(ids)))
    failed(progress, "t0")
    settle_all(progress)
    assert len(progress.settled) == 5000


# --- sections: budgets -----------------------------------------------------------------------------------------------


def test_a_section_opens_while_the_budget_has_room():
    progress = Progress(hosts("w1 w2 w3", Rules(budgets=(budget("w1..w3", 2),))))
    begin(progress, "w1/in")
    assert decide(progress, "w2/in") == Start()
    begin(progress, "w2/in")
    assert decide(progress, "w3/in") == Wait("no room in workers (unavailable: w1, w2)")


def test_tasks_of_an_open_section_ask_no_budget():
    progress = Progress(hosts("w1 w2", Rules(budgets=(budget("w1 w2", 1),))))
    begin(progress, "w1/in")
    ran(progress, "w1/in")
    assert decide(progress, "w1/out") == Start()


def test_a_section_that_went_well_gives_its_place_back():
    progress = Progress(hosts("w1 w2", Rules(budgets=(budget("w1 w2", 1),))))
    ran(progress, "w1/in")
    assert isinstance(decide(progress, "w2/in"), Wait)
    ran(progress, "w1/out")
    assert decide(progress, "w2/in") == Start()


def test_a_failed_hosts_section_stays_open():
    progress = Progress(hosts("w1 w2", Rules(budgets=(budget("w1 w2", 1),), max_failures=None)))
    failed(progress, "w1/in")
    progress.apply(TaskSettled(task=TaskId("w1/out"), verdict=Verdict.SKIPPED, skip=SkipCause.DEPENDENCY))
    assert decide(progress, "w2/in") == Wait("no room in workers (unavailable: w1)")


def test_a_way_back_that_went_well_closes_a_failed_hosts_section():
    rules = Rules(budgets=(budget("w1 w2", 1),), max_failures=None)
    sections = {"w1": "w1/in w1/back -> w1/in w1/back", "w2": "w2/in"}
    progress = Progress(a_graph("w1/in!w1/back; w2/in", sections=sections, rules=rules))
    failed(progress, "w1/in")
    assert isinstance(decide(progress, "w2/in"), Wait)
    ran(progress, "w1/back")
    assert decide(progress, "w2/in") == Start()


def test_an_exit_outside_the_section_that_is_not_reached_leaves_it_open():
    rules = Rules(budgets=(budget("w1 w2", 1),))
    sections = {"w1": "w1/in -> later", "w2": "w2/in"}
    progress = Progress(a_graph("w1/in>later; w2/in", sections=sections, rules=rules))
    ran(progress, "w1/in")
    assert isinstance(decide(progress, "w2/in"), Wait)


def test_every_budget_that_contains_the_host_must_have_room():
    rules = Rules(budgets=(budget("w1 w2 w3", 3), budget("w1 w2", 1, "zone a")))
    progress = Progress(hosts("w1 w2 w3", rules))
    begin(progress, "w1/in")
    assert decide(progress, "w2/in") == Wait("no room in zone a (unavailable: w1)")
    assert decide(progress, "w3/in") == Start()


def test_a_host_in_no_budget_is_limited_by_none():
    progress = Progress(hosts("w1 x1", Rules(budgets=(budget("w1", 0),))))
    assert decide(progress, "x1/in") == Start()
    assert decide(progress, "w1/in") == Wait("no room in workers (unavailable: it allows none)")


def test_hosts_that_were_unhealthy_before_count():
    progress = Progress(hosts("w1 w2", Rules(budgets=(budget("w1 w2 w9", 1),), unhealthy=frozenset(names("w9")))))
    assert decide(progress, "w1/in") == Wait("no room in workers (unavailable: w9)")


def test_a_host_that_is_unavailable_already_costs_nothing_more():
    progress = Progress(hosts("w1 w2", Rules(budgets=(budget("w1 w2", 1),), unhealthy=frozenset(names("w1")))))
    assert decide(progress, "w1/in") == Start()
    assert isinstance(decide(progress, "w2/in"), Wait)
    ran(progress, "w1/in", "w1/out")
    assert decide(progress, "w2/in") == Start()


def test_more_unhealthy_hosts_than_a_budget_allows_keep_even_themselves_from_being_touched():
    unhealthy = frozenset(names("w1 w2"))
    progress = Progress(hosts("w1 w2", Rules(budgets=(budget("w1 w2", 1),), unhealthy=unhealthy)))
    assert decide(progress, "w1/in") == Wait("no room in workers (unavailable: w1, w2)")


def test_an_unhealthy_host_whose_drain_was_only_undone_is_still_unhealthy():
    rules = Rules(budgets=(budget("w1 w2", 1),), unhealthy=frozenset(names("w1")), max_failures=None)
    sections = {"w1": "w1/drain w1/undrain -> w1/drain w1/undrain", "w2": "w2/in"}
    progress = Progress(a_graph("w1/drain!w1/undrain; w2/in", sections=sections, rules=rules))
    failed(progress, "w1/drain")
    ran(progress, "w1/undrain")
    assert decide(progress, "w2/in") == Wait("no room in workers (unavailable: w1)")


def test_sections_open_in_the_graphs_order_as_places_become_free():
    progress = Progress(hosts("w3 w1 w2", Rules(budgets=(budget("w1..w3", 1),))))
    assert settle_all(progress) == ["w3/in", "w3/out", "w1/in", "w1/out", "w2/in", "w2/out"]


def test_a_place_is_promised_from_the_moment_its_task_is_handed_out():
    progress = Progress(hosts("w1 w2", Rules(budgets=(budget("w1 w2", 1),))))
    assert progress.next(EPOCH)[0].id == "w1/in"
    assert progress.next(EPOCH) is None
    assert decide(progress, "w1/in") == Start()
    assert isinstance(decide(progress, "w2/in"), Wait)


def test_both_ways_into_a_section_open_with_it():
    rules = Rules(budgets=(budget("w1 w2", 1),))
    sections = {"w1": "w1/in w1/aside", "w2": "w2/in w2/aside"}
    progress = Progress(a_graph("w1/in; w1/aside; w2/in; w2/aside", sections=sections, rules=rules))
    handed = {progress.next(EPOCH)[0].id, progress.next(EPOCH)[0].id}
    assert handed == {"w1/in", "w1/aside"}
    assert progress.next(EPOCH) is None


# --- sections: domains and waves -------------------------------------------------------------------------------------

ZONES = {HostName("a1"): "zone a", HostName("a2"): "zone a", HostName("b1"): "zone b"}


def test_never_are_two_domains_unavailable_at_once():
    progress = Progress(hosts("a1 a2 b1 x1", Rules(domains=ZONES)))
    begin(progress, "a1/in")
    assert decide(progress, "a2/in") == Start()
    assert decide(progress, "x1/in") == Start()
    expected = "never two domains at once, and zone a is not whole (unavailable: a1)"
    assert decide(progress, "b1/in") == Wait(expected)
    ran(progress, "a1/in", "a1/out")
    assert decide(progress, "b1/in") == Start()


def test_an_unhealthy_host_keeps_other_domains_closed():
    progress = Progress(hosts("a1 b1", Rules(domains=ZONES, unhealthy=frozenset(names("a2")))))
    assert decide(progress, "a1/in") == Start()
    assert isinstance(decide(progress, "b1/in"), Wait)


def test_a_wave_opens_when_every_section_of_the_lower_waves_settled():
    progress = Progress(hosts("c1 w1 w2", waves={"c1": 1, "w1": 2, "w2": 7}))
    ran(progress, "c1/in")
    assert decide(progress, "w1/in") == Wait("waits until wave 1 is done")
    ran(progress, "c1/out")
    assert decide(progress, "w1/in") == Start()
    assert decide(progress, "w2/in") == Wait("waits until wave 2 is done")


def test_a_refused_section_settles_its_wave():
    progress = Progress(hosts("c1 w1", Rules(budgets=(budget("c1", 0, "none"),)), waves={"c1": 1, "w1": 2}))
    assert settle_all(progress) == ["w1/in", "w1/out"]


# --- when nothing may open any more ----------------------------------------------------------------------------------


def test_more_failures_than_allowed_halt_what_has_not_begun():
    graph = a_graph("w1/copy; w2/in>w2/out", sections={"w2": "w2/in w2/out"})
    progress = Progress(graph)
    failed(progress, "w1/copy")
    assert decide(progress, "w2/in") == Skip(SkipCause.HALTED, "failed: w1; max_failures is 0")
    assert settle_all(progress) == []
    assert {progress.settled[TaskId(t)].skip for t in ("w2/in", "w2/out")} == {SkipCause.HALTED}
    assert progress.outcome() is Outcome.HALTED


def test_a_halted_run_still_finishes_what_is_open():
    progress = Progress(hosts("w1 w2 w3"))
    begin(progress, "w1/in", "w2/in")
    failed(progress, "w1/in")
    ran(progress, "w2/in")
    assert decide(progress, "w2/out") == Start()
    assert isinstance(decide(progress, "w3/in"), Skip)


def test_a_section_that_was_promised_a_place_is_halted_too():
    progress = Progress(hosts("w1 w2", Rules(budgets=(budget("w1 w2", 2),))))
    assert [progress.next(EPOCH)[0].id for _ in range(2)] == ["w1/in", "w2/in"]
    failed(progress, "w1/in")
    assert isinstance(decide(progress, "w2/in"), Skip)


def test_failures_within_max_failures_do_not_halt():
    progress = Progress(hosts("w1 w2 w3", Rules(max_failures=1)))
    failed(progress, "w1/in")
    assert decide(progress, "w3/in") == Start()
    failed(progress, "w2/in")
    assert decide(progress, "w3/in") == Skip(SkipCause.HALTED, "failed: w1, w2; max_failures is 1")


def test_one_failed_canary_halts_whatever_max_failures_says():
    progress = Progress(hosts("w1 w2", Rules(max_failures=5, canaries=frozenset(names("w1")))))
    failed(progress, "w1/in")
    assert decide(progress, "w2/in") == Skip(SkipCause.HALTED, "a canary failed: w1")


def test_without_max_failures_nothing_halts():
    progress = Progress(hosts("w1 w2 w3", Rules(max_failures=None, canaries=frozenset(names("w1")))))
    failed(progress, "w1/in", "w2/in")
    assert decide(progress, "w3/in") == Start()


def test_a_failed_task_without_a_host_counts_for_its_section_or_for_nobody():
    graph = a_graph("gate; build; w2/in", sections={"w1": "gate", "w2": "w2/in"}, rules=Rules(max_failures=0))
    progress = Progress(graph)
    failed(progress, "build")
    assert decide(progress, "w2/in") == Start()
    failed(progress, "gate")
    assert isinstance(decide(progress, "w2/in"), Skip)


MONDAY_NIGHT = Window(days=frozenset({0}), start=120, end=240)


def test_sections_open_inside_a_window_only():
    progress = Progress(hosts("w1", Rules(windows=(MONDAY_NIGHT,))))
    late = EPOCH + timedelta(hours=2)
    assert decide(progress, "w1/in", EPOCH) == Start()
    assert decide(progress, "w1/in", None) == Start()
    expected = Skip(SkipCause.WINDOW, "outside the maintenance windows (mon 02:00-04:00 UTC)")
    assert decide(progress, "w1/in", late) == expected


def test_sections_that_wait_when_the_window_closes_are_skipped_and_open_ones_finished():
    progress = Progress(hosts("w1 w2", Rules(windows=(MONDAY_NIGHT,), budgets=(budget("w1 w2", 1),))))
    assert progress.next(EPOCH)[0].id == "w1/in"
    ran(progress, "w1/in")
    assert settle_all(progress, EPOCH + timedelta(hours=2)) == ["w1/out"]
    assert progress.settled[TaskId("w2/out")].skip is SkipCause.WINDOW
    assert progress.outcome() is Outcome.HALTED


def test_a_section_that_no_place_can_come_free_for_is_refused_and_told_who_holds_it():
    rules = Rules(budgets=(budget("w1 w2 w3", 1),), max_failures=None)
    progress = Progress(hosts("w1 w2 w3", rules))
    assert progress.next(EPOCH)[0].id == "w1/in"
    assert progress.next(EPOCH) is None, "w1 runs, so its place may come free"
    failed(progress, "w1/in")
    assert settle_all(progress) == []
    refused = progress.settled[TaskId("w3/out")]
    assert refused.skip is SkipCause.BUDGET
    assert refused.detail == "no room in workers (unavailable: w1), and nothing left can change that"
    assert progress.outcome() is Outcome.HALTED


def test_sections_of_several_classes_are_refused_class_by_class():
    rules = Rules(budgets=(budget("w1 w2", 0), budget("x1", 0, "others")))
    progress = Progress(hosts("w1 x1 w2", rules))
    settle_all(progress)
    said = {task: event.detail for task, event in progress.settled.items()}
    assert re.match("no room in workers", said[TaskId("w2/in")])
    assert re.match("no room in others", said[TaskId("x1/in")])


def test_a_deadlock_between_a_wave_and_a_later_one_is_broken():
    graph = a_graph("w2/in~w1/in", sections={"w1": "w1/in", "w2": "w2/in"}, waves={"w1": 1, "w2": 2})
    progress = Progress(graph)
    assert settle_all(progress) == ["w1/in"]
    assert progress.settled[TaskId("w2/in")].detail == "waits until wave 1 is done, and nothing left can change that"


# --- draining --------------------------------------------------------------------------------------------------------


def test_a_draining_run_finishes_open_sections_and_starts_nothing_else():
    progress = Progress(a_graph("w1/in>w1/out; w2/in; copy", sections={"w1": "w1/in w1/out", "w2": "w2/in"}))
    ran(progress, "w1/in")
    progress.apply(RunDraining(reason="SIGINT received"))
    assert decide(progress, "w1/out") == Start()
    assert decide(progress, "w2/in") == Wait("the run is draining: SIGINT received")
    assert decide(progress, "copy") == Wait("the run is draining: SIGINT received")
    assert settle_all(progress) == ["w1/out"]
    assert progress.outcome() is Outcome.INTERRUPTED


def test_a_draining_run_does_not_start_what_was_only_promised_a_place():
    progress = Progress(hosts("w1"))
    progress.next(EPOCH)
    progress.apply(RunDraining(reason="SIGINT received"))
    assert isinstance(decide(progress, "w1/in"), Wait)


def test_a_draining_run_refuses_nothing_that_it_only_does_not_open():
    progress = Progress(hosts("w1 w2", Rules(budgets=(budget("w1 w2", 1),), max_failures=None)))
    assert progress.next(EPOCH)[0].id == "w1/in"
    progress.apply(RunDraining(reason="SIGINT received"))
    failed(progress, "w1/in")
    assert settle_all(progress) == []
    assert TaskId("w2/in") not in progress.settled


def test_taking_the_run_up_again_ends_the_drain():
    graph = a_graph("copy")
    progress = Progress(graph, [RunDraining(reason="SIGINT received"), RunFinished(outcome=Outcome.INTERRUPTED)])
    assert isinstance(decide(progress, "copy"), Wait)
    progress.apply(RunStarted(run=RunId("r"), fingerprint=graph.fingerprint, resumed=True))
    assert decide(progress, "copy") == Start()


# --- the past --------------------------------------------------------------------------------------------------------


def test_settled_tasks_of_the_past_are_not_handed_out_again():
    done = TaskSettled(task=TaskId("a"), verdict=Verdict.SUCCEEDED)
    progress = Progress(a_graph("a>b"), [TaskStarted(task=TaskId("a"), attempt=1), done])
    assert settle_all(progress) == ["b"]


def test_a_task_the_past_only_began_is_handed_out_with_its_attempt():
    task = TaskId("w1/in")
    begun = [TaskStarted(task=task, attempt=2), TaskInterrupted(task=task)]
    progress = Progress(hosts("w1 w2", Rules(budgets=(budget("w1 w2", 1),))), begun)
    assert progress.attempts == {task: 2}
    assert isinstance(decide(progress, "w2/in"), Wait), "the section is open although the controller died"
    assert progress.next(EPOCH)[0].id == task


def test_a_task_that_was_to_be_retried_is_due_for_its_next_attempt():
    begun = TaskStarted(task=TaskId("a"), attempt=1)
    again = TaskRetrying(task=TaskId("a"), attempt=1, failure=a_failure(), delay=3.0)
    assert Progress(a_graph("a"), [begun, again]).attempts == {"a": 2}


def test_a_refusal_in_the_past_holds_for_the_rest_of_the_section():
    skip = TaskSettled(task=TaskId("w1/in"), verdict=Verdict.SKIPPED, detail="closed", skip=SkipCause.WINDOW)
    progress = Progress(hosts("w1"), [skip])
    assert decide(progress, "w1/out") == Skip(SkipCause.WINDOW, "closed")
    assert settle_all(progress) == []


# --- for people ------------------------------------------------------------------------------------------------------


def test_why_answers_for_every_state():
    progress = Progress(a_graph("a>b; c; d; e>f"))
    begin(progress, "a")
    ran(progress, "c")
    failed(progress, "e")
    assert progress.why(TaskId("a")) == "attempt 1 runs, or is due, or was cut off"
    assert progress.why(TaskId("b")) == "waits for a"
    assert progress.why(TaskId("c")) == "succeeded"
    assert progress.why(TaskId("d")) == "may start now"
    assert progress.why(TaskId("f")) == "needs e, which failed"


# --- outcomes --------------------------------------------------------------------------------------------------------


def with_rollbacks(text: str) -> TaskGraph:
    way_back = WayBack(system=StorePath("/nix/store/x"), booted=None, generation=None, boot_id="")
    chains = "; ".join(f"{h}/in>{h}/out; {h}/in,{h}/out!{h}/rollback>{h}/gate" for h in names(text))
    steps = ("in", "out", "rollback", "gate")
    sections = {h: " ".join(f"{h}/{s}" for s in steps) + f" -> {h}/out {h}/gate" for h in names(text)}
    plain = a_graph(chains, sections=sections, rules=Rules(max_failures=None))
    tasks = [
        replace(task, action=RollBack(host=task.host, way_back=way_back, reboot=False))
        if task.id.endswith("/rollback")
        else task
        for task in plain.values()
    ]
    return TaskGraph(tasks, plain.sections.values(), plain.rules)


def test_a_run_in_which_nothing_failed_and_nothing_was_left_out_has_converged():
    progress = Progress(with_rollbacks("w1 w2"))
    assert progress.outcome() is Outcome.INTERRUPTED
    settle_all(progress)
    assert progress.outcome() is Outcome.CONVERGED


def test_a_run_whose_failed_hosts_were_all_taken_back_is_rolled_back():
    progress = Progress(with_rollbacks("w1 w2"))
    failed(progress, "w1/in")
    settle_all(progress)
    assert progress.outcome() is Outcome.ROLLED_BACK


@pytest.mark.parametrize("broken", ["w1/rollback", "w1/gate"])
def test_a_run_with_a_host_that_could_not_be_taken_back_is_halted(broken):
    progress = Progress(with_rollbacks("w1 w2"))
    failed(progress, "w1/in")
    if broken == "w1/gate":
        ran(progress, "w1/rollback")
    failed(progress, broken)
    settle_all(progress)
    assert progress.outcome() is Outcome.HALTED
