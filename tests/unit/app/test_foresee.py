"""A plan that was looked at again once it was known who is drained."""

import pytest

from nixkube_deploy.app.check import drains
from nixkube_deploy.app.foresee import refuse_undrainable, with_outlook
from nixkube_deploy.app.survey import Survey
from nixkube_deploy.model.cluster import DisruptionBudget, Node, Pod
from nixkube_deploy.model.error import Refused, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import HostName, NodeName
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_flake, a_fleet, closures_for, facts_for
from tests.fakes.cluster import FakeCluster
from tests.fakes.shell import FakeShell
from tests.unit.app.worlds import a_world

FLEET = a_fleet("w1 w2")
STRAY = Pod(namespace="shop", name="stray", uid="1", node="w1")


def a_cluster(*pods: Pod) -> FakeCluster:
    return FakeCluster([Node(name="w1"), Node(name="w2")], pods)


async def plan_of(cluster: FakeCluster | None, changed: str) -> tuple[Plan, list[str]]:
    prepared = Prepared(facts=facts_for(FLEET), closures=closures_for(FLEET, changed=changed), flake=a_flake())
    said: list[str] = []
    world = a_world(FLEET, FakeShell(), cluster)
    made, _ = await with_outlook(world, prepared, lambda p: rollout(FLEET, p, Choices()), said.append)
    return made, said


async def test_a_host_that_cannot_be_drained_is_a_problem_of_the_plan():
    plan, _ = await plan_of(a_cluster(STRAY), "w1 w2")

    problem = plan.hosts[0].problem
    assert problem is not None
    assert "pod shop/stray on Node w1 may not be removed" in problem.message
    assert plan.hosts[1].problem is None


async def test_nobody_is_asked_about_hosts_that_are_not_drained():
    cluster = a_cluster(STRAY).fails("budgets", task_error(FailureKind.CLUSTER, "asked"))

    plan, said = await plan_of(cluster, "w1=live")

    assert plan.hosts[0].problem is None
    assert said == []


async def test_a_good_outlook_leaves_the_plan_as_it_was():
    plan, _ = await plan_of(a_cluster(), "w1 w2")

    assert [host.problem for host in plan.hosts] == [None, None]
    assert plan == (await plan_of(None, "w1 w2"))[0]


async def test_a_check_says_of_each_host_whether_it_can_be_drained():
    cluster = a_cluster(STRAY)

    findings = await drains(a_world(FLEET, FakeShell(), cluster), cluster, Survey(facts=facts_for(FLEET)))

    assert {f.subject: f.failure is None for f in findings} == {"w1": False, "w2": True}


async def test_a_check_that_cannot_ask_fails():
    cluster = a_cluster().fails("budgets", task_error(FailureKind.CLUSTER, "no right"))

    findings = await drains(a_world(FLEET, FakeShell(), cluster), cluster, Survey(facts=facts_for(FLEET)))

    assert [f.failure is not None for f in findings if f.check == "drains"] == [True]


NODES = {HostName(name): NodeName(name) for name in ("w1", "w2")}


async def test_a_reviewed_plan_is_refused_where_a_host_can_no_longer_be_drained():
    plan, _ = await plan_of(a_cluster(), "w1 w2")
    cluster = a_cluster(STRAY)

    with pytest.raises(Refused, match="the world has moved since this plan was made") as caught:
        await refuse_undrainable(a_world(FLEET, FakeShell(), cluster), plan, NODES, lambda _: None)

    ((host, failure),) = caught.value.failures
    assert host == "w1"
    assert "pod shop/stray on Node w1 may not be removed" in failure.message


async def test_what_the_drains_of_a_reviewed_plan_would_wait_for_is_said():
    plan, _ = await plan_of(a_cluster(), "w1 w2")
    web = Pod(namespace="shop", name="web", uid="2", node="w2", owner_kind="ReplicaSet")
    cluster = FakeCluster([Node(name="w1"), Node(name="w2")], [web], [DisruptionBudget(namespace="shop", name="tight")])
    said: list[str] = []

    await refuse_undrainable(a_world(FLEET, FakeShell(), cluster), plan, NODES, said.append)

    assert [line.partition(" (")[0] for line in said] == [
        "w2: the drain of pod shop/web has to wait for PodDisruptionBudget shop/tight"
    ]


async def test_a_reviewed_plan_without_drains_asks_nobody():
    plan, _ = await plan_of(a_cluster(), "w1=live")
    cluster = a_cluster(STRAY).fails("budgets", task_error(FailureKind.CLUSTER, "asked"))

    await refuse_undrainable(a_world(FLEET, FakeShell(), cluster), plan, NODES, pytest.fail)
