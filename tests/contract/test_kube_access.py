"""Who may what on the lab's API server: TLS, certificates, tokens, roles, and the refusals clients know."""

import base64
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import anyio
import httpx2
import pytest
import yaml

from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText
from nixkube_deploy.lab.kube import ADMIN, Accounts, KubeServer, KubeState, Timing, User
from nixkube_deploy.lab.kube.tls import Authority, Pair, create_authority
from nixkube_deploy.lab.kube.users import token_of
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.ports.cluster import NodePatch
from nixkube_deploy.protocols.disruption import cordon, drain, uncordon
from nixkube_deploy.protocols.lease import LOCK_NAME, hold_lease
from tests.fakes.cluster import LoopClock

START = 1_700_000_000.0
DEPLOYER = User(name="deployer", groups=("deployers",))
RBAC = "rbac.authorization.k8s.io"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Lab:
    state: KubeState
    server: KubeServer
    url: str
    authority: Authority

    def grant(self, role: str, *rules: Mapping[str, Any], namespace: str = "") -> None:
        """A role with these rules, bound to the group of the deployer."""
        kind, meta = ("Role" if namespace else "ClusterRole"), {"name": role, "namespace": namespace}
        self.state.apply({"kind": kind, "metadata": meta, "rules": [dict(rule) for rule in rules]})
        self.state.apply(
            {
                "kind": f"{kind}Binding",
                "metadata": meta,
                "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role},
                "subjects": [{"kind": "Group", "apiGroup": RBAC, "name": "deployers"}],
            }
        )

    def kubeconfig(self, user: Mapping[str, str], authority: Authority | None = None) -> str:
        trusted = base64.b64encode((authority or self.authority).pair.certificate.encode()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": self.url, "certificate-authority-data": trusted}}],
            "users": [{"name": "lab", "user": dict(user)}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "current-context": "lab",
        }
        return yaml.safe_dump(config)

    async def get(self, path: str, token: str) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False, verify=self.authority.trust()) as session:
            return await session.get(f"{self.url}{path}", headers={"Authorization": f"Bearer {token}"})

    async def post(self, path: str, token: str, body: Any) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False, verify=self.authority.trust()) as session:
            return await session.post(f"{self.url}{path}", headers={"Authorization": f"Bearer {token}"}, json=body)


@asynccontextmanager
async def a_lab() -> AsyncIterator[Lab]:
    authority = create_authority()
    state = KubeState(now=START, timing=Timing(pod_start=0.0))
    for name in ("w1", "w2"):
        state.register_node(name, machine_id=name, boot_id=name)
    state.seed(("w1", "w2"))
    for _ in range(5):
        state.tick(state.now + 0.1)
    accounts = Accounts(tokens={"admin": ADMIN, "deployer": DEPLOYER})
    server = KubeServer(state, accounts=accounts, tls=authority.context(authority.server()))
    yield Lab(state, server, await server.start(), authority)
    await server.close()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with a_lab() as lab:
        yield lab


def as_user(pair: Pair) -> dict[str, str]:
    return {
        "client-certificate-data": base64.b64encode(pair.certificate.encode()).decode(),
        "client-key-data": base64.b64encode(pair.key.encode()).decode(),
    }


async def test_a_list_without_the_right_is_forbidden_in_the_words_of_a_server(lab: Lab) -> None:
    answer = await lab.get("/api/v1/nodes", "deployer")
    assert answer.status_code == 403
    assert answer.json() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'nodes is forbidden: User "deployer" cannot list resource "nodes" in API group "" '
        "at the cluster scope",
        "reason": "Forbidden",
        "details": {"kind": "nodes"},
        "code": 403,
    }


async def test_an_eviction_without_the_right_names_the_subresource(lab: Lab) -> None:
    answer = await lab.post("/api/v1/namespaces/default/pods/web-1/eviction", "deployer", {})
    assert answer.json()["message"] == (
        'pods "web-1" is forbidden: User "deployer" cannot create resource "pods/eviction" in API group "" '
        'in the namespace "default"'
    )


async def test_a_cluster_role_holds_everywhere_and_a_role_in_its_namespace(lab: Lab) -> None:
    lab.grant("see", {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "get"]})
    lab.grant("pods", {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}, namespace="default")
    assert (await lab.get("/api/v1/nodes", "deployer")).status_code == 200
    assert (await lab.get("/api/v1/nodes?watch=1&timeoutSeconds=0", "deployer")).status_code == 403
    assert (await lab.get("/api/v1/namespaces/default/pods", "deployer")).status_code == 200
    assert (await lab.get("/api/v1/namespaces/kube-system/pods", "deployer")).status_code == 403
    assert (await lab.get("/api/v1/pods", "deployer")).status_code == 403


async def test_a_rule_may_name_the_only_objects_it_is_for(lab: Lab) -> None:
    rule = {"apiGroups": [""], "resources": ["nodes"], "resourceNames": ["w1"], "verbs": ["get"]}
    lab.grant("one", rule)
    assert (await lab.get("/api/v1/nodes/w1", "deployer")).status_code == 200
    assert (await lab.get("/api/v1/nodes/w2", "deployer")).status_code == 403


async def test_everybody_may_discover_and_ask_about_oneself(lab: Lab) -> None:
    assert (await lab.get("/apis", "deployer")).status_code == 200
    assert (await lab.get("/readyz", "deployer")).status_code == 200
    lab.grant("evict", {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]})
    for subresource, allowed in (("eviction", True), ("", False)):
        wanted = {"verb": "create", "resource": "pods", "subresource": subresource, "namespace": "default"}
        body = {"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": wanted}}
        answer = await lab.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "deployer", body)
        assert (answer.status_code, answer.json()["status"]) == (201, {"allowed": allowed})


