"""API objects to values: what is there, and what may be missing."""

import json
from datetime import UTC, datetime

import pytest

from nixkube_deploy.backends.kubernetes.answers import classify_eviction, denied, words_of
from nixkube_deploy.backends.kubernetes.objects import (
    budget_from,
    driver_names,
    lease_from,
    lease_to,
    node_from,
    pod_from,
)
from nixkube_deploy.model.cluster import Lease, Pod
from nixkube_deploy.ports.cluster import EvictionAnswer

NODE = {
    "metadata": {"name": "w1", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}, "annotations": {"x": "y"}},
    "spec": {"unschedulable": True, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]},
    "status": {
        "conditions": [
            {"type": "MemoryPressure", "status": "False"},
            {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "fine"},
        ],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "w1"}],
        "nodeInfo": {"machineID": "m", "bootID": "b", "kernelVersion": "6.12", "kubeletVersion": "v1.31.4+k3s1"},
        "volumesAttached": [{"name": "csi^v1", "devicePath": ""}],
    },
}


def test_a_node_is_read() -> None:
    node = node_from(NODE)

    assert (node.name, node.ready, node.ready_reason, node.unschedulable) == ("w1", "True", "KubeletReady", True)
    assert node.taints == ("node.kubernetes.io/unschedulable:NoSchedule",)
    assert node.addresses == ("10.0.0.1", "w1")
    assert (node.machine_id, node.boot_id, node.kernel_version) == ("m", "b", "6.12")
    assert node.resource_version == "7"
    assert node.volumes_attached == ("csi^v1",)


@pytest.mark.parametrize("part", [{}, {"status": None}, {"status": {"conditions": None}}, {"metadata": None}])
def test_a_node_that_says_little_is_read_too(part: dict[str, object]) -> None:
    assert node_from(part).ready == "Unknown"


def a_pod_object(**owner: object) -> dict[str, object]:
    reference = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "cni", "controller": True} | owner
    return {"metadata": {"namespace": "n", "name": "p", "uid": "u", "ownerReferences": [reference]}}


def test_a_pod_is_read() -> None:
    data = {
        "metadata": {
            "namespace": "web",
            "name": "a",
            "uid": "u",
            "deletionTimestamp": "2026-01-01T00:00:10Z",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "controller": True}],
        },
        "spec": {
            "nodeName": "w1",
            "priorityClassName": "system-node-critical",
            "volumes": [{"name": "t", "emptyDir": {}}],
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    pod = pod_from(data)

    assert (pod.key, pod.node, pod.phase, pod.ready) == ("web/a", "w1", "Running", True)
    assert (pod.owner_kind, pod.owner_name) == ("ReplicaSet", "web")
    assert pod.has_emptydir
    assert pod.priority_class == "system-node-critical"
    assert pod.deleting_since == datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC).timestamp()


def test_only_the_controlling_owner_counts() -> None:
    assert pod_from(a_pod_object(controller=False)).owner_kind is None
    assert pod_from(a_pod_object()).owner_kind == "DaemonSet"


def test_a_namesake_of_another_api_group_is_not_a_daemonset() -> None:
    assert pod_from(a_pod_object(apiVersion="apps.kruise.io/v1alpha1")).owner_kind == "DaemonSet.apps.kruise.io"


def test_a_strange_deletion_time_still_means_being_deleted() -> None:
    assert pod_from({"metadata": {"deletionTimestamp": "soon"}}).deleting_since is not None


def test_budgets_select_by_labels_and_expressions() -> None:
    selector = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "canary", "operator": "DoesNotExist"},
            {"key": "zone", "operator": "NotIn", "values": ["z"]},
            {"key": "app", "operator": "Exists"},
        ],
    }
    budget = budget_from({"metadata": {"namespace": "n", "name": "p"}, "spec": {"selector": selector}})
    assert budget is not None

    def covered(**labels: str) -> bool:
        return budget.selects(Pod(namespace="n", name="x", uid="u", labels=labels))

    assert covered(app="web", tier="a")
    assert not covered(app="web", tier="c")
    assert not covered(app="web", tier="a", canary="yes")
    assert not covered(app="web", tier="a", zone="z")
    assert not covered(app="db", tier="a")
    assert not budget.selects(Pod(namespace="m", name="x", uid="u", labels={"app": "web", "tier": "a"}))


