"""Requests to answers, without a socket: verbs, selectors, patches, evictions, tables, errors."""

import json
from typing import Any

import pytest

from nixkube_deploy.lab.kube import KubeState, Timing
from nixkube_deploy.lab.kube.api import Watch, handle
from nixkube_deploy.lab.kube.http import Request, Response
from nixkube_deploy.lab.kube.patch import JSON_PATCH, MERGE, STRATEGIC

START = 1_700_000_000.0
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


class Api:
    def __init__(self) -> None:
        self.state = KubeState(now=START, timing=Timing(pod_start=0.0, grace_scale=1 / 60))
        for name in ("w1", "w2"):
            self.state.register_node(name, machine_id=name, boot_id=name, labels={"zone": name[-1]})
        self.state.seed(("w1", "w2"))
        self.tick(10)

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.state.tick(self.state.now + 0.1)

    def send(self, method: str, path: str, body: Any = None, kind: str = "application/json", **query: str) -> Response:
        headers = {"accept": query.pop("accept", "application/json"), "content-type": kind}
        data = b"" if body is None else json.dumps(body).encode()
        answer = handle(self.state, Request(method=method, path=path, query=query, headers=headers, body=data))
        assert isinstance(answer, Response)
        return answer

    def ok(self, method: str, path: str, body: Any = None, kind: str = "application/json", **query: str) -> Any:
        answer = self.send(method, path, body, kind, **query)
        assert answer.status in {200, 201}, answer.body
        return json.loads(answer.body)

    def refused(self, method: str, path: str, body: Any = None, kind: str = "application/json", **query: str) -> Any:
        answer = self.send(method, path, body, kind, **query)
        status = json.loads(answer.body)
        assert status["kind"] == "Status"
        assert status["code"] == answer.status >= 400
        assert answer.content_type == "application/json"
        return status

    def pod(self, app: str, node: str = "") -> dict[str, Any]:
        return next(
            p
            for p in self.state.store.all("pods")
            if p["metadata"]["labels"]["app"] == app and node in {"", p["spec"].get("nodeName")}
        )

    def evict(self, pod: dict[str, Any], **options: Any) -> Response:
        meta = {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta, "deleteOptions": options}
        return self.send("POST", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction", body)


@pytest.fixture
def api() -> Api:
    return Api()


def test_discovery_lists_what_is_served(api: Api) -> None:
    assert api.ok("GET", "/version")["gitVersion"] == "v1.31.4+k3s1"
    assert api.ok("GET", "/api")["versions"] == ["v1"]
    assert {g["name"] for g in api.ok("GET", "/apis")["groups"]} >= {"apps", "policy", "coordination.k8s.io"}
    core = {r["name"]: r for r in api.ok("GET", "/api/v1")["resources"]}
    assert core["pods/eviction"]["group"] == "policy"
    assert {r["name"] for r in api.ok("GET", "/apis/policy/v1")["resources"]} == {
        "poddisruptionbudgets",
        "poddisruptionbudgets/status",
    }
    assert api.ok("GET", "/apis/policy")["preferredVersion"]["version"] == "v1"
    assert api.send("GET", "/readyz").body == b"ok"


@pytest.mark.parametrize(
    "path",
    ["/openapi/v3", "/api/v1/nonsense", "/apis/policy/v1beta1", "/apis/apps/v1/pods", "/api/v1/pods/x", "/api/v2"],
)
def test_paths_that_are_not_served_are_not_found(api: Api, path: str) -> None:
    assert api.refused("GET", path)["reason"] == "NotFound"


def test_a_list_carries_kind_and_revision(api: Api) -> None:
    nodes = api.ok("GET", "/api/v1/nodes")
    assert (nodes["kind"], nodes["metadata"]["resourceVersion"]) == ("NodeList", str(api.state.store.version))
    assert [n["metadata"]["name"] for n in nodes["items"]] == ["w1", "w2"]


def test_pods_of_a_node_are_selected_by_field(api: Api) -> None:
    found = api.ok("GET", "/api/v1/pods", fieldSelector="spec.nodeName=w1,status.phase!=Failed")["items"]
    assert found
    assert {p["spec"]["nodeName"] for p in found} == {"w1"}
    assert len(found) == len(api.state.store.pods_on("w1"))


def test_an_unsupported_field_label_is_refused(api: Api) -> None:
    assert api.refused("GET", "/api/v1/pods", fieldSelector="spec.hostname=x")["message"] == (
        "field label not supported: spec.hostname"
    )


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("zone=1", {"w1"}),
        ("zone==2", {"w2"}),
        ("zone!=1", {"w2"}),
        ("zone in (1,2)", {"w1", "w2"}),
        ("zone notin (1)", {"w2"}),
        ("zone", {"w1", "w2"}),
        ("!zone", set()),
        ("zone in (1, 3),kubernetes.io/os=linux", {"w1"}),
    ],
)
def test_label_selectors_choose(api: Api, selector: str, expected: set[str]) -> None:
    items = api.ok("GET", "/api/v1/nodes", labelSelector=selector)["items"]
    assert {n["metadata"]["name"] for n in items} == expected


