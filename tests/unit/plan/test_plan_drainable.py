"""Hosts that cannot be emptied are not begun; what a drain would wait for is told."""

from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import HostPlan
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_flake, a_fleet, closures_for, facts_for

FLEET = a_fleet("w1 w2")
CHOICES = Choices()
W1 = HostName("w1")
NEVER = Failure(kind=FailureKind.DRAIN, message="two budgets on one pod")


def planned(changed: str, choices: Choices = CHOICES) -> HostPlan:
    prepared = Prepared(
        facts=facts_for(FLEET),
        closures=closures_for(FLEET, changed=changed),
        flake=a_flake(),
        undrainable={W1: NEVER},
        drain_waits={HostName("w2"): ("pod a/b waits",)},
    )
    return rollout(FLEET, prepared, choices).hosts[0]


def test_a_host_that_can_never_be_drained_is_a_problem_and_gets_no_tasks():
    host = planned("w1=reboot w2")

    assert host.problem is NEVER
    assert host.wave is None


def test_it_does_not_matter_to_a_host_that_is_not_drained():
    assert planned("w1=live").problem is None
    assert planned("w2=reboot").problem is None
    assert planned("w1=reboot", Choices(no_drain=True)).problem is None


def test_what_a_drain_would_wait_for_is_a_risk_of_the_hosts_that_are_drained():
    def risks(changed: str) -> tuple[str, ...]:
        waits = {HostName("w2"): ("pod a/b waits",)}
        facts, closures = facts_for(FLEET), closures_for(FLEET, changed=changed)
        prepared = Prepared(facts=facts, closures=closures, flake=a_flake(), drain_waits=waits)
        return rollout(FLEET, prepared, Choices()).hosts[1].risks

    assert risks("w2=reboot") == ("pod a/b waits",)
    assert risks("w2=live") == ()
