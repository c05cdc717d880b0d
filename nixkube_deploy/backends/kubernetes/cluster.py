"""The Cluster port over one API server. One method a call, no policy.

Importing this module imports lightkube, which costs a tenth of a second or two: ``connect`` does it when needed.
"""

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx2
from lightkube.config.client_adapter import ConnectionParams
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError
from msgspec import MsgspecError

from nixkube_deploy.backends.kubernetes.answers import classify_eviction, words_of
from nixkube_deploy.backends.kubernetes.api import MERGE_PATCH, Api, Ask, Patience, Reply
from nixkube_deploy.backends.kubernetes.kubeconfig import is_local, without_plugin
from nixkube_deploy.backends.kubernetes.objects import (
    budget_from,
    driver_names,
    lease_from,
    lease_to,
    node_from,
    pod_from,
    taints_after,
)
from nixkube_deploy.backends.kubernetes.plugin import PluginAuth
from nixkube_deploy.backends.kubernetes.rights import RIGHTS
from nixkube_deploy.model.cluster import DisruptionBudget, Lease, Node, Pod
from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.cluster import Evicted, LeaseConflict, MissingRight, NodePatch

PAGE = 500
"""Objects in one page of a list, as kubectl asks for."""
WRITER = {"fieldManager": "nixkube-deploy"}
GONE = 410
NOT_FOUND = 404
PROXY_NOT_ALLOWED = frozenset({401, 403, 404, 405})
OVERLOADED = 429


def http_client(config: Mapping[str, Any] | None, name: str, patience: Patience, clock: Clock) -> httpx2.AsyncClient:
    """An HTTP client with the TLS, credentials and proxy that the kubeconfig asks for; None: the user's default.

    Raises:
        TaskError: CLUSTER, the kubeconfig cannot be used.
    """
    try:
        if config is None:
            chosen, plugin, proxy = KubeConfig.from_env().get(), None, None
        else:
            bare, plugin = without_plugin(config)
            chosen, proxy = KubeConfig.from_dict(bare).get(), config["clusters"][0]["cluster"].get("proxy-url")
        assert chosen is not None, "without a default, lightkube raises instead"
        single = chosen if chosen.user is not None else chosen._replace(user=User())
        local = is_local(single.cluster.server)
        wanted = ConnectionParams(timeout=patience.timeout(), trust_env=not local, proxy=proxy).httpx_params(single)
        # Newer Pythons want more of a CA than kubectl does and than clusters' own CAs have.
        wanted["verify"].verify_flags &= ~ssl.VERIFY_X509_STRICT
        if plugin is not None:
            wanted["auth"] = PluginAuth(plugin, wanted["verify"], clock)
        return httpx2.AsyncClient(**wanted)
    except (ConfigError, MsgspecError, OSError, KeyError, ValueError, TypeError) as error:
        raise task_error(
            FailureKind.CLUSTER,
            f"kubeconfig {name} cannot be used: {words_of(str(error))}",
            expected="a server, and credentials that can be read",
            next="kubectl get nodes",
        ) from error


