"""Cordon, drain and uncordon on a small cluster, in virtual time."""

from dataclasses import replace

import anyio
import pytest
from trio.testing import MockClock

from nixkube_deploy.model.cluster import (
    MIRROR_ANNOTATION,
    OWNER_ANNOTATION,
    PRIOR_ANNOTATION,
    DisruptionBudget,
    Lease,
    Node,
    Pod,
)
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.ports.cluster import EvictionAnswer, LeaseConflict
from nixkube_deploy.protocols.disruption import cordon, drain, still_drained, uncordon
from nixkube_deploy.protocols.lease import LOCK_NAME, LOCK_NAMESPACE
from tests.fakes.cluster import FakeCluster, LoopClock

RUN, DEAD = RunId("run-2"), RunId("run-1")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def a_pod(name: str, **fields: object) -> Pod:
    pod = Pod(namespace="web", name=name, uid=f"uid-{name}", node="n1", owner_kind="ReplicaSet", owner_name="web")
    return replace(pod, **fields)  # type: ignore[arg-type]


def a_daemon(name: str = "cni", **fields: object) -> Pod:
    return a_pod(name, **({"namespace": "kube-system", "owner_kind": "DaemonSet", "owner_name": "cni"} | fields))


def a_mirror(name: str = "apiserver") -> Pod:
    return a_pod(name, namespace="kube-system", annotations={MIRROR_ANNOTATION: "x"}, owner_kind="Node")


def a_cluster(*pods: Pod, budgets: tuple[DisruptionBudget, ...] = (), **node: object) -> FakeCluster:
    return FakeCluster([Node(name="n1", ready="True", **node)], pods, budgets)  # type: ignore[arg-type]


def node_of(cluster: FakeCluster) -> Node:
    return cluster.nodes_by_name["n1"]


def hold_lock(cluster: FakeCluster, run: str) -> None:
    lease = Lease(namespace=LOCK_NAMESPACE, name=LOCK_NAME, holder=f"ann@ci:{run}", duration=30, resource_version="1")
    cluster.leases[LOCK_NAMESPACE, LOCK_NAME] = lease


async def drained(cluster: FakeCluster, said: list[str] | None = None, **options: object) -> int:
    report = (said if said is not None else []).append
    return await drain(cluster, LoopClock(), "n1", DrainOptions(**options), RUN, report)  # type: ignore[arg-type]


async def failure_of_drain(cluster: FakeCluster, said: list[str] | None = None, **options: object):
    with pytest.raises(TaskError) as caught:
        await drained(cluster, said, **options)
    return caught.value.failure


# Cordon.


async def test_a_controller_that_slept_through_its_lock_takes_no_further_node() -> None:
    cluster = a_cluster()
    hold_lock(cluster, "run-3")

    with pytest.raises(TaskError, match="no longer ours: ann@ci:run-3 has it") as caught:
        await cordon(cluster, "n1", RUN)

    assert caught.value.failure.kind is FailureKind.LOCKED
    assert cluster.calls == []
    hold_lock(cluster, RUN)
    assert await cordon(cluster, "n1", RUN)


async def test_a_cordoned_node_carries_its_owner_and_what_it_was_before() -> None:
    cluster = a_cluster()

    assert await cordon(cluster, "n1", RUN)

    assert node_of(cluster).unschedulable
    assert node_of(cluster).annotations == {OWNER_ANNOTATION: RUN, PRIOR_ANNOTATION: "false"}
    assert len(cluster.calls) == 1, "owner and cordon are one write, so no crash falls between"


async def test_cordoning_again_changes_nothing() -> None:
    cluster = a_cluster()
    await cordon(cluster, "n1", RUN)

    assert not await cordon(cluster, "n1", RUN)
    assert len(cluster.calls) == 1


async def test_a_node_that_somebody_uncordoned_under_us_is_cordoned_again() -> None:
    cluster = a_cluster()
    await cordon(cluster, "n1", RUN)
    cluster.put_node(replace(node_of(cluster), unschedulable=False))

    assert await cordon(cluster, "n1", RUN)
    assert node_of(cluster).unschedulable
    assert node_of(cluster).annotations[PRIOR_ANNOTATION] == "false"


