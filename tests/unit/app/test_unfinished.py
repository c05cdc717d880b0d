"""What is known of a run that was cut off, and when it is worth finishing."""

from dataclasses import replace
from pathlib import Path

import pytest

from nixkube_deploy.app.deploy import Planned
from nixkube_deploy.app.request import Target
from nixkube_deploy.app.unfinished import (
    CutOff,
    aims_at_the_same,
    find_cut_off,
    leaves_out,
    supersede,
    went_back,
)
from nixkube_deploy.inventory.load import Loaded
from nixkube_deploy.journal.file import open_journal
from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.event import RunStarted, TaskSettled, TaskStarted, Verdict
from nixkube_deploy.model.fleet import Fleet
from nixkube_deploy.model.names import RunId, TaskId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.model.strategy import Limit, RebootPolicy, Strategy
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_flake, a_fleet, closures_for, facts_for
from tests.fakes.clock import ManualClock

RUN = RunId("20261122T204931Z-3fa9")
FLEET = a_fleet("w1..w3")


class Lines:
    """A console that only listens."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def planned(fleet: Fleet = FLEET, changed: str = "w1 w2", digest: str = "d1") -> Planned:
    prepared = Prepared(facts=facts_for(fleet), closures=closures_for(fleet, changed=changed), flake=a_flake())
    return Planned(plan=rollout(fleet, prepared, Choices(digest=digest)), prepared=prepared)


def target(fleet: Fleet = FLEET, digest: str = "d1") -> Target:
    return Target(loaded=Loaded(fleet=fleet, digest=digest, provenance={}), whole=fleet, fleet=fleet)


@pytest.fixture
def cut_off(tmp_path: Path) -> CutOff:
    """A run that was killed while it drained w1."""
    plan = planned().plan
    with open_journal(tmp_path, RUN, plan, ManualClock()) as ledger:
        ledger.append(RunStarted(run=RUN, fingerprint=plan.graph.fingerprint))
        ledger.append(TaskStarted(task=TaskId("w1/cordon"), attempt=1))
        ledger.append(TaskSettled(task=TaskId("w1/cordon"), verdict=Verdict.SUCCEEDED))
        ledger.append(TaskStarted(task=TaskId("w1/drain"), attempt=1))
    found = find_cut_off(tmp_path, plan.inventory)
    assert found is not None
    return found


def test_it_knows_whom_it_left_half_changed_and_which_node_that_is(cut_off):
    assert cut_off.busy == ("w1", "w2")
    assert cut_off.touched == ("w1",)
    assert cut_off.nodes["w1"] == "w1"


def test_it_is_finished_when_everything_is_as_it_was(cut_off):
    assert aims_at_the_same(cut_off, target(), planned())


@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(max_unavailable=Limit(1)),
        Strategy(host=replace(Strategy().host, reboot=RebootPolicy.NEVER)),
        Strategy(host=replace(Strategy().host, drain=replace(Strategy().host.drain, enabled=False))),
    ],
)
def test_it_is_not_finished_by_rules_that_are_no_longer_wanted(cut_off, strategy):
    other = replace(FLEET, strategy=strategy)
    assert not aims_at_the_same(cut_off, target(other), planned(other))


def test_it_is_not_finished_once_the_inventory_was_edited(cut_off):
    assert not aims_at_the_same(cut_off, target(digest="d2"), planned(digest="d2"))


def test_it_is_not_finished_once_the_flake_wants_another_system(cut_off):
    assert not aims_at_the_same(cut_off, target(), planned(changed="w1=reboot w2"))


def test_nobody_is_installed_by_an_apply_that_does_not_ask_for_it(cut_off):
    facts = facts_for(FLEET, bare="w2")
    prepared = Prepared(facts=facts, closures=closures_for(FLEET, changed="w1 w2"), flake=a_flake())
    again = Planned(plan=rollout(FLEET, prepared, Choices(digest="d1")), prepared=prepared)
    assert not aims_at_the_same(cut_off, target(), again)


def test_a_plan_of_before_strategies_were_recorded_is_finished(cut_off):
    old = replace(cut_off, stored=replace(cut_off.stored, plan=replace(cut_off.plan, strategy=None)))
    assert aims_at_the_same(old, target(), planned())


def test_hosts_it_knows_nothing_of_are_work_for_another_plan(cut_off):
    assert not leaves_out(cut_off, planned())
    assert leaves_out(cut_off, planned(changed="w1..w3"))


def test_giving_it_up_names_the_half_changed_hosts_that_nobody_will_finish(cut_off, tmp_path):
    console = Lines()
    supersede(cut_off, target(FLEET.only(frozenset({"w2", "w3"}))), tmp_path, console)
    (warning,) = [line for line in console.said if line.startswith("warning:")]
    assert "no longer in the inventory, so nobody finishes them: w1;" in warning
    assert find_cut_off(tmp_path, cut_off.plan.inventory) is None


def a_run_cut_off(state: Path, plan: Plan, *settled: str, begun: str) -> CutOff:
    with open_journal(state, RUN, plan, ManualClock()) as ledger:
        ledger.append(RunStarted(run=RUN, fingerprint=plan.graph.fingerprint))
        for task in settled:
            ledger.append(TaskStarted(task=TaskId(task), attempt=1))
            ledger.append(TaskSettled(task=TaskId(task), verdict=Verdict.SUCCEEDED))
        ledger.append(TaskStarted(task=TaskId(begun), attempt=1))
    found = find_cut_off(state, plan.inventory)
    assert found is not None
    return found


DRAINED = ("w1/cordon", "w1/drain")


def test_a_host_that_went_back_while_nobody_confirmed_is_work_for_another_plan(tmp_path):
    found = a_run_cut_off(tmp_path, planned().plan, *DRAINED, "w1/activate", begun="w1/gate")
    assert went_back(found, planned()) == ("w1",)


def test_a_trial_that_nobody_confirmed_has_gone_back_as_a_switch_has(tmp_path):
    prepared = planned().prepared
    trial = rollout(FLEET, prepared, Choices(digest="d1", mode=SwitchMode.TEST))
    found = a_run_cut_off(tmp_path, trial, *DRAINED, "w1/activate", begun="w1/gate")
    assert went_back(found, Planned(plan=trial, prepared=prepared)) == ("w1",)


def test_a_host_that_still_waits_to_be_confirmed_has_not_gone_back(tmp_path):
    found = a_run_cut_off(tmp_path, planned().plan, *DRAINED, "w1/activate", begun="w1/gate")
    prepared = planned().prepared
    now = {name: replace(f, current=prepared.closures[name].contents) for name, f in prepared.facts.items()}
    assert went_back(found, Planned(plan=planned().plan, prepared=replace(prepared, facts=now))) == ()


def test_a_host_whose_switch_was_not_seen_to_end_has_not_gone_back(tmp_path):
    found = a_run_cut_off(tmp_path, planned().plan, *DRAINED, begun="w1/activate")
    assert went_back(found, planned()) == ()


def test_a_host_that_the_run_itself_was_taking_back_has_not_gone_back(tmp_path):
    found = a_run_cut_off(tmp_path, planned().plan, *DRAINED, "w1/activate", begun="w1/rollback")
    assert went_back(found, planned()) == ()


def test_a_host_that_is_to_reboot_into_its_system_has_not_gone_back(tmp_path):
    plan = planned(changed="w1=reboot").plan
    found = a_run_cut_off(tmp_path, plan, *DRAINED, "w1/activate", begun="w1/reboot")
    assert went_back(found, planned(changed="w1=reboot")) == ()


def test_giving_it_up_says_why(cut_off, tmp_path):
    console = Lines()
    supersede(cut_off, target(), tmp_path, console, "w1 went back by itself, unconfirmed")
    assert console.said == [f"run {RUN} was cut off, and w1 went back by itself, unconfirmed: planning anew"]