def test_a_selector_that_is_none_is_refused(api: Api) -> None:
    assert api.refused("GET", "/api/v1/nodes", labelSelector="a in (b")["code"] == 400


def test_chunks_add_up_to_the_whole_list(api: Api) -> None:
    whole = [p["metadata"]["name"] for p in api.ok("GET", "/api/v1/pods")["items"]]
    seen: list[str] = []
    token = ""
    while True:
        chunk = api.ok("GET", "/api/v1/pods", limit="3", **({"continue": token} if token else {}))
        seen += [p["metadata"]["name"] for p in chunk["items"]]
        token = chunk["metadata"].get("continue", "")
        if not token:
            break
    assert seen == whole
    assert api.refused("GET", "/api/v1/pods", **{"continue": "!!"})["code"] == 400


def test_chunks_are_of_one_revision_whatever_is_written_between_them(api: Api) -> None:
    first = api.ok("GET", "/api/v1/nodes", limit="1")
    api.state.set_cordon("w2", unschedulable=True)
    api.state.register_node("w3", machine_id="w3", boot_id="w3")
    second = api.ok("GET", "/api/v1/nodes", limit="1", **{"continue": first["metadata"]["continue"]})
    assert [n["metadata"]["name"] for n in second["items"]] == ["w2"]
    assert "unschedulable" not in second["items"][0]["spec"]
    assert "continue" not in second["metadata"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_a_chunk_of_a_revision_that_is_forgotten_is_410(api: Api) -> None:
    first = api.ok("GET", "/api/v1/nodes", limit="1")
    api.state.set_cordon("w2", unschedulable=True)
    api.state.store.compact()
    status = api.refused("GET", "/api/v1/nodes", limit="1", **{"continue": first["metadata"]["continue"]})
    assert (status["code"], status["reason"]) == (410, "Expired")
    assert "start a new list" in status["message"]


def test_a_list_may_be_of_one_exact_revision(api: Api) -> None:
    before = api.ok("GET", "/api/v1/nodes")
    api.state.store.remove(api.state.find("Node", "w2"))
    api.state.register_node("w3", machine_id="w3", boot_id="w3")
    exact = {"resourceVersion": before["metadata"]["resourceVersion"], "resourceVersionMatch": "Exact"}
    assert api.ok("GET", "/api/v1/nodes", **exact)["items"] == before["items"]
    newer = api.ok("GET", "/api/v1/nodes", resourceVersion=before["metadata"]["resourceVersion"])
    assert [n["metadata"]["name"] for n in newer["items"]] == ["w1", "w3"]
    api.state.store.compact()
    api.state.set_cordon("w1", unschedulable=True)
    assert api.refused("GET", "/api/v1/nodes", **exact)["code"] == 410


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"resourceVersion": "99999999"}, 504),
        ({"resourceVersion": "x"}, 400),
        ({"limit": "x"}, 400),
        ({"continue": "x"}, 400),
        ({"resourceVersionMatch": "Exact"}, 400),
    ],
)
def test_lists_that_cannot_be_answered_are_refused(api: Api, query: dict[str, str], code: int) -> None:
    assert api.refused("GET", "/api/v1/nodes", **query)["code"] == code