async def test_a_service_account_has_a_token_until_it_is_gone(lab: Lab) -> None:
    account = lab.state.apply({"kind": "ServiceAccount", "metadata": {"name": "d", "namespace": "default"}})
    path = "/api/v1/namespaces/default/serviceaccounts/d/token"
    token = (await lab.post(path, "admin", {})).json()["status"]["token"]
    assert token == token_of(account)
    assert (await lab.get("/apis", token)).status_code == 200
    assert "system:serviceaccount:default:d" in (await lab.get("/api/v1/nodes", token)).json()["message"]
    lab.state.store.remove(account)
    assert (await lab.get("/apis", token)).status_code == 401


async def test_our_client_speaks_tls_with_a_certificate_and_is_refused_what_it_may_not(lab: Lab) -> None:
    lab.grant("see", {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "get"]})
    config = KubeconfigText(lab.kubeconfig(as_user(lab.authority.client("ann", "deployers"))))
    async with open_cluster(config, None, clock=LoopClock(), patience=2) as cluster:
        assert [node.name for node in await cluster.nodes()] == ["w1", "w2"]
        with pytest.raises(TaskError, match="forbids us to patch nodes") as caught:
            await cluster.patch_node("w1", NodePatch(unschedulable=True))
    assert 'User "ann" cannot patch resource "nodes"' in caught.value.failure.seen
    assert not caught.value.failure.transient


async def test_our_client_trusts_no_server_of_another_authority(lab: Lab) -> None:
    config = KubeconfigText(lab.kubeconfig({"token": "admin"}, create_authority()))
    async with open_cluster(config, None, clock=LoopClock(), patience=2) as cluster:
        with pytest.raises(TaskError, match="certificate"):
            await cluster.nodes()


async def test_a_certificate_of_another_authority_gets_nowhere(lab: Lab) -> None:
    config = KubeconfigText(lab.kubeconfig(as_user(create_authority().client("eve", "system:masters"))))
    async with open_cluster(config, None, clock=LoopClock(), patience=1) as cluster:
        with pytest.raises(TaskError):
            await cluster.nodes()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
async def test_kubectl_sees_what_it_may(lab: Lab, tmp_path: Path) -> None:
    lab.grant("see", {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "get"]})
    config = tmp_path / "config"
    config.write_text(lab.kubeconfig({"token": "deployer"}))

    async def kubectl(*arguments: str) -> str:
        environment = {"HOME": str(tmp_path), "KUBECACHEDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
        command = ["kubectl", "--kubeconfig", str(config), *arguments]
        done = await anyio.run_process(command, env=environment, check=False, stdout=PIPE, stderr=PIPE)
        return (done.stdout + done.stderr).decode().strip()

    assert (await kubectl("auth", "can-i", "list", "nodes")).startswith("yes")
    assert (await kubectl("auth", "can-i", "create", "pods", "--subresource=eviction")).endswith("no")
    assert "deployer" in await kubectl("auth", "whoami")
    assert "nodes" in await kubectl("auth", "can-i", "--list")
    assert 'User "deployer" cannot patch resource "nodes"' in await kubectl("cordon", "w1")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
async def test_the_rights_we_ask_for_are_enough_to_drain_and_no_more(lab: Lab, tmp_path: Path) -> None:
    """``docs/rbac.yaml`` as a person would use it: applied, a token made, and then nothing but that token."""
    manifest = Path(__file__).parents[2] / "docs/rbac.yaml"
    config = tmp_path / "config"
    config.write_text(lab.kubeconfig({"token": "admin"}))

    async def kubectl(*arguments: str) -> str:
        environment = {"HOME": str(tmp_path), "KUBECACHEDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
        command = ["kubectl", "--kubeconfig", str(config), *arguments]
        done = await anyio.run_process(command, env=environment, check=False, stdout=PIPE, stderr=PIPE)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    applied = await kubectl("apply", "--validate=false", "-f", str(manifest))
    assert "serviceaccount/nixkube-deploy created" in applied
    assert "unchanged" in await kubectl("apply", "--validate=false", "-f", str(manifest))
    token = await kubectl("-n", "kube-system", "create", "token", "nixkube-deploy", "--duration", "24h")

    clock, run = LoopClock(), RunId("run-1")
    async with open_cluster(KubeconfigText(lab.kubeconfig({"token": token})), None, clock=clock) as cluster:
        async with anyio.create_task_group() as group:
            group.start_soon(pass_time, lab)
            async with hold_lease(cluster, clock, LOCK_NAME, "ann@ci:run-1", ttl=1):
                assert await cordon(cluster, "w1", run)
                assert await drain(cluster, clock, "w1", DrainOptions(timeout=20), run, lambda _: None) > 0
                assert await uncordon(cluster, "w1", run)
            group.cancel_scope.cancel()
        assert await cluster.lease("kube-node-lease", "w1") is not None
        with pytest.raises(TaskError, match="forbids us to get leases"):
            await cluster.lease("default", "somebody-elses")
        with pytest.raises(TaskError, match="forbids us to delete pods"):
            await cluster.delete_pod((await cluster.pods("w2"))[0], 0)


async def pass_time(lab: Lab) -> None:
    while True:
        for name in ("w1", "w2"):
            lab.state.heartbeat(name, ready=True)
        lab.state.tick(lab.state.now + 0.1)
        await anyio.sleep(0.02)