class ApiCluster:
    """``ports.cluster.Cluster`` over an ``Api``."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api, self._clock = api, clock

    async def nodes(self) -> tuple[Node, ...]:
        """All Nodes."""
        return tuple(map(node_from, await self._list("api/v1/nodes", "list nodes")))

    async def node(self, name: str) -> Node | None:
        """One Node."""
        reply = await self._get(_node(name), "get nodes")
        return node_from(reply.data()) if reply.ok else None

    async def patch_node(self, name: str, patch: NodePatch) -> Node:
        """A merge patch; with a resourceVersion it is conditional.

        The API knows taints only as a whole list, so a change of one is a look and a patch under what was seen.
        """
        version, spec = patch.resource_version, dict[str, Any]()
        if patch.taints:
            seen = (await self._api.ask(Ask(method="GET", path=_node(name), right="get nodes"))).data()
            current = (seen.get("metadata") or {}).get("resourceVersion", "")
            if version not in {None, current}:
                raise LeaseConflict(f"Node {name} has changed")
            version, spec["taints"] = current, taints_after(seen, patch.taints)
        if patch.unschedulable is not None:
            spec["unschedulable"] = patch.unschedulable
        meta: dict[str, Any] = {"annotations": dict(patch.annotations)} if patch.annotations else {}
        if version is not None:
            meta["resourceVersion"] = version
        body = {key: part for key, part in (("metadata", meta), ("spec", spec)) if part}
        ask = Ask(
            method="PATCH", path=_node(name), right="patch nodes", params=WRITER, body=body, content_type=MERGE_PATCH
        )
        return node_from((await self._api.ask(ask)).data())

    async def node_healthz(self, name: str) -> str | None:
        """Any answer of the kubelet is an answer, bad ones too."""
        ask = Ask(
            method="GET",
            path=f"{_node(name)}/proxy/healthz",
            right="get nodes/proxy",
            expects=lambda status, _text: status != OVERLOADED,
        )
        reply = await self._api.ask(ask)
        if reply.status in PROXY_NOT_ALLOWED:
            return None
        return reply.text.strip() if reply.ok else f"status {reply.status}: {words_of(reply.text)}"

    async def csi_drivers(self, node: str) -> frozenset[str]:
        """The drivers in the node's CSINode."""
        reply = await self._get(f"apis/storage.k8s.io/v1/csinodes/{quote(node, safe='')}", "get csinodes")
        return driver_names(reply.data()) if reply.ok else frozenset()

    async def pods(self, node: str) -> tuple[Pod, ...]:
        """The pods bound to the node."""
        found = await self._list("api/v1/pods", "list pods", {"fieldSelector": f"spec.nodeName={node}"})
        return tuple(map(pod_from, found))

    async def selected_pods(self, selector: str, namespace: str | None) -> tuple[Pod, ...]:
        """The pods with these labels."""
        place = f"namespaces/{quote(namespace, safe='')}/pods" if namespace is not None else "pods"
        found = await self._list(f"api/v1/{place}", "list pods", {"labelSelector": selector})
        return tuple(map(pod_from, found))

    async def pod(self, namespace: str, name: str) -> Pod | None:
        """One pod."""
        reply = await self._get(_pod(namespace, name), "get pods")
        return pod_from(reply.data()) if reply.ok else None

    async def evict(self, pod: Pod, grace_period: int) -> Evicted:
        """An eviction of exactly this pod: its UID is a precondition, so a namesake is never evicted in its place."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": pod.namespace, "name": pod.name},
            "deleteOptions": _delete_options(pod, grace_period),
        }
        ask = Ask(
            method="POST",
            path=f"{_pod(pod.namespace, pod.name)}/eviction",
            right="create pods/eviction",
            params=WRITER,
            body=body,
            expects=lambda status, text: classify_eviction(status, text) is not None,
        )
        reply = await self._api.ask(ask)
        evicted = classify_eviction(reply.status, reply.text)
        assert evicted is not None, "only answers that can be classified are expected"
        return evicted

    async def delete_pod(self, pod: Pod, grace_period: int) -> None:
        """A deletion of exactly this pod; already gone, or a namesake in its place, is fine."""
        ask = Ask(
            method="DELETE",
            path=_pod(pod.namespace, pod.name),
            right="delete pods",
            body=_delete_options(pod, grace_period),
            expects=lambda status, _text: status in {NOT_FOUND, 409},
        )
        await self._api.ask(ask)

    async def daemonset_exists(self, namespace: str, name: str) -> bool:
        """Whether the DaemonSet is there."""
        path = f"apis/apps/v1/namespaces/{quote(namespace, safe='')}/daemonsets/{quote(name, safe='')}"
        return (await self._get(path, "get daemonsets")).ok

    async def budgets(self) -> tuple[DisruptionBudget, ...]:
        """All budgets that can cover a pod."""
        found = await self._list("apis/policy/v1/poddisruptionbudgets", "list poddisruptionbudgets")
        return tuple(budget for budget in map(budget_from, found) if budget is not None)

    async def lease(self, namespace: str, name: str) -> Lease | None:
        """One Lease."""
        reply = await self._get(_lease(namespace, name), "get leases")
        return lease_from(reply.data()) if reply.ok else None

    async def put_lease(self, lease: Lease) -> Lease:
        """Create without a resourceVersion, replace with one. A Lease deleted meanwhile is a conflict too."""
        body = lease_to(lease, self._clock.now())
        if lease.resource_version:
            path, method, right = _lease(lease.namespace, lease.name), "PUT", "update leases"
        else:
            path, method, right = _lease(lease.namespace), "POST", "create leases"
        ask = Ask(
            method=method,
            path=path,
            right=right,
            params=WRITER,
            body=body,
            expects=lambda status, _text: status == NOT_FOUND and method == "PUT",
        )
        reply = await self._api.ask(ask)
        if not reply.ok:
            raise LeaseConflict(words_of(reply.text))
        return lease_from(reply.data())

    async def delete_lease(self, lease: Lease) -> None:
        """Delete it if it has not changed since."""
        condition = {"preconditions": {"resourceVersion": lease.resource_version}} if lease.resource_version else {}
        ask = Ask(
            method="DELETE",
            path=_lease(lease.namespace, lease.name),
            right="delete leases",
            body={"apiVersion": "v1", "kind": "DeleteOptions", **condition},
            expects=lambda status, _text: status == NOT_FOUND,
        )
        await self._api.ask(ask)

    async def missing_rights(self) -> tuple[MissingRight, ...]:
        """One review a right; whoever is authenticated may ask these about oneself."""
        missing = []
        for right in RIGHTS:
            ask = Ask(
                method="POST",
                path="apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                right="create selfsubjectaccessreviews",
                params=WRITER,
                body=right.review(),
            )
            answer = (await self._api.ask(ask)).data()
            if not (answer.get("status") or {}).get("allowed"):
                missing.append(MissingRight(right=str(right), only_for=right.only_for))
        return tuple(missing)

    async def _get(self, path: str, right: str) -> Reply:
        """One object; a reply that is not ``ok`` says that it does not exist."""
        ask = Ask(method="GET", path=path, right=right, expects=lambda status, _text: status == NOT_FOUND)
        return await self._api.ask(ask)

    async def _list(self, path: str, right: str, params: Mapping[str, str] | None = None) -> list[Mapping[str, Any]]:
        """Every page of a list. When a page's token expires half-way, the whole list is asked for at once."""
        items: list[Mapping[str, Any]] = []
        wanted = {**(params or {}), "limit": str(PAGE)}
        while True:
            paged = "continue" in wanted
            ask = Ask(
                method="GET",
                path=path,
                right=right,
                params=wanted,
                expects=lambda status, _text, paged=paged: paged and status == GONE,  # type: ignore[misc]
            )
            reply = await self._api.ask(ask)
            if not reply.ok:
                wanted, items = dict(params or {}), []
                continue
            page = reply.data()
            items += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return items
            wanted = {**wanted, "continue": token}


def _node(name: str) -> str:
    return f"api/v1/nodes/{quote(name, safe='')}"


def _pod(namespace: str, name: str) -> str:
    return f"api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"


def _lease(namespace: str, name: str | None = None) -> str:
    path = f"apis/coordination.k8s.io/v1/namespaces/{quote(namespace, safe='')}/leases"
    return path if name is None else f"{path}/{quote(name, safe='')}"


def _delete_options(pod: Pod, grace_period: int) -> dict[str, Any]:
    options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": pod.uid}}
    return options if grace_period < 0 else {**options, "gracePeriodSeconds": grace_period}
