"""The Cluster port against a scripted API server over real sockets."""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import yaml

from nixkube_deploy.backends.kubernetes.api import Api, Ask, Patience
from nixkube_deploy.backends.kubernetes.cluster import ApiCluster, http_client
from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText, load
from nixkube_deploy.model.cluster import TO_COME_TAINT, Lease, Pod
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.cluster import EvictionAnswer, LeaseConflict, NodePatch
from tests.fakes.cluster import LoopClock
from tests.fakes.http_server import Asked, Behaves, HttpServer, Reaction, Says

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

PATIENCE = Patience(total=2.0, first=0.005, ceiling=0.02, connect=0.3, answer=0.3)
NODE = {"metadata": {"name": "w1", "resourceVersion": "1"}}
POD = Pod(namespace="web", name="a", uid="uid-a")


def kubeconfig(server: str, **user: object) -> str:
    return yaml.safe_dump(
        {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": user}],
        }
    )


@asynccontextmanager
async def client_of(server: HttpServer, patience: Patience = PATIENCE, **user: object) -> AsyncIterator[ApiCluster]:
    config, name = load(KubeconfigText(kubeconfig(server.url, **user)), None)
    async with http_client(config, name, patience, LoopClock()) as http:
        yield ApiCluster(Api(http, patience), LoopClock())


@asynccontextmanager
async def a_cluster(script: Callable[[Asked], Reaction] | Reaction, **user: object):
    server = HttpServer(script if callable(script) else lambda _: script)
    async with server.running(), client_of(server, **user) as cluster:
        yield server, cluster


def then(*reactions: Reaction) -> Callable[[Asked], Reaction]:
    """These answers in order, the last one for ever."""
    left = list(reactions)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


# Reading.


async def test_nodes_are_listed_page_by_page() -> None:
    def script(asked: Asked) -> Says:
        if "continue" not in asked.query:
            return Says(data={"metadata": {"continue": "next+/="}, "items": [{"metadata": {"name": "w1"}}]})
        return Says(data={"metadata": {}, "items": [{"metadata": {"name": "w2"}}]})

    async with a_cluster(script) as (server, cluster):
        assert [node.name for node in await cluster.nodes()] == ["w1", "w2"]

    assert [asked.query for asked in server.asked] == [{"limit": "500"}, {"limit": "500", "continue": "next+/="}]


async def test_an_expired_page_starts_the_list_again_in_one_piece() -> None:
    def script(asked: Asked) -> Says:
        if "continue" in asked.query:
            return Says(status=410, data={"message": "The provided continue parameter is too old"})
        page = {} if "limit" not in asked.query else {"continue": "old"}
        return Says(data={"metadata": page, "items": [{"metadata": {"name": "w1"}}]})

    async with a_cluster(script) as (_, cluster):
        assert [node.name for node in await cluster.nodes()] == ["w1"]


async def test_pods_are_asked_for_by_their_node_in_all_namespaces() -> None:
    async with a_cluster(Says(data={"items": None})) as (server, cluster):
        assert await cluster.pods("w1") == ()

    assert server.lines == ["GET /api/v1/pods"]
    assert server.asked[0].query["fieldSelector"] == "spec.nodeName=w1"


@pytest.mark.parametrize(("namespace", "path"), [(None, "/api/v1/pods"), ("rook", "/api/v1/namespaces/rook/pods")])
async def test_pods_are_asked_for_by_their_labels(namespace: str | None, path: str) -> None:
    async with a_cluster(Says(data={"items": None})) as (server, cluster):
        assert await cluster.selected_pods("app=web,!draft", namespace) == ()

    assert server.lines == [f"GET {path}"]
    assert server.asked[0].query["labelSelector"] == "app=web,!draft"


async def test_what_does_not_exist_is_none() -> None:
    async with a_cluster(Says(status=404, data={"kind": "Status"})) as (server, cluster):
        assert await cluster.node("w1") is None
        assert await cluster.pod("web", "a") is None
        assert await cluster.lease("kube-system", "nixkube-deploy") is None
        assert not await cluster.daemonset_exists("kube-system", "cni")
        assert await cluster.csi_drivers("w1") == frozenset()

    assert "GET /apis/apps/v1/namespaces/kube-system/daemonsets/cni" in server.lines
    assert "GET /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/nixkube-deploy" in server.lines