def test_a_cordon_is_a_strategic_merge_and_null_takes_it_back(api: Api) -> None:
    node = api.ok("PATCH", "/api/v1/nodes/w1", {"spec": {"unschedulable": True}}, STRATEGIC)
    assert node["spec"]["unschedulable"] is True
    assert node["metadata"]["generation"] == 2
    node = api.ok("PATCH", "/api/v1/nodes/w1", {"spec": {"unschedulable": None}}, STRATEGIC)
    assert "unschedulable" not in node["spec"]


def test_a_patch_that_changes_nothing_makes_no_new_version(api: Api) -> None:
    before = api.ok("GET", "/api/v1/nodes/w1")["metadata"]["resourceVersion"]
    after = api.ok("PATCH", "/api/v1/nodes/w1", {"metadata": {"labels": {"zone": "1"}}}, MERGE)
    assert after["metadata"]["resourceVersion"] == before


def test_taints_merge_by_key_and_can_be_deleted(api: Api) -> None:
    api.ok("PATCH", "/api/v1/nodes/w1", {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}, STRATEGIC)
    api.ok("PATCH", "/api/v1/nodes/w1", {"spec": {"taints": [{"key": "b", "effect": "NoSchedule"}]}}, STRATEGIC)
    node = api.ok("PATCH", "/api/v1/nodes/w1", {"spec": {"taints": [{"key": "a", "$patch": "delete"}]}}, STRATEGIC)
    assert [t["key"] for t in node["spec"]["taints"]] == ["b"]


def test_json_patch_tests_adds_and_removes(api: Api) -> None:
    operations = [
        {"op": "test", "path": "/metadata/name", "value": "w1"},
        {"op": "add", "path": "/metadata/annotations/example.org~1owner", "value": "me"},
    ]
    node = api.ok("PATCH", "/api/v1/nodes/w1", operations, JSON_PATCH)
    assert node["metadata"]["annotations"]["example.org/owner"] == "me"
    gone = api.ok("PATCH", "/api/v1/nodes/w1", [{"op": "remove", "path": "/spec/providerID"}], JSON_PATCH)
    assert "providerID" not in gone["spec"]
    wrong = [{"op": "test", "path": "/metadata/name", "value": "w2"}]
    assert api.refused("PATCH", "/api/v1/nodes/w1", wrong, JSON_PATCH)["code"] == 422


def test_server_side_apply_is_not_taken(api: Api) -> None:
    assert api.refused("PATCH", "/api/v1/nodes/w1", {}, "application/apply-patch+yaml")["code"] == 415


def test_a_patch_with_an_old_revision_conflicts(api: Api) -> None:
    old = api.ok("GET", "/api/v1/nodes/w1")["metadata"]["resourceVersion"]
    api.ok("PATCH", "/api/v1/nodes/w1", {"spec": {"unschedulable": True}}, STRATEGIC)
    body = {"metadata": {"resourceVersion": old}, "spec": {"unschedulable": None}}
    assert api.refused("PATCH", "/api/v1/nodes/w1", body, STRATEGIC)["reason"] == "Conflict"