async def test_a_write_by_somebody_else_in_between_is_seen_and_respected() -> None:
    cluster = a_cluster()
    cluster.before["patch_node"] = lambda: cluster.put_node(replace(node_of(cluster), unschedulable=True))

    await cordon(cluster, "n1", RUN)

    assert node_of(cluster).annotations[PRIOR_ANNOTATION] == "true", "it was cordoned when we finally wrote"


async def test_endless_conflicts_end_in_a_failure() -> None:
    cluster = a_cluster().fails("patch_node", *[LeaseConflict("n1")] * 100)

    with pytest.raises(TaskError, match="somebody else changed it") as caught:
        await cordon(cluster, "n1", RUN)
    assert caught.value.failure.transient


async def test_a_living_owner_is_refused_by_name() -> None:
    cluster = a_cluster(unschedulable=True, annotations={OWNER_ANNOTATION: DEAD, PRIOR_ANNOTATION: "false"})
    hold_lock(cluster, DEAD)

    with pytest.raises(TaskError, match="belongs to run run-1, which is still at work") as caught:
        await cordon(cluster, "n1", RUN)
    assert caught.value.failure.kind is FailureKind.LOCKED
    assert "ann@ci:run-1" in caught.value.failure.seen
    assert cluster.calls == []


@pytest.mark.parametrize("prior", ["true", "false"])
async def test_a_dead_runs_cordon_is_taken_over_with_its_record_of_before(prior: str) -> None:
    cluster = a_cluster(unschedulable=True, annotations={OWNER_ANNOTATION: DEAD, PRIOR_ANNOTATION: prior})
    hold_lock(cluster, RUN)

    assert await cordon(cluster, "n1", RUN)
    assert node_of(cluster).annotations == {OWNER_ANNOTATION: RUN, PRIOR_ANNOTATION: prior}


async def test_a_stray_record_of_before_without_an_owner_does_not_count() -> None:
    cluster = a_cluster(annotations={PRIOR_ANNOTATION: "true"})

    await cordon(cluster, "n1", RUN)

    assert node_of(cluster).annotations[PRIOR_ANNOTATION] == "false"


async def test_a_missing_node_is_a_failure() -> None:
    with pytest.raises(TaskError, match="there is no Node n2"):
        await cordon(a_cluster(), "n2", RUN)


# Uncordon.


async def test_uncordon_undoes_cordon_and_leaves_no_trace() -> None:
    cluster = a_cluster()
    await cordon(cluster, "n1", RUN)

    assert await uncordon(cluster, "n1", RUN)
    assert not node_of(cluster).unschedulable
    assert node_of(cluster).annotations == {}


async def test_a_node_cordoned_before_us_stays_cordoned() -> None:
    cluster = a_cluster(unschedulable=True)
    await cordon(cluster, "n1", RUN)

    assert not await uncordon(cluster, "n1", RUN)
    assert node_of(cluster).unschedulable
    assert node_of(cluster).annotations == {}


async def test_somebody_elses_uncordon_is_not_contradicted() -> None:
    cluster = a_cluster(unschedulable=True)
    await cordon(cluster, "n1", RUN)
    cluster.put_node(replace(node_of(cluster), unschedulable=False))

    assert await uncordon(cluster, "n1", RUN)
    assert not node_of(cluster).unschedulable
    assert node_of(cluster).annotations == {}


async def test_a_cordon_that_is_not_ours_is_left_alone() -> None:
    cluster = a_cluster(unschedulable=True)

    assert not await uncordon(cluster, "n1", RUN)
    assert node_of(cluster).unschedulable
    assert cluster.calls == []


async def test_uncordoning_twice_is_fine() -> None:
    cluster = a_cluster()
    await cordon(cluster, "n1", RUN)
    await uncordon(cluster, "n1", RUN)

    assert await uncordon(cluster, "n1", RUN)


async def test_a_dead_runs_leftover_is_given_back() -> None:
    cluster = a_cluster(unschedulable=True, annotations={OWNER_ANNOTATION: DEAD, PRIOR_ANNOTATION: "false"})

    assert await uncordon(cluster, "n1", RUN)
    assert not node_of(cluster).unschedulable


