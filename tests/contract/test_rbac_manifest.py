"""docs/rbac.yaml against what the product really asks the lab's API server for: all of it, and nothing more."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText
from nixkube_deploy.backends.kubernetes.rights import RIGHTS
from nixkube_deploy.lab.kube import Accounts, KubeServer, KubeState, Timing, api, rbac
from nixkube_deploy.lab.kube.users import token_of
from nixkube_deploy.model.cluster import Lease, Pod
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.ports.cluster import Cluster, NodePatch
from nixkube_deploy.protocols.disruption import cordon, drain, still_drained, uncordon
from nixkube_deploy.protocols.lease import LOCK_NAME, LOCK_NAMESPACE, hold_lease
from nixkube_deploy.protocols.observe import NODE_LEASES
from tests.fakes.cluster import LoopClock

MANIFEST = Path(__file__).parents[2] / "docs" / "rbac.yaml"
START = 1_700_000_000.0
RUN = RunId("run-1")
OPTIONAL = ("nixkube-deploy-disable-eviction", "nixkube-deploy-kubelet-health")
RIGHT_OF_EVERYBODY = "selfsubjectaccessreviews"

Grant = tuple[str, str, str, str, str]
"""Verb, group, resource, namespace where the role is confined to one, name where it is confined to one."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Lab:
    state: KubeState
    cluster: Cluster
    asked: list[rbac.Attempt]

    def bind(self, role: str) -> None:
        subject = {"kind": "ServiceAccount", "name": "nixkube-deploy", "namespace": "kube-system"}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        meta = {"name": role}
        self.state.apply({"kind": "ClusterRoleBinding", "metadata": meta, "roleRef": reference, "subjects": [subject]})

    def used(self) -> set[Grant]:
        return {_grant(attempt) for attempt in self.asked if attempt.resource != RIGHT_OF_EVERYBODY}


@asynccontextmanager
async def a_lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """Served to the service account of the manifest, whose every request is noted before it is judged."""
    asked: list[rbac.Attempt] = []

    def noted(store: Any, user: Any, attempt: rbac.Attempt) -> None:
        asked.append(attempt)
        rbac.check(store, user, attempt)

    monkeypatch.setattr(api, "check", noted)
    state = KubeState(now=START, timing=Timing(pod_start=0.0))
    for name in ("w1", "w2"):
        state.register_node(name, machine_id=name, boot_id=name)
    state.seed(("w1", "w2"))
    objects = [state.apply(manifest) for manifest in manifests()]
    account = next(each for each in objects if each["kind"] == "ServiceAccount")
    server = KubeServer(state, accounts=Accounts())
    text = KubeconfigText(kubeconfig(await server.start(), token_of(account)))
    opened = open_cluster(text, None, clock=LoopClock(), patience=5)
    async with opened as cluster, anyio.create_task_group() as group:
        group.start_soon(_pass_time, state)
        await anyio.sleep(0.1)
        yield Lab(state, cluster, asked)
        group.cancel_scope.cancel()
    await server.close()


async def _pass_time(state: KubeState) -> None:
    while True:
        for name in ("w1", "w2"):
            state.heartbeat(name, ready=True)
        state.tick(state.now + 0.2)
        await anyio.sleep(0.02)