async def test_names_cannot_leave_their_place_in_the_path() -> None:
    async with a_cluster(Says(status=404)) as (server, cluster):
        await cluster.node("../secrets?x=")

    assert server.lines == ["GET /api/v1/nodes/..%2Fsecrets%3Fx%3D"]


async def test_the_kubelet_is_asked_through_the_node_proxy() -> None:
    async with a_cluster(Says(text="ok\n", content_type="text/plain")) as (server, cluster):
        assert await cluster.node_healthz("w1") == "ok"

    assert server.lines == ["GET /api/v1/nodes/w1/proxy/healthz"]


@pytest.mark.parametrize(("status", "said"), [(403, None), (401, None), (404, None), (405, None)])
async def test_a_proxy_that_is_not_allowed_tells_nothing(status: int, said: str | None) -> None:
    async with a_cluster(Says(status=status, text="no")) as (_, cluster):
        assert await cluster.node_healthz("w1") is said


async def test_an_unhealthy_kubelet_is_an_answer_and_not_an_error() -> None:
    async with a_cluster(Says(status=500, text="[-]syncloop failed")) as (server, cluster):
        assert await cluster.node_healthz("w1") == "status 500: [-]syncloop failed"

    assert len(server.asked) == 1


# Writing.


async def test_a_node_patch_is_conditional() -> None:
    async with a_cluster(Says(data=NODE)) as (server, cluster):
        patch = NodePatch(unschedulable=True, annotations=(("a", "1"), ("b", None)), resource_version="7")
        await cluster.patch_node("w1", patch)

    (asked,) = server.asked
    assert (asked.method, asked.path) == ("PATCH", "/api/v1/nodes/w1")
    assert asked.headers["content-type"] == "application/merge-patch+json"
    assert asked.query == {"fieldManager": "nixkube-deploy"}
    assert asked.data == {
        "metadata": {"annotations": {"a": "1", "b": None}, "resourceVersion": "7"},
        "spec": {"unschedulable": True},
    }


async def test_a_patch_says_only_what_changes() -> None:
    async with a_cluster(Says(data=NODE)) as (server, cluster):
        await cluster.patch_node("w1", NodePatch(unschedulable=False))

    assert server.asked[0].data == {"spec": {"unschedulable": False}}


async def test_a_taint_is_changed_under_the_version_that_was_seen_and_others_stay() -> None:
    gpu = {"key": "gpu", "effect": "NoSchedule"}
    seen = {"metadata": {"name": "w1", "resourceVersion": "7"}, "spec": {"taints": [gpu]}}
    async with a_cluster(then(Says(data=seen), Says(data=seen))) as (server, cluster):
        await cluster.patch_node("w1", NodePatch(taints=((TO_COME_TAINT, "run-1"),)))

    assert server.lines == ["GET /api/v1/nodes/w1", "PATCH /api/v1/nodes/w1"]
    ours = {"key": TO_COME_TAINT, "value": "run-1", "effect": "PreferNoSchedule"}
    body = json.loads(server.asked[1].body)
    assert body == {"metadata": {"resourceVersion": "7"}, "spec": {"taints": [gpu, ours]}}


async def test_a_taint_is_not_changed_on_a_node_that_has_changed() -> None:
    async with a_cluster(Says(data=NODE)) as (server, cluster):
        with pytest.raises(LeaseConflict):
            await cluster.patch_node("w1", NodePatch(taints=((TO_COME_TAINT, None),), resource_version="0"))

    assert len(server.asked) == 1