def test_an_empty_selector_covers_all_and_none_covers_nothing() -> None:
    everything = budget_from({"metadata": {"namespace": "n"}, "spec": {"selector": {}}})

    assert everything is not None
    assert everything.selects(Pod(namespace="n", name="x", uid="u"))
    assert budget_from({"metadata": {"namespace": "n"}, "spec": {}}) is None


@pytest.mark.parametrize(
    ("generation", "reason", "never"),
    [(1, "InsufficientPods", True), (2, "InsufficientPods", False), (1, "SyncFailed", False)],
)
def test_a_budgets_numbers_count_when_they_are_of_the_budget_as_it_is(
    generation: int, reason: str, never: bool
) -> None:
    status = {
        "currentHealthy": 1,
        "desiredHealthy": 1,
        "expectedPods": 1,
        "disruptionsAllowed": 0,
        "observedGeneration": 1,
        "conditions": [{"type": "DisruptionAllowed", "status": "False", "reason": reason}],
    }
    spec = {"selector": {}, "unhealthyPodEvictionPolicy": "AlwaysAllow"}
    budget = budget_from({"metadata": {"generation": generation}, "spec": spec, "status": status})

    assert budget is not None
    assert budget.never_allows is never
    assert not budget.spares_unready


def test_a_lease_goes_out_and_comes_back() -> None:
    lease = Lease(namespace="kube-system", name="l", holder="me@h:r", duration=30, resource_version="4")
    sent = lease_to(lease, datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC))

    assert sent["spec"]["renewTime"] == "2026-01-02T03:04:05.000678Z"
    assert lease_from(sent).holder == "me@h:r"
    assert lease_from(sent).renew_time == "2026-01-02T03:04:05.000678Z"
    assert (
        "resourceVersion" not in lease_to(Lease(namespace="n", name="l"), datetime(2026, 1, 1, tzinfo=UTC))["metadata"]
    )


def test_csi_drivers_are_read() -> None:
    assert driver_names({"spec": {"drivers": [{"name": "a"}, {"name": "b"}]}}) == {"a", "b"}
    assert driver_names({"spec": {"drivers": None}}) == frozenset()


def status(code: int, message: str = "", *causes: str) -> str:
    found = [{"reason": cause, "message": f"about {cause}"} for cause in causes]
    return json.dumps({"kind": "Status", "code": code, "message": message, "details": {"causes": found}})


@pytest.mark.parametrize(
    ("code", "text", "answer"),
    [
        (201, '{"kind": "Status", "status": "Success"}', EvictionAnswer.ACCEPTED),
        (404, status(404), EvictionAnswer.GONE),
        (429, status(429, "no", "DisruptionBudget"), EvictionAnswer.BUDGET),
        (429, status(429, "too many requests"), EvictionAnswer.THROTTLED),
        (429, "Too many requests, please try again later.\n", EvictionAnswer.THROTTLED),
        (409, status(409, "the UID in the precondition"), EvictionAnswer.THROTTLED),
        (403, status(403, "terminating", "NamespaceTerminating"), EvictionAnswer.TERMINATING),
        (403, status(403, "forbidden: User x cannot create pods/eviction"), None),
        (500, status(500, "This pod has more than one PodDisruptionBudget"), EvictionAnswer.MULTIPLE_BUDGETS),
        (500, status(500, "etcdserver: leader changed"), EvictionAnswer.FAILED),
        (500, "", EvictionAnswer.FAILED),
        (503, "", None),
        (429, '{"details": {"causes": [7, null]}}', EvictionAnswer.THROTTLED),
        (429, "[1, 2]", EvictionAnswer.THROTTLED),
    ],
)
def test_an_evictions_answer_is_classified(code: int, text: str, answer: EvictionAnswer | None) -> None:
    evicted = classify_eviction(code, text)

    assert (evicted.answer if evicted else None) is answer


def test_a_budgets_own_words_are_kept() -> None:
    evicted = classify_eviction(429, status(429, "Cannot evict pod", "DisruptionBudget"))

    assert evicted is not None
    assert evicted.message == "about DisruptionBudget"


def test_a_missing_right_is_named_as_rbac_names_it() -> None:
    failure = denied("create pods/eviction", 403, status(403, "forbidden")).failure

    assert failure.expected == "RBAC verb 'create' on pods/eviction"
    assert "kubectl auth can-i create pods/eviction" in failure.next


def test_a_servers_words_are_harmless() -> None:
    assert words_of("\x1b[31mred\x07\nline") == "[31mred line"
    assert len(words_of("x" * 10_000)) == 500