async def test_a_living_runs_cordon_is_not_lifted() -> None:
    cluster = a_cluster(unschedulable=True, annotations={OWNER_ANNOTATION: DEAD, PRIOR_ANNOTATION: "false"})
    hold_lock(cluster, DEAD)

    with pytest.raises(TaskError, match="still at work"):
        await uncordon(cluster, "n1", RUN)
    assert node_of(cluster).unschedulable


# Drain.


async def test_a_drain_cordons_first_evicts_the_rest_and_counts() -> None:
    cluster = a_cluster(a_pod("a"), a_pod("b"), a_daemon(), a_mirror(), a_pod("elsewhere", node="n2"))

    assert await drained(cluster) == 2
    assert cluster.calls[0] == "patch_node n1"
    assert sorted(cluster.calls[1:]) == ["evict web/a", "evict web/b"]
    assert set(cluster.pods_by_key) == {"kube-system/cni", "kube-system/apiserver", "web/elsewhere"}


async def test_a_drained_node_drains_again_in_no_time() -> None:
    cluster = a_cluster(a_pod("a"), a_daemon())
    await drained(cluster)
    before = anyio.current_time()

    assert await drained(cluster) == 0
    assert anyio.current_time() == before


async def test_a_terminating_pod_is_waited_for_and_not_evicted_again() -> None:
    cluster = a_cluster(a_pod("a"))
    cluster._remove("web/a", ())

    assert await drained(cluster) == 1
    assert "evict web/a" not in cluster.calls


@pytest.mark.parametrize(
    ("pod", "option"),
    [
        (a_pod("solo", owner_kind=None), "drain.force"),
        (a_pod("scratch", has_emptydir=True), "drain.delete_emptydir_data"),
        (a_daemon("orphan", owner_name="gone"), "drain.force"),
    ],
)
async def test_policy_speaks_before_anything_is_evicted(pod: Pod, option: str) -> None:
    cluster = a_cluster(a_pod("a"), pod)
    cluster.daemonsets.discard("kube-system/gone")

    failure = await failure_of_drain(cluster, delete_emptydir_data=False)

    assert failure.kind is FailureKind.DRAIN
    assert pod.key in failure.message
    assert option in failure.message
    assert failure.did == "evicted nothing"
    assert not [call for call in cluster.calls if call.startswith("evict")]


async def test_the_options_allow_what_policy_forbids() -> None:
    pods = (a_pod("solo", owner_kind=None), a_pod("scratch", has_emptydir=True), a_daemon("orphan", owner_name="gone"))
    cluster = a_cluster(*pods)
    cluster.daemonsets.clear()

    assert await drained(cluster, force=True, delete_emptydir_data=True) == 3


async def test_finished_pods_leave_without_force() -> None:
    pods = (
        a_pod("job", owner_kind=None, phase="Succeeded"),
        a_pod("scratch", has_emptydir=True, phase="Failed"),
        a_daemon(phase="Failed"),
    )

    assert await drained(a_cluster(*pods), delete_emptydir_data=False) == 3


async def test_a_budget_is_waited_for_and_respected() -> None:
    labels = {"app": "web"}
    budget = DisruptionBudget(namespace="web", name="web", match_labels=labels, disruptions_allowed=1)
    cluster = a_cluster(*(a_pod(name, labels=labels) for name in "abc"), budgets=(budget,))
    said: list[str] = []

    assert await drained(cluster, said) == 3
    assert cluster.budgets_by_key["web/web"].disruptions_allowed >= 0
    assert any("waits for a disruption budget" in line for line in said)


async def test_a_budget_that_never_lets_go_is_named_when_time_is_up() -> None:
    labels = {"app": "db"}
    budget = DisruptionBudget(namespace="web", name="db-pdb", match_labels=labels)
    cluster = a_cluster(a_pod("db-0", labels=labels), a_pod("a"), budgets=(budget,))

    failure = await failure_of_drain(cluster, timeout=60)

    assert (
        failure.message
        == "draining Node n1 took more than 60 s: pod web/db-0 is held by PodDisruptionBudget web/db-pdb"
    )
    assert failure.did == "evicted 1: web/a"
    assert failure.next == "kubectl -n web describe pdb db-pdb"
    assert "web/db-0 waits for a disruption budget" in failure.evidence[0]
    assert 10 < cluster.calls.count("evict web/db-0") < 20, "about every five seconds, as kubectl"