async def test_a_conflict_is_a_conflict() -> None:
    async with a_cluster(Says(status=409, data={"message": "the object has been modified"})) as (server, cluster):
        with pytest.raises(LeaseConflict, match="has been modified"):
            await cluster.patch_node("w1", NodePatch(unschedulable=True, resource_version="7"))

    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("grace", "extra"), [(-1, {}), (30, {"gracePeriodSeconds": 30}), (0, {"gracePeriodSeconds": 0})]
)
async def test_an_eviction_names_the_pod_by_uid(grace: int, extra: dict[str, int]) -> None:
    async with a_cluster(Says(status=201, data={"kind": "Status"})) as (server, cluster):
        assert (await cluster.evict(POD, grace)).answer is EvictionAnswer.ACCEPTED

    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/api/v1/namespaces/web/pods/a/eviction")
    assert asked.data["apiVersion"] == "policy/v1"
    assert asked.data["kind"] == "Eviction"
    assert asked.data["metadata"] == {"namespace": "web", "name": "a"}
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "uid-a"}} | extra
    assert asked.data["deleteOptions"] == options


async def test_an_eviction_refused_by_a_budget_is_answered_at_once() -> None:
    causes = [{"reason": "DisruptionBudget", "message": "The disruption budget web needs 2 healthy pods"}]
    refusal = Says(status=429, data={"message": "Cannot evict pod", "details": {"causes": causes}})
    async with a_cluster(refusal) as (server, cluster):
        evicted = await cluster.evict(POD, -1)

    assert (evicted.answer, evicted.message) == (EvictionAnswer.BUDGET, causes[0]["message"])
    assert len(server.asked) == 1


async def test_an_eviction_during_a_restart_is_asked_again() -> None:
    async with a_cluster(then(Says(status=503, text="starting"), Behaves.RESETS, Says(status=201, data={}))) as (
        server,
        cluster,
    ):
        assert (await cluster.evict(POD, -1)).answer is EvictionAnswer.ACCEPTED

    assert len(server.asked) == 3


async def test_deletion_is_conditional_and_gone_already_is_fine() -> None:
    async with a_cluster(then(Says(data={}), Says(status=404), Says(status=409))) as (server, cluster):
        for _ in range(3):
            await cluster.delete_pod(POD, 5)

    assert server.asked[0].method == "DELETE"
    assert server.asked[0].data["preconditions"] == {"uid": "uid-a"}
    assert server.asked[0].data["gracePeriodSeconds"] == 5


async def test_a_lease_is_created_then_replaced_then_deleted_under_its_version() -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
    stored = {"metadata": {"namespace": "kube-system", "name": "l", "resourceVersion": "5"}, "spec": {}}
    lease = Lease(namespace="kube-system", name="l", holder="me@h:r", duration=30)
    async with a_cluster(Says(data=stored)) as (server, cluster):
        written = await cluster.put_lease(lease)
        await cluster.put_lease(replace(lease, resource_version=written.resource_version))
        await cluster.delete_lease(written)

    assert server.lines == [f"POST {path}", f"PUT {path}/l", f"DELETE {path}/l"]
    assert server.asked[1].data["metadata"]["resourceVersion"] == "5"
    assert server.asked[2].data["preconditions"] == {"resourceVersion": "5"}


async def test_a_lease_that_vanished_before_its_renewal_is_a_conflict() -> None:
    async with a_cluster(Says(status=404, data={"message": "not found"})) as (_, cluster):
        with pytest.raises(LeaseConflict):
            await cluster.put_lease(Lease(namespace="n", name="l", resource_version="5"))
        await cluster.delete_lease(Lease(namespace="n", name="l"))


# Bad days.


@pytest.mark.parametrize(
    "trouble",
    [
        Behaves.RESETS,
        Behaves.HANGS,
        Says(status=503, text="apiserver is starting", content_type="text/plain"),
        Says(status=500, data={"kind": "Status", "message": "etcdserver: leader changed"}),
        Says(status=429, text="Too many requests, please try again later.", content_type="text/plain"),
        Says(status=429, text="", content_type=None),
        Says(status=504, text="<html>bad gateway</html>", content_type="text/html; charset=utf-8"),
    ],
)
async def test_a_restarting_or_busy_server_is_asked_again(trouble: Reaction) -> None:
    async with a_cluster(then(trouble, trouble, Says(data=NODE))) as (server, cluster):
        node = await cluster.node("w1")

    assert node is not None
    assert node.name == "w1"
    assert len(server.asked) == 3