def test_a_lease_is_created_replaced_and_lost_by_whoever_comes_late(api: Api) -> None:
    lease = {"metadata": {"name": "lock"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 30}}
    made = api.ok("POST", LEASES, lease)
    assert api.refused("POST", LEASES, lease)["reason"] == "AlreadyExists"
    mine = {**made, "spec": {**made["spec"], "holderIdentity": "b"}}
    taken = api.ok("PUT", f"{LEASES}/lock", mine)
    assert taken["spec"]["holderIdentity"] == "b"
    assert api.refused("PUT", f"{LEASES}/lock", mine)["reason"] == "Conflict"
    wrong = {"preconditions": {"resourceVersion": made["metadata"]["resourceVersion"]}}
    assert api.refused("DELETE", f"{LEASES}/lock", wrong)["reason"] == "Conflict"
    assert api.ok("DELETE", f"{LEASES}/lock")["status"] == "Success"
    assert api.refused("GET", f"{LEASES}/lock")["message"] == 'leases.coordination.k8s.io "lock" not found'


def test_an_object_in_a_namespace_that_is_not_there_is_refused(api: Api) -> None:
    body = {"metadata": {"name": "x"}, "spec": {}}
    assert api.refused("POST", LEASES.replace("kube-system", "nope"), body)["message"] == 'namespaces "nope" not found'


def test_an_eviction_within_the_budget_begins_a_deletion(api: Api) -> None:
    pod = api.pod("web")
    answer = api.evict(pod)
    assert answer.status == 201
    after = api.state.find("Pod", pod["metadata"]["name"], "default")
    assert "deletionTimestamp" in after["metadata"]


def test_an_eviction_beyond_the_budget_is_429_with_its_cause(api: Api) -> None:
    first, second = [p for p in api.state.store.all("pods") if p["metadata"]["labels"]["app"] == "web"][:2]
    for node in ("w1", "w2"):
        api.state.set_cordon(node, unschedulable=True)
    assert api.evict(first).status == 201
    assert api.evict(second).status == 429, "the eviction itself takes from what is allowed"
    api.tick()
    answer = api.evict(second)
    status = json.loads(answer.body)
    assert answer.status == 429
    assert "Retry-After" not in answer.headers
    assert status["reason"] == "TooManyRequests"
    assert status["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    (cause,) = status["details"]["causes"]
    assert cause == {
        "reason": "DisruptionBudget",
        "message": "The disruption budget web needs 2 healthy pods and has 2 currently",
    }
    api.state.set_cordon("w1", unschedulable=False)
    api.tick(15)
    assert api.evict(second).status == 201


def test_a_pod_under_two_budgets_cannot_be_evicted(api: Api) -> None:
    budget = api.state.find("PodDisruptionBudget", "web", "default")
    path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    api.ok("POST", path, {"metadata": {"name": "web-too"}, "spec": budget["spec"]})
    status = json.loads(api.evict(api.pod("web")).body)
    assert status["code"] == 500
    assert "more than one PodDisruptionBudget" in status["message"]


def test_an_eviction_of_a_pod_that_is_gone_is_404_and_of_another_uid_409(api: Api) -> None:
    pod = api.pod("web")
    ghost = {**pod, "metadata": {**pod["metadata"], "name": "ghost"}}
    assert api.evict(ghost).status == 404
    assert api.evict(pod, preconditions={"uid": "other"}).status == 409


def test_a_dry_run_eviction_changes_nothing(api: Api) -> None:
    pod = api.pod("web")
    assert api.evict(pod, dryRun=["All"]).status == 201
    assert api.state.find("Pod", pod["metadata"]["name"], "default") == pod


def test_a_pending_pod_is_evicted_past_its_budget(api: Api) -> None:
    api.state.block_budgets()
    for node in ("w1", "w2"):
        api.state.set_cordon(node, unschedulable=True)
    api.ok("DELETE", f"/api/v1/namespaces/default/pods/{api.pod('web')['metadata']['name']}", gracePeriodSeconds="0")
    api.tick()
    pending = next(p for p in api.state.store.all("pods") if p["status"]["phase"] == "Pending")
    assert api.evict(pending).status == 201


def test_percentages_of_a_budget_round_up(api: Api) -> None:
    path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    selector = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}
    api.ok("POST", path, {"metadata": {"name": "half"}, "spec": {"selector": selector, "minAvailable": "50%"}})
    api.ok("POST", path, {"metadata": {"name": "less"}, "spec": {"selector": selector, "maxUnavailable": "30%"}})
    api.tick()
    assert api.ok("GET", f"{path}/half")["status"]["desiredHealthy"] == 2
    assert api.ok("GET", f"{path}/less")["status"]["disruptionsAllowed"] == 1


