"""Which Nodes a run marks as still to come."""

from nixkube_deploy.app.marks import to_come
from nixkube_deploy.model.event import Record, TaskSettled, Verdict
from nixkube_deploy.model.names import HostName, NodeName
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_flake, a_fleet, closures_for, facts_for

FLEET = a_fleet("w1..w4")
NODES = {HostName(name): NodeName(f"node-{name}") for name in ("w1", "w2", "w3")}


def a_plan(changed: str) -> Plan:
    facts = facts_for(FLEET)
    prepared = Prepared(facts=facts, closures=closures_for(FLEET, changed=changed), flake=a_flake())
    return rollout(FLEET, prepared, Choices())


def settled(plan: Plan, host: str) -> list[Record]:
    tasks = [TaskSettled(task=task.id, verdict=Verdict.SUCCEEDED) for task in plan.graph.values() if task.host == host]
    return [Record(seq=n, at=0.0, event=event) for n, event in enumerate(tasks)]


def test_the_nodes_of_all_hosts_that_will_be_drained_are_to_come():
    plan = a_plan("w1=reboot w2 w3=live w4")

    assert to_come(plan.graph, (), NODES) == {"node-w1", "node-w2"}


def test_a_host_that_is_done_with_is_not_to_come():
    plan = a_plan("w1 w2 w3")

    assert to_come(plan.graph, settled(plan, "w1"), NODES) == {"node-w2", "node-w3"}


def test_a_single_host_needs_no_mark():
    plan = a_plan("w1 w2")

    assert to_come(plan.graph, settled(plan, "w1"), NODES) == frozenset()