async def test_a_server_that_asks_for_patience_gets_it() -> None:
    busy = Says(status=429, text="later", headers={"Retry-After": "1"})
    began = time.monotonic()
    async with a_cluster(then(busy, Says(data=NODE))) as (_, cluster):
        await cluster.node("w1")

    assert 0.9 < time.monotonic() - began < 2


async def test_a_server_that_comes_back_on_its_port_is_found_again() -> None:
    server = HttpServer(lambda _: Says(data=NODE))
    async with server.running():
        pass
    async with client_of(server) as cluster, anyio.create_task_group() as group:

        async def come_back() -> None:
            await anyio.sleep(0.3)
            async with server.running():
                await anyio.sleep(1)

        group.start_soon(come_back)
        assert await cluster.node("w1") is not None
        group.cancel_scope.cancel()


async def test_patience_ends_in_a_transient_failure_that_names_the_server() -> None:
    server = HttpServer(lambda _: Says())
    async with server.running():
        pass
    async with client_of(server, replace(PATIENCE, total=0.2)) as cluster:
        with pytest.raises(TaskError) as caught:
            await cluster.nodes()

    failure = caught.value.failure
    assert failure.kind is FailureKind.CLUSTER
    assert failure.transient
    assert server.url in failure.message
    assert "did not answer for 0.2 s" in failure.message


async def test_a_server_that_hangs_does_not_stretch_the_deadline() -> None:
    server, began = HttpServer(lambda _: Behaves.HANGS), time.monotonic()
    async with server.running(), client_of(server, replace(PATIENCE, total=0.2, answer=10)) as cluster:
        with pytest.raises(TaskError, match=r"did not answer for 0\.2 s: ReadTimeout"):
            await cluster.nodes()

    assert time.monotonic() - began < 2


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
async def test_a_missing_right_is_final_whatever_the_content_type(content_type: str | None) -> None:
    words = 'nodes is forbidden: User "x" cannot list resource "nodes"'
    text = json.dumps({"kind": "Status", "message": words})
    no = Says(status=403, text=text, content_type=content_type)
    async with a_cluster(lambda asked: Says(text="ok") if asked.path == "/readyz" else no) as (server, cluster):
        with pytest.raises(TaskError) as caught:
            await cluster.nodes()

    failure = caught.value.failure
    assert not failure.transient
    assert failure.message == "the Kubernetes API forbids us to list nodes (403)"
    assert failure.expected == "RBAC verb 'list' on nodes"
    assert failure.seen == words
    assert server.lines == ["GET /api/v1/nodes", "GET /readyz", "GET /api/v1/nodes"]


@pytest.mark.parametrize("starting", [403, 500])
async def test_a_server_that_starts_may_refuse_what_it_allows(starting: int) -> None:
    no, yes = Says(status=403, data={"message": "nodes is forbidden"}), Says(data=NODE)
    script = then(no, Says(status=starting), no, Says(text="ok"), yes)
    async with a_cluster(script) as (server, cluster):
        assert await cluster.node("w1") is not None

    assert server.lines == ["GET /api/v1/nodes/w1", "GET /readyz"] * 2 + ["GET /api/v1/nodes/w1"]


async def test_a_server_that_never_says_that_it_is_ready_is_believed_in_the_end() -> None:
    began = time.monotonic()
    async with a_cluster(Says(status=403, data={"message": "no"})) as (_, cluster):
        with pytest.raises(TaskError, match=r"forbids us to list nodes \(403\)") as caught:
            await cluster.nodes()

    assert not caught.value.failure.transient
    assert PATIENCE.total / 2 <= time.monotonic() - began < PATIENCE.total


async def test_bad_credentials_are_final() -> None:
    async with a_cluster(Says(status=401, data={"message": "Unauthorized"})) as (server, cluster):
        with pytest.raises(TaskError, match="does not accept our credentials") as caught:
            await cluster.node("w1")

    assert not caught.value.failure.transient
    assert len(server.asked) == 1