def test_the_kubelets_health_is_asked_through_the_node(api: Api) -> None:
    assert api.send("GET", "/api/v1/nodes/w1/proxy/healthz").body == b"ok"
    api.state.kubelet_stopped("w1")
    assert api.refused("GET", "/api/v1/nodes/w1/proxy/healthz")["code"] == 503
    assert api.refused("GET", "/api/v1/nodes/w9/proxy/healthz")["code"] == 404


def test_a_table_is_given_to_whom_asks_for_one(api: Api) -> None:
    api.tick()
    wants = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    table = api.ok("GET", "/api/v1/nodes", accept=wants)
    assert [c["name"] for c in table["columnDefinitions"] if not c["priority"]] == [
        "Name",
        "Status",
        "Roles",
        "Age",
        "Version",
    ]
    assert table["rows"][0]["cells"][:4] == ["w1", "Ready", "<none>", "1s"]
    assert table["rows"][0]["object"]["metadata"]["name"] == "w1"


def test_protobuf_alone_is_not_acceptable(api: Api) -> None:
    assert api.refused("GET", "/api/v1/nodes", accept="application/vnd.kubernetes.protobuf")["code"] == 406
    assert api.ok("GET", "/api/v1/nodes", accept="application/vnd.kubernetes.protobuf, application/json")


def test_a_watch_is_recognised_with_its_selector(api: Api) -> None:
    request = Request(method="GET", path="/api/v1/nodes", query={"watch": "true", "fieldSelector": "metadata.name=w1"})
    assert isinstance(handle(api.state, request), Watch)


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", "/api/v1/nodes", [], 400),
        ("POST", "/api/v1/nodes", {"metadata": {}}, 422),
        ("POST", "/api/v1/nodes", {"kind": "Pod", "metadata": {"name": "x"}}, 400),
        ("PUT", "/api/v1/nodes/w1", {"metadata": {"name": "w2"}}, 400),
        ("PUT", "/api/v1/nodes", {"metadata": {"name": "w2"}}, 405),
        ("DELETE", "/api/v1/nodes", None, 405),
        ("POST", "/version", None, 405),
    ],
)
def test_wrong_requests_get_the_code_a_server_gives(api: Api, method: str, path: str, body: Any, code: int) -> None:
    assert api.refused(method, path, body)["code"] == code


def test_a_body_that_is_not_json_is_a_bad_request(api: Api) -> None:
    answer = handle(api.state, Request(method="POST", path="/api/v1/nodes", headers={}, body=b"{"))
    assert isinstance(answer, Response)
    assert answer.status == 400


def test_status_and_spec_are_written_through_their_own_paths(api: Api) -> None:
    node = api.ok("GET", "/api/v1/nodes/w1")
    changed = {**node, "status": {**node["status"], "phase": "x"}}
    assert "phase" not in api.ok("PUT", "/api/v1/nodes/w1", changed)["status"]
    assert api.ok("PUT", "/api/v1/nodes/w1/status", changed)["status"]["phase"] == "x"


def test_deleting_a_namespace_empties_it(api: Api) -> None:
    api.ok("POST", "/api/v1/namespaces", {"metadata": {"name": "tmp"}})
    api.ok("POST", LEASES.replace("kube-system", "tmp"), {"metadata": {"name": "x"}})
    left = api.ok("DELETE", "/api/v1/namespaces/tmp")
    assert left["status"]["phase"] == "Terminating"
    status = api.refused("POST", LEASES.replace("kube-system", "tmp"), {"metadata": {"name": "y"}})
    assert (status["code"], status["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    api.tick(2)
    assert api.state.find("Namespace", "tmp") is None
    assert api.state.find("Lease", "x", "tmp") is None
