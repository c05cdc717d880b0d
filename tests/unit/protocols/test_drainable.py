"""What is known of a drain before it begins, against a fake cluster."""

import pytest

from nixkube_deploy.model.cluster import DisruptionBudget, Node, Pod
from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.protocols.drainable import NOTHING_YET, Outlook, outlooks
from tests.fakes.cluster import FakeCluster

WEB = {"app": "web"}


def a_pod(name: str = "web-1", node: str = "w1", **fields: object) -> Pod:
    settings = {"labels": WEB, "owner_kind": "ReplicaSet", "owner_name": "web"} | fields
    return Pod(namespace="shop", name=name, uid=name, node=node, **settings)  # type: ignore[arg-type]


def a_budget(name: str = "web", healthy: int = 1, desired: int = 1, expected: int = 1, **fields: object):
    numbers = {"healthy": healthy, "desired": desired, "expected": expected, "is_observed": True} | fields
    allowed = max(0, healthy - desired)
    return DisruptionBudget(
        namespace="shop",
        name=name,
        match_labels=WEB,
        disruptions_allowed=allowed,
        **numbers,  # type: ignore[arg-type]
    )


async def outlook(cluster: FakeCluster, options: DrainOptions = DrainOptions()) -> Outlook:
    said: list[str] = []
    found = (await outlooks(cluster, {"w1": options}, said.append))["w1"]
    assert said == []
    assert cluster.calls == []
    return found


def a_cluster(*pods: Pod, budgets: tuple[DisruptionBudget, ...] = ()) -> FakeCluster:
    return FakeCluster([Node(name="w1"), Node(name="w2")], pods, budgets)


async def test_a_node_whose_pods_may_all_leave_has_a_good_outlook():
    cluster = a_cluster(a_pod(), budgets=(a_budget(healthy=3, desired=2, expected=3),))

    assert await outlook(cluster) == Outlook()


async def test_a_budget_that_never_allows_one_is_named_with_its_pod_and_numbers():
    never = (await outlook(a_cluster(a_pod(), a_pod("web-2"), budgets=(a_budget(),)))).never

    assert never is not None
    assert never.kind is FailureKind.DRAIN
    assert "pod shop/web-1 on Node w1 can never be evicted: PodDisruptionBudget shop/web" in never.message
    assert "and 1 more" in never.message
    assert never.next.startswith("kubectl -n shop describe pdb web")
    assert never.did == NOTHING_YET


async def test_a_budget_that_allows_none_only_now_is_something_to_wait_for():
    found = await outlook(a_cluster(a_pod(), budgets=(a_budget(healthy=2, desired=2, expected=3),)))

    assert found.never is None
    assert found.waits == (
        "the drain of pod shop/web-1 has to wait for PodDisruptionBudget shop/web (has 2 healthy pods, needs 2)",
    )


async def test_a_budget_that_an_operator_may_lift_is_something_to_wait_for():
    pod = a_pod(owner_kind="InstanceManager.longhorn.io", owner_name="im")

    found = await outlook(a_cluster(pod, budgets=(a_budget(),)))

    assert found.never is None
    assert found.waits[0].endswith("(has 1 healthy pods, needs 1); only InstanceManager.longhorn.io can let it go")


async def test_two_budgets_on_one_pod_are_found():
    budgets = (a_budget("a", 3, 1, 3), a_budget("b", 3, 1, 3))

    never = (await outlook(a_cluster(a_pod(), budgets=budgets))).never

    assert never is not None
    assert "covered by 2 PodDisruptionBudgets (shop/a, shop/b)" in never.message
    assert never.did == NOTHING_YET


@pytest.mark.parametrize(
    ("pod", "options", "reason"),
    [
        (a_pod(owner_kind=None, owner_name=None), DrainOptions(), "no controller"),
        (a_pod(has_emptydir=True), DrainOptions(delete_emptydir_data=False), "emptyDir"),
    ],
)
async def test_what_the_options_forbid_is_found(pod: Pod, options: DrainOptions, reason: str):
    never = (await outlook(a_cluster(pod), options)).never

    assert never is not None
    assert reason in never.message
    assert never.did == NOTHING_YET


async def test_budgets_do_not_matter_to_plain_deletion():
    cluster = a_cluster(a_pod(), budgets=(a_budget("a"), a_budget("b")))

    assert await outlook(cluster, DrainOptions(disable_eviction=True)) == Outlook()


@pytest.mark.parametrize("fields", [{"phase": "Pending"}, {"phase": "Failed"}, {"deleting_since": 1.0}])
async def test_budgets_do_not_count_for_pods_that_do_not_run(fields: dict[str, object]):
    assert await outlook(a_cluster(a_pod(**fields), budgets=(a_budget(),))) == Outlook()


async def test_a_budget_may_let_pods_go_that_are_not_ready():
    budget = a_budget(healthy=0, spares_unready=False)

    assert await outlook(a_cluster(a_pod(ready=False), budgets=(budget,))) == Outlook()


async def test_pods_that_stay_keep_nobody():
    agent = a_pod(owner_kind="DaemonSet", owner_name="agent")

    assert await outlook(a_cluster(agent, budgets=(a_budget(),))) == Outlook()


async def test_what_cannot_be_found_out_is_said():
    error = task_error(FailureKind.CLUSTER, "forbidden to list")
    cluster = a_cluster(a_pod()).fails("budgets", error).fails("pods", error)
    said: list[str] = []

    found = await outlooks(cluster, {"w1": DrainOptions()}, said.append)

    assert found == {}
    assert said == [
        "disruption budgets are not checked beforehand: forbidden to list",
        "whether 1 Nodes can be drained is not known beforehand: forbidden to list",
    ]
