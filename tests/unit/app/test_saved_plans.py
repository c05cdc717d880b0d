"""A saved plan is refused when anything it was reckoned with is no longer so."""

from dataclasses import replace

import pytest

from nixkube_deploy.app.deploy import refuse_on_problems
from nixkube_deploy.app.request import Request
from nixkube_deploy.app.saved import refuse_moved
from nixkube_deploy.inventory.load import Loaded
from nixkube_deploy.model.error import Refused
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.names import HostName, RunId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.model.strategy import Limit, Strategy
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_failure, a_flake, a_fleet, closures_for, facts_for
from tests.fakes.shell import FakeShell
from tests.unit.app.worlds import a_world

FLEET = a_fleet("w1..w4")
Facts = dict[HostName, HostFacts]


def a_plan(facts: Facts, changed: str = "w1 w2") -> Plan:
    prepared = Prepared(facts=facts, closures=closures_for(FLEET, changed=changed), flake=a_flake())
    return rollout(FLEET, prepared, Choices(digest="d1"))


def moved(plan: Plan, facts: Facts) -> dict[str, str]:
    loaded = Loaded(fleet=FLEET, digest="d1", provenance={})
    try:
        refuse_moved(plan, loaded, a_flake(), facts, a_world(FLEET, FakeShell()))
    except Refused as refused:
        return {name: failure.message for name, failure in refused.failures}
    return {}


def test_a_plan_of_the_world_as_it_is_may_run():
    facts = facts_for(FLEET, unready="w4")
    assert moved(a_plan(facts), facts) == {}


@pytest.mark.parametrize("host", ["w2", "w4"])
def test_a_host_that_fell_ill_since_is_a_move_whether_or_not_the_plan_touches_it(host):
    plan = a_plan(facts_for(FLEET))
    said = moved(plan, facts_for(FLEET, unready=host))
    assert said == {host: "the host's Node is not Ready, and the plan counts on it"}


def test_a_host_that_another_run_left_cordoned_is_a_move():
    plan, facts = a_plan(facts_for(FLEET)), facts_for(FLEET)
    node = facts[HostName("w4")].node
    assert node is not None
    cordoned = replace(node, cordoned_by=RunId("r"), unschedulable=True)
    facts[HostName("w4")] = replace(facts[HostName("w4")], node=cordoned)
    assert moved(plan, facts) == {"w4": "the host is cordoned, and the plan counts on it"}


@pytest.mark.parametrize("host", ["w2", "w4"])
def test_a_host_that_fell_silent_is_one_move(host):
    plan, facts = a_plan(facts_for(FLEET)), facts_for(FLEET)
    del facts[HostName(host)]
    assert [message.partition(",")[0] for message in moved(plan, facts).values()] == ["the host no longer answers"]


def test_a_plan_is_held_to_the_failures_it_was_made_to_bear():
    lenient = replace(FLEET, strategy=Strategy(max_failures=Limit(1)))
    prepared = Prepared(
        facts=facts_for(FLEET),
        closures=closures_for(FLEET, changed="w1"),
        problems={HostName("w2"): a_failure()},
        flake=a_flake(),
    )
    plan = rollout(lenient, prepared, Choices(digest="d1"))
    request = Request(inventory=None)  # type: ignore[arg-type]
    refuse_on_problems(plan, FLEET, request)
    with pytest.raises(Refused, match="1 of 4 hosts"):
        refuse_on_problems(rollout(FLEET, prepared, Choices(digest="d1")), lenient, request)