async def test_any_other_refusal_is_final_with_the_servers_words() -> None:
    async with a_cluster(Says(status=422, data={"message": "spec is invalid"})) as (_, cluster):
        with pytest.raises(TaskError, match=r"refused to patch nodes \(status 422\): spec is invalid"):
            await cluster.patch_node("w1", NodePatch(unschedulable=True))


@pytest.mark.parametrize("body", ["<html>hello</html>", "[1]", ""])
async def test_something_that_is_no_api_server_is_recognised(body: str) -> None:
    async with a_cluster(Says(text=body)) as (_, cluster):
        with pytest.raises(TaskError, match="something that is not an object"):
            await cluster.nodes()


async def test_a_redirect_is_refused_and_not_followed() -> None:
    elsewhere = Says(status=302, text="", headers={"Location": "http://127.0.0.1:1/"})
    async with a_cluster(elsewhere) as (_, cluster):
        with pytest.raises(TaskError, match="status 302"):
            await cluster.nodes()


# Connecting.


async def test_a_token_is_sent() -> None:
    async with a_cluster(Says(data=NODE), token="t0ken") as (server, cluster):
        await cluster.node("w1")

    assert server.asked[0].headers["authorization"] == "Bearer t0ken"


async def test_a_token_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    async with a_cluster(Says(data=NODE), tokenFile=str(tmp_path / "token")) as (server, cluster):
        await cluster.node("w1")

    assert server.asked[0].headers["authorization"] == "Bearer from-file"


@pytest.mark.parametrize(
    "command", [["/nowhere/plugin"], [sys.executable, "-c", "import sys; sys.exit('no login')"], ["true"]]
)
async def test_a_broken_exec_plugin_is_a_final_failure_in_words(command: list[str]) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": command[0], "args": command[1:]}
    async with a_cluster(Says(data=NODE), exec=plugin) as (server, cluster):
        with pytest.raises(TaskError, match="no credentials for the Kubernetes API") as caught:
            await cluster.node("w1")

    assert not caught.value.failure.transient
    assert server.asked == []


async def test_a_server_below_a_path_is_asked_below_that_path() -> None:
    server = HttpServer(lambda _: Says(data=NODE))
    async with server.running():
        text = KubeconfigText(kubeconfig(f"{server.url}/k8s/clusters/c-1"))
        async with open_cluster(text, None, clock=LoopClock()) as cluster:
            await cluster.node("w1")

    assert server.lines == ["GET /k8s/clusters/c-1/api/v1/nodes/w1"]


async def test_loopback_servers_are_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with a_cluster(Says(data=NODE)) as (_, cluster):
        assert await cluster.node("w1") is not None


@pytest.mark.parametrize(
    "user",
    [{"client-certificate-data": "!!!", "client-key-data": "!!!"}, {"token": 7}, {"auth-provider": {"name": "gcp"}}],
)
async def test_credentials_that_cannot_be_used_are_a_failure_in_words(user: dict[str, object]) -> None:
    text = KubeconfigText(kubeconfig("https://127.0.0.1:6443", **user))

    with pytest.raises(TaskError, match="cannot be used"):
        async with open_cluster(text, None, clock=LoopClock()):
            raise AssertionError


async def test_without_a_kubeconfig_the_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = HttpServer(lambda _: Says(data=NODE))
    async with server.running():
        (tmp_path / "config").write_text(kubeconfig(server.url))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        async with open_cluster(None, None, clock=LoopClock()) as cluster:
            assert await cluster.node("w1") is not None


async def test_a_plain_server_behind_an_https_url_is_not_waited_for_for_ever() -> None:
    server = HttpServer(lambda _: Says(data=NODE))
    async with server.running():
        config, name = load(KubeconfigText(kubeconfig(server.url.replace("http:", "https:"))), None)
        patience = replace(PATIENCE, total=0.2)
        async with http_client(config, name, patience, LoopClock()) as http:
            with pytest.raises(TaskError):
                await Api(http, patience).ask(Ask(method="GET", path="version", right="get version"))


def test_lightkube_is_imported_by_opening_only(anyio_backend: str) -> None:
    script = "import sys, nixkube_deploy.backends.kubernetes.connect; print('lightkube' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "False"