def kubeconfig(url: str, token: str) -> str:
    return yaml.safe_dump(
        {
            "clusters": [{"name": "lab", "cluster": {"server": url}}],
            "users": [{"name": "lab", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "current-context": "lab",
        }
    )


def manifests() -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(MANIFEST.read_text()) if document]


def granted() -> set[Grant]:
    found: set[Grant] = set()
    for role in manifests():
        for rule in role.get("rules") or ():
            found |= set(_grants(rule, role["metadata"].get("namespace", "")))
    return found


def _grants(rule: dict[str, Any], namespace: str) -> Iterator[Grant]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames") or ("",):
                    yield verb, group, resource, namespace, name


def _grant(attempt: rbac.Attempt) -> Grant:
    """Leases are the one thing that is granted by namespace, the lock is granted by name where RBAC can do that."""
    leases = attempt.resource == "leases"
    named = leases and attempt.namespace == LOCK_NAMESPACE and attempt.verb != "create"
    namespace, name = attempt.namespace if leases else "", attempt.name if named else ""
    return attempt.verb, attempt.group, attempt.full_resource, namespace, name


async def _write_leases(cluster: Cluster) -> None:
    lease = await cluster.put_lease(Lease(namespace=LOCK_NAMESPACE, name=LOCK_NAME, holder="me", duration=30))
    await cluster.put_lease(lease)


async def _read_leases(cluster: Cluster) -> None:
    await cluster.lease(LOCK_NAMESPACE, LOCK_NAME)
    await cluster.lease(NODE_LEASES, "w1")


def _web(name: str) -> Pod:
    return Pod(namespace="default", name=name, uid="another")


CALLS: dict[str, Callable[[Cluster], Awaitable[object]]] = {
    "nodes": lambda c: c.nodes(),
    "node": lambda c: c.node("w1"),
    "patch_node": lambda c: c.patch_node("w1", NodePatch(unschedulable=False)),
    "node_healthz": lambda c: c.node_healthz("w1"),
    "csi_drivers": lambda c: c.csi_drivers("w1"),
    "pods": lambda c: c.pods("w1"),
    "selected_pods": lambda c: c.selected_pods("app=web", None),
    "pod": lambda c: c.pod("default", "web"),
    "evict": lambda c: c.evict(_web("web"), -1),
    "delete_pod": lambda c: c.delete_pod(_web("web"), -1),
    "daemonset_exists": lambda c: c.daemonset_exists("kube-system", "agent"),
    "budgets": lambda c: c.budgets(),
    "put_lease": _write_leases,
    "lease": _read_leases,
    "delete_lease": lambda c: c.delete_lease(Lease(namespace=LOCK_NAMESPACE, name=LOCK_NAME)),
    "missing_rights": lambda c: c.missing_rights(),
}
"""Every call of the port; what a call asks for depends on nothing but its arguments."""


def test_every_call_of_the_port_is_among_those_tried() -> None:
    methods = {name for name, _ in inspect.getmembers(Cluster, inspect.isfunction) if not name.startswith("_")}
    assert set(CALLS) == methods


async def test_the_manifest_grants_what_the_port_asks_for_and_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_lab(monkeypatch) as lab:
        for role in OPTIONAL:
            lab.bind(role)
        for call in CALLS.values():
            await call(lab.cluster)

        assert lab.used() == granted()


async def test_a_node_is_taken_out_and_given_back_with_no_more_than_the_manifest_binds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = DrainOptions(timeout=20)
    async with a_lab(monkeypatch) as lab:
        async with hold_lease(lab.cluster, LoopClock(), LOCK_NAME, "ann@ci:run-1", ttl=1):
            assert await cordon(lab.cluster, "w1", RUN)
            assert await drain(lab.cluster, LoopClock(), "w1", options, RUN, lambda _: None) > 0
            assert await still_drained(lab.cluster, LoopClock(), "w1", options) == ()
            assert await uncordon(lab.cluster, "w1", RUN)
            await anyio.sleep(0.5)  # A renewal of the lock.
        assert await lab.cluster.lease(LOCK_NAMESPACE, LOCK_NAME) is None
        assert lab.used() <= granted()


async def test_the_server_confirms_every_right_but_the_optional_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_lab(monkeypatch) as lab:
        missing = await lab.cluster.missing_rights()
        assert {each.right for each in missing} == {"delete pods", "get nodes/proxy"}
        assert all(each.only_for for each in missing)

        for role in OPTIONAL:
            lab.bind(role)
        assert await lab.cluster.missing_rights() == ()


def test_what_is_checked_is_what_the_manifest_grants() -> None:
    assert {(r.verb, r.group, r.resource, r.namespace, r.name) for r in RIGHTS} == granted()


def test_optional_rights_are_bound_to_nobody() -> None:
    bound = {each["roleRef"]["name"] for each in manifests() if each["kind"].endswith("Binding")}
    assert not bound & set(OPTIONAL)