async def test_two_budgets_on_one_pod_are_found_before_any_eviction() -> None:
    budgets = tuple(DisruptionBudget(namespace="web", name=name, disruptions_allowed=1) for name in ("one", "two"))
    cluster = a_cluster(a_pod("a"), budgets=budgets)

    failure = await failure_of_drain(cluster)

    assert "web/one, web/two" in failure.message
    assert failure.did == "evicted nothing"
    assert "evict web/a" not in cluster.calls


async def test_two_budgets_the_api_finds_are_permanent() -> None:
    cluster = a_cluster(a_pod("a")).answers_eviction("web/a", EvictionAnswer.MULTIPLE_BUDGETS, message="two of them")
    cluster.fails("budgets", task_error(FailureKind.CLUSTER, "may not list poddisruptionbudgets"))
    said: list[str] = []

    failure = await failure_of_drain(cluster, said)

    assert "more than one PodDisruptionBudget" in failure.message
    assert failure.seen == "two of them"
    assert anyio.current_time() < 5
    assert said[0] == "budgets are not checked beforehand: may not list poddisruptionbudgets"


async def test_flow_control_and_terminating_namespaces_are_asked_again() -> None:
    cluster = a_cluster(a_pod("a"))
    cluster.answers_eviction("web/a", EvictionAnswer.THROTTLED, EvictionAnswer.TERMINATING)

    assert await drained(cluster) == 1
    assert cluster.calls.count("evict web/a") == 3


async def test_the_next_pod_of_a_statefulset_is_not_the_one_that_had_to_go() -> None:
    cluster = a_cluster(a_pod("db-0"))
    cluster.answers_eviction("web/db-0", EvictionAnswer.THROTTLED)
    cluster.before["evict"] = lambda: cluster.put_pod(a_pod("db-0", uid="another", node="n2"))

    assert await drained(cluster) == 1
    assert cluster.pods_by_key["web/db-0"].uid == "another"
    assert cluster.calls.count("evict web/db-0") == 1


async def test_an_api_that_is_away_for_a_while_only_delays_the_drain() -> None:
    cluster = a_cluster(a_pod("a"), a_pod("b"))
    said: list[str] = []

    async with anyio.create_task_group() as group:

        async def outage() -> None:
            await anyio.sleep(0.5)
            cluster.down_for(90)

        group.start_soon(outage)
        assert await drained(cluster, said) == 2

    assert anyio.current_time() >= 90
    assert len([line for line in said if "trying again" in line]) == 1


async def test_an_api_that_never_answers_is_named() -> None:
    cluster = a_cluster(a_pod("a"))
    cluster.down_for(1000)

    failure = await failure_of_drain(cluster, timeout=30)

    assert "the Kubernetes API did not answer" in failure.message


async def test_a_final_refusal_ends_the_drain_as_it_is() -> None:
    cluster = a_cluster(a_pod("a"), a_pod("b"))
    cluster.fails("evict", task_error(FailureKind.CLUSTER, "may not create pods/eviction"))

    failure = await failure_of_drain(cluster)

    assert failure.kind is FailureKind.CLUSTER
    assert "pods/eviction" in failure.message


async def test_without_evictions_pods_are_deleted_past_their_budgets() -> None:
    cluster = a_cluster(a_pod("a"), budgets=(DisruptionBudget(namespace="web", name="none"),))

    assert await drained(cluster, disable_eviction=True) == 1
    assert "delete web/a" in cluster.calls


def a_lost_cluster(*pods: Pod, **more: object) -> FakeCluster:
    """Its kubelet is not heard any more."""
    said = {"ready_reason": "NodeStatusUnknown", "ready_message": "Kubelet stopped posting node status."}
    cluster = a_cluster(*pods, **more)  # type: ignore[arg-type]
    cluster.put_node(replace(node_of(cluster), ready="Unknown", **said))  # type: ignore[arg-type]
    cluster.dead.add("n1")
    return cluster


