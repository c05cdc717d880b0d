"""What holds an object that is being deleted, what follows it, and how budgets and evictions share the work."""

import json
from typing import Any

import pytest

from nixkube_deploy.lab.kube import KubeState, Timing, seed
from nixkube_deploy.lab.kube.api import handle
from nixkube_deploy.lab.kube.http import Request, Response
from nixkube_deploy.lab.kube.objects import is_ready, ready_status
from nixkube_deploy.lab.kube.patch import MERGE
from nixkube_deploy.lab.kube.store import Object, merged

START = 1_700_000_000.0


class Cluster:
    """One namespace ``shop`` on two nodes, and a hand on the clock."""

    def __init__(self) -> None:
        self.state = KubeState(now=START, timing=Timing(pod_start=0.1, grace_scale=1 / 60))
        for name in ("w1", "w2"):
            self.state.register_node(name, machine_id=name, boot_id=name)
        for name in ("default", "kube-system", "shop"):
            self.state.apply(seed.namespace(name))
        self.run(1)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            for name in ("w1", "w2"):
                self.state.heartbeat(name, ready=True)
            self.state.tick(self.state.now + 0.1)

    def add(self, *manifests: Object) -> None:
        for manifest in manifests:
            self.state.apply(manifest)
        self.run(1)

    def pods(self, app: str) -> list[Object]:
        return [p for p in self.state.store.all("pods") if (p["metadata"].get("labels") or {}).get("app") == app]

    def send(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any, Response]:
        kind = MERGE if method == "PATCH" else "application/json"
        data = b"" if body is None else json.dumps(body).encode()
        request = Request(method=method, path=path, query=query, headers={"content-type": kind}, body=data)
        answer = handle(self.state, request)
        assert isinstance(answer, Response)
        return answer.status, json.loads(answer.body), answer

    def evict(self, pod: Object) -> tuple[int, Any, Response]:
        meta = {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction"
        return self.send("POST", path, {"kind": "Eviction", "metadata": meta})

    def budget(self, name: str) -> dict[str, Any]:
        found = self.state.find("PodDisruptionBudget", name, "shop")
        assert found is not None
        status: dict[str, Any] = found["status"]
        return status


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def web(kind: str = "Deployment", replicas: int | None = 2) -> Object:
    return seed.workload(kind, "web", "shop", replicas=replicas)


def held(pod: Object) -> Object:
    return merged(pod, metadata={"finalizers": ["example.org/hold"]})


def test_a_finalizer_holds_a_pod_after_its_containers_ended(cluster: Cluster) -> None:
    cluster.add(web(replicas=1))
    pod = cluster.state.store.put(held(cluster.pods("web")[0]))
    path = f"/api/v1/namespaces/shop/pods/{pod['metadata']['name']}"
    assert cluster.evict(pod)[0] == 201
    cluster.run(2)
    _, left, _ = cluster.send("GET", path)
    assert "deletionTimestamp" in left["metadata"]
    assert not is_ready(left)
    assert cluster.send("DELETE", path, gracePeriodSeconds="0")[0] == 200, "force does not help"
    assert cluster.send("PATCH", path, {"metadata": {"finalizers": None}})[0] == 200
    assert cluster.send("GET", path)[0] == 404


def test_a_finalizer_holds_any_object(cluster: Cluster) -> None:
    cluster.add({"kind": "ConfigMap", "metadata": {"name": "c", "namespace": "shop", "finalizers": ["a/b"]}})
    path = "/api/v1/namespaces/shop/configmaps/c"
    code, left, _ = cluster.send("DELETE", path)
    assert (code, left["kind"]) == (200, "ConfigMap")
    assert cluster.send("PATCH", path, {"metadata": {"finalizers": None}})[0] == 200
    assert cluster.send("GET", path)[0] == 404


def test_a_second_deletion_shortens_the_grace_and_never_lengthens_it(cluster: Cluster) -> None:
    cluster.add(web(replicas=1))
    (pod,) = cluster.pods("web")
    path = f"/api/v1/namespaces/shop/pods/{pod['metadata']['name']}"
    graces = []
    for grace in ("20", "300", "5"):
        _, now, _ = cluster.send("DELETE", path, gracePeriodSeconds=grace)
        graces.append(now["metadata"]["deletionGracePeriodSeconds"])
    assert graces == [20, 20, 5]
    cluster.run(0.2)
    assert cluster.send("GET", path)[0] == 404


def test_a_namespace_empties_gracefully_and_takes_no_evictions_meanwhile(cluster: Cluster) -> None:
    cluster.add(web())
    first, _ = cluster.pods("web")
    cluster.state.store.put(held(first))
    assert cluster.send("DELETE", "/api/v1/namespaces/shop")[0] == 200
    code, status, _ = cluster.evict(first)
    assert (code, status["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    cluster.run(2)
    (last,) = cluster.pods("web")
    assert "deletionTimestamp" in last["metadata"]
    assert cluster.state.find("Namespace", "shop")["status"]["phase"] == "Terminating"
    path = f"/api/v1/namespaces/shop/pods/{last['metadata']['name']}"
    cluster.send("PATCH", path, {"metadata": {"finalizers": None}})
    cluster.run(0.5)
    assert cluster.state.find("Namespace", "shop") is None


def test_dependents_follow_their_owner_unless_they_are_orphaned(cluster: Cluster) -> None:
    daemons = "/apis/apps/v1/namespaces/shop/daemonsets/web"
    cluster.add(web("DaemonSet", None))
    cluster.send("DELETE", daemons, propagationPolicy="Orphan")
    cluster.run(1)
    assert len(cluster.pods("web")) == 2
    assert not any(p["metadata"]["ownerReferences"] for p in cluster.pods("web"))
    for pod in cluster.pods("web"):
        cluster.state.store.remove(pod)
    cluster.add(web("DaemonSet", None))
    cluster.send("DELETE", daemons)
    cluster.state.tick(cluster.state.now + 0.1)
    assert all("deletionTimestamp" in p["metadata"] for p in cluster.pods("web"))
    cluster.run(1)
    assert not cluster.pods("web")


def test_a_daemon_pod_comes_back_when_it_was_deleted_or_failed(cluster: Cluster) -> None:
    cluster.add(web("DaemonSet", None))
    first, second = cluster.pods("web")
    assert cluster.evict(first)[0] == 201
    cluster.state.store.put(merged(second, status={"phase": "Failed"}))
    cluster.run(2)
    now = cluster.pods("web")
    assert {p["spec"]["nodeName"] for p in now} == {"w1", "w2"}
    assert all(is_ready(p) for p in now)
    assert not {p["metadata"]["uid"] for p in now} & {p["metadata"]["uid"] for p in (first, second)}


def test_a_statefulset_pod_waits_until_the_one_before_it_is_gone(cluster: Cluster) -> None:
    cluster.add(web("StatefulSet", 1))
    (old,) = cluster.pods("web")
    cluster.state.store.put(held(old))
    cluster.evict(old)
    cluster.run(2)
    assert [p["metadata"]["uid"] for p in cluster.pods("web")] == [old["metadata"]["uid"]]
    path = f"/api/v1/namespaces/shop/pods/{old['metadata']['name']}"
    cluster.send("PATCH", path, {"metadata": {"finalizers": None}})
    cluster.run(1)
    (new,) = cluster.pods("web")
    assert new["metadata"]["name"] == old["metadata"]["name"]
    assert new["metadata"]["uid"] != old["metadata"]["uid"]


def test_the_mirror_of_a_static_pod_is_made_again(cluster: Cluster) -> None:
    annotations = {"kubernetes.io/config.mirror": "x"}
    meta = {"name": "etcd-w1", "namespace": "shop", "labels": {"app": "etcd"}, "annotations": annotations}
    cluster.add({"kind": "Pod", "metadata": meta, "spec": {"nodeName": "w1", "containers": []}, "status": {}})
    (old,) = cluster.pods("etcd")
    cluster.evict(old)
    cluster.run(2)
    (new,) = cluster.pods("etcd")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert is_ready(new)


def test_a_budget_that_was_not_looked_at_yet_says_when_to_ask_again(cluster: Cluster) -> None:
    cluster.add(web())
    cluster.state.apply(seed.budget("web", {"app": "web"}, {"maxUnavailable": 1}, "shop"))
    code, status, answer = cluster.evict(cluster.pods("web")[0])
    assert code == 429
    assert answer.headers["Retry-After"] == "10"
    assert status["details"]["retryAfterSeconds"] == 10
    assert status["details"]["causes"][0]["message"].endswith("is still being processed by the server.")
    cluster.run(0.1)
    assert cluster.evict(cluster.pods("web")[0])[0] == 201


def test_an_eviction_is_noted_in_its_budget_until_the_controller_sees_it(cluster: Cluster) -> None:
    cluster.add(web(), seed.budget("web", {"app": "web"}, {"maxUnavailable": 1}, "shop"))
    assert cluster.budget("web")["conditions"][0]["reason"] == "SufficientPods"
    pod = cluster.pods("web")[0]
    assert cluster.evict(pod)[0] == 201
    assert cluster.budget("web")["disruptedPods"].keys() == {pod["metadata"]["name"]}
    assert cluster.budget("web")["disruptionsAllowed"] == 0
    assert cluster.budget("web")["conditions"][0]["reason"] == "InsufficientPods"
    other = next(p for p in cluster.pods("web") if p is not pod and "deletionTimestamp" not in p["metadata"])
    code, status, _ = cluster.evict(other)
    assert code == 429
    assert (
        status["details"]["causes"][0]["message"] == "The disruption budget web does not allow evicting pods currently"
    )
    cluster.run(0.1)
    assert cluster.budget("web")["disruptedPods"] == {}
    assert cluster.budget("web")["currentHealthy"] == 1
    cluster.run(2)
    assert cluster.budget("web")["disruptionsAllowed"] == 1


def test_a_budget_over_pods_without_a_scale_allows_nothing_and_says_why(cluster: Cluster) -> None:
    cluster.add(seed.budget("web", {"app": "web"}, {"maxUnavailable": 1}, "shop"))
    cluster.add(web("DaemonSet", None))
    assert cluster.budget("web")["conditions"][0]["reason"] == "SyncFailed"
    code, status, _ = cluster.evict(cluster.pods("web")[0])
    assert code == 429
    assert "failed sync: found no controllers for pod" in status["details"]["causes"][0]["message"]


@pytest.mark.parametrize(("policy", "code"), [("IfHealthyBudget", 429), ("AlwaysAllow", 201)])
def test_an_unhealthy_pod_of_a_broken_workload_goes_only_where_the_policy_says_so(
    cluster: Cluster, policy: str, code: int
) -> None:
    limits = {"minAvailable": 2, "unhealthyPodEvictionPolicy": policy}
    cluster.state.hold_pods("w1")
    cluster.add(web(), seed.budget("web", {"app": "web"}, limits, "shop"))
    sick = next(p for p in cluster.pods("web") if p["spec"]["nodeName"] == "w1")
    cluster.state.store.put(merged(sick, status={"phase": "Running"}))
    cluster.run(0.2)
    assert cluster.evict(sick)[0] == code


def test_a_node_object_that_is_refused_stays_away_until_that_ends(cluster: Cluster) -> None:
    cluster.state.refuse_node("w2")
    cluster.run(1)
    assert cluster.state.find("Node", "w2") is None
    cluster.state.register_node("w2", machine_id="w2", boot_id="again")
    assert cluster.state.find("Node", "w2") is None
    cluster.state.refuse_node("w2", refused=False)
    cluster.run(1)
    assert is_ready(cluster.state.find("Node", "w2"))


def test_a_node_object_that_was_deleted_comes_back_only_with_a_new_kubelet(cluster: Cluster) -> None:
    cluster.send("DELETE", "/api/v1/nodes/w2")
    cluster.run(1)
    assert cluster.state.find("Node", "w2") is None
    cluster.state.register_node("w2", machine_id="w2", boot_id="w2")
    assert cluster.state.find("Node", "w2") is not None


def test_a_node_that_is_cut_off_is_unknown_and_its_pods_do_not_end(cluster: Cluster) -> None:
    cluster.add(web())
    cluster.state.cut_off("w1")
    cluster.run(5)
    assert ready_status(cluster.state.find("Node", "w1")) == "Unknown"
    pod = next(p for p in cluster.pods("web") if p["spec"]["nodeName"] == "w1")
    cluster.evict(pod)
    cluster.run(2)
    assert cluster.state.find("Pod", pod["metadata"]["name"], "shop") is not None
    cluster.state.cut_off("w1", cut=False)
    cluster.run(1)
    assert is_ready(cluster.state.find("Node", "w1"))
    assert cluster.state.find("Pod", pod["metadata"]["name"], "shop") is None


def test_a_pod_that_is_stuck_ends_when_that_does(cluster: Cluster) -> None:
    cluster.add(web(replicas=1))
    (pod,) = cluster.pods("web")
    cluster.state.keep_pods(pod["spec"]["nodeName"])
    cluster.evict(pod)
    cluster.run(3)
    assert cluster.state.find("Pod", pod["metadata"]["name"], "shop") is not None
    cluster.state.keep_pods(pod["spec"]["nodeName"], kept=False)
    cluster.run(0.2)
    assert cluster.state.find("Pod", pod["metadata"]["name"], "shop") is None