async def test_pods_of_an_unreachable_node_are_deleted_and_left_behind_once_their_grace_is_over() -> None:
    cluster = a_lost_cluster(a_pod("a"), a_pod("b"), volumes_attached=("csi^vol-1",))
    cluster.termination, said = 30, list[str]()

    assert await drained(cluster, said) == 0

    assert 35 <= anyio.current_time() < 40, "its grace, five seconds, and no wait for volumes that nobody unmounts"
    assert {"evict web/a", "evict web/b"} <= set(cluster.calls)
    assert "web/b is deleted, but no kubelet ends it: Node n1 is unreachable; going on" in said[-2:]
    assert await still_drained(cluster, LoopClock(), "n1", DrainOptions()) == ()
    assert await drained(cluster) == 0
    assert anyio.current_time() < 41, "a second drain has nothing to wait for"


async def test_a_pod_of_an_unreachable_node_that_was_not_deleted_is_not_left_behind() -> None:
    cluster = a_lost_cluster(a_pod("a"))
    await cordon(cluster, "n1", RUN)

    assert await still_drained(cluster, LoopClock(), "n1", DrainOptions()) == ("pod web/a is on Node n1",)


async def test_a_pod_past_its_grace_is_waited_for_while_the_kubelet_is_heard() -> None:
    cluster = a_cluster(a_pod("a"))
    cluster.dead.add("n1")

    failure = await failure_of_drain(cluster, timeout=60)

    assert failure.evidence == ("web/a waits for its containers to end",)
    assert "--no-drain" not in failure.next


@pytest.mark.parametrize(
    ("node", "state"),
    [
        ({"ready": "False", "ready_message": "PLEG"}, "the Node is not Ready (Ready is False, PLEG)"),
        (
            {"taints": ("node.kubernetes.io/unreachable:NoExecute",)},
            "the Node is unreachable (Ready is True)",
        ),
    ],
)
async def test_a_drain_that_fails_on_a_sick_node_says_so_and_how_to_do_without(node: dict, state: str) -> None:
    budget = DisruptionBudget(namespace="web", name="tight")
    cluster = a_cluster(a_pod("a"), budgets=(budget,))
    cluster.put_node(replace(node_of(cluster), **node))

    failure = await failure_of_drain(cluster, timeout=20)

    assert failure.message.endswith(f"PodDisruptionBudget web/tight; {state}")
    assert failure.next.startswith("kubectl -n web describe pdb tight; ")
    assert failure.next.endswith("deploy apply INVENTORY --on HOST --no-drain")


async def test_the_words_of_a_webhook_that_fails_evictions_are_quoted() -> None:
    words = 'Internal error occurred: failed calling webhook "guard.example": connection refused'
    cluster, said = a_cluster(a_pod("a")), list[str]()
    cluster.answers_eviction("web/a", *[EvictionAnswer.FAILED] * 100, message=words)

    failure = await failure_of_drain(cluster, said, timeout=20)

    assert failure.message.endswith(f"pod web/a waits for the API to take its eviction, which fails: {words}")
    assert failure.next == "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations"
    assert [line for line in said if words in line] == [f"web/a {failure.message.partition('web/a ')[2]}"]


async def test_an_eviction_that_fails_at_first_is_asked_for_again() -> None:
    cluster = a_cluster(a_pod("a")).answers_eviction("web/a", EvictionAnswer.FAILED, EvictionAnswer.FAILED)

    assert await drained(cluster) == 1


async def test_a_pod_that_does_not_end_is_named() -> None:
    cluster = a_cluster(a_pod("a"))
    cluster.termination = 10_000

    failure = await failure_of_drain(cluster, timeout=20)

    assert failure.evidence == ("web/a waits for its containers to end",)


async def test_volumes_get_a_bounded_time_to_detach() -> None:
    cluster = a_cluster(a_pod("a"), volumes_attached=("csi^vol-1",))
    said: list[str] = []

    assert await drained(cluster, said) == 1
    assert 60 <= anyio.current_time() < 70
    assert said[-1] == "volumes stay attached to n1; going on without waiting for them"


async def test_a_drained_node_is_still_drained_until_it_is_not() -> None:
    cluster = a_cluster(a_pod("a"), a_daemon(), a_mirror())
    options = DrainOptions()
    await drained(cluster)
    assert await still_drained(cluster, LoopClock(), "n1", options) == ()

    cluster.put_pod(a_pod("late"))
    cluster.put_node(replace(node_of(cluster), unschedulable=False))
    assert await still_drained(cluster, LoopClock(), "n1", options) == (
        "Node n1 is schedulable again",
        "pod web/late is on Node n1",
    )
