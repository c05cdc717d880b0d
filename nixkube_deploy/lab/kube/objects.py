"""Building and asking Kubernetes objects: Nodes, Pods, Leases, Events, owners.

It deliberately keeps no state and decides nothing; the controllers do.
"""

from collections.abc import Mapping
from typing import Any

from nixkube_deploy.lab.kube.store import Object, micro_stamp, stamp

NODE_LEASES = "kube-node-lease"
SYSTEM = "kube-system"
HOSTNAME_LABEL = "kubernetes.io/hostname"
MIRROR = "kubernetes.io/config.mirror"

UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
LIFECYCLE_TAINTS = frozenset({UNSCHEDULABLE, NOT_READY, UNREACHABLE})


def condition(obj: Object, kind: str) -> dict[str, Any]:
    """A condition of an object; empty when it has none of that type."""
    for found in obj.get("status", {}).get("conditions", ()):
        if found["type"] == kind:
            one: dict[str, Any] = found
            return one
    return {}


def with_condition(obj: Object, new: dict[str, Any], now: float) -> Object:
    """The object with one condition replaced; ``lastTransitionTime`` moves only when the status does."""
    old = condition(obj, new["type"])
    since = old.get("lastTransitionTime") if old.get("status") == new["status"] else None
    entry = {**new, "lastTransitionTime": since or stamp(now)}
    status = obj.get("status", {})
    conditions = [c for c in status.get("conditions", ()) if c["type"] != new["type"]]
    return {**obj, "status": {**status, "conditions": [*conditions, entry]}}


def ready_status(obj: Object) -> str:
    """``True``, ``False`` or ``Unknown``."""
    status: str = condition(obj, "Ready").get("status", "Unknown")
    return status


def is_ready(obj: Object) -> bool:
    """Whether a Node or Pod has Ready=True."""
    return ready_status(obj) == "True"


def is_terminating(obj: Object) -> bool:
    """Whether a deletion is under way."""
    return "deletionTimestamp" in obj["metadata"]


def is_finished(pod: Object) -> bool:
    """Succeeded or Failed."""
    return pod["status"].get("phase") in {"Succeeded", "Failed"}


def node_of(pod: Object) -> str:
    """The node a pod is bound to; empty while it is pending."""
    name: str = pod["spec"].get("nodeName") or ""
    return name


def label(obj: Object, key: str) -> str | None:
    """One label."""
    value: str | None = (obj["metadata"].get("labels") or {}).get(key)
    return value


def owner_reference(owner: Object) -> dict[str, Any]:
    """A controlling owner reference to ``owner``."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def pod_from(template: Mapping[str, Any], owner: Object, name: str, node: str = "") -> Object:
    """A pod of a workload's template, pending, bound to ``node`` when given."""
    meta = template.get("metadata", {})
    spec = dict(template["spec"])
    if node:
        spec["nodeName"] = node
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "labels": dict(meta.get("labels") or {}),
            "annotations": dict(meta.get("annotations") or {}),
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": spec,
        "status": {"phase": "Pending", "conditions": []},
    }


def pod_defaults(pod: Object) -> Object:
    """A pod as the API server fills it on create, with the tolerations that admission gives every pod."""
    tolerations = list(pod["spec"].get("tolerations") or ())
    for key in (NOT_READY, UNREACHABLE):
        taint = {"key": key, "effect": "NoExecute"}
        if not any(toleration_covers(t, taint) for t in tolerations):
            tolerations.append({**taint, "operator": "Exists", "tolerationSeconds": 300})
    spec = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "schedulerName": "default-scheduler",
        "serviceAccountName": "default",
        **pod["spec"],
        "tolerations": tolerations,
    }
    status = {"phase": "Pending", "qosClass": "BestEffort", "conditions": [], **pod.get("status", {})}
    return {**pod, "spec": spec, "status": status}


def lease(name: str, now: float, duration: int = 40) -> Object:
    """A node's Lease, just renewed."""
    return {
        "kind": "Lease",
        "metadata": {"name": name, "namespace": NODE_LEASES},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": duration, "renewTime": micro_stamp(now)},
    }


def event(about: Object, kind: str, reason: str, message: str, now: float) -> Object:
    """An Event about an object; its name is minted by the store (``generateName``)."""
    meta = about["metadata"]
    return {
        "kind": "Event",
        "metadata": {"generateName": f"{meta['name']}.", "namespace": meta.get("namespace", "default")},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": meta["name"],
            "namespace": meta.get("namespace", ""),
            "uid": meta["name"] if about["kind"] == "Node" else meta["uid"],
        },
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": "kubelet"},
        "firstTimestamp": stamp(now),
        "lastTimestamp": stamp(now),
        "count": 1,
    }


def tolerates(pod: Object, taint: Mapping[str, Any]) -> bool:
    """Whether a pod's tolerations cover a taint."""
    return any(toleration_covers(t, taint) for t in pod["spec"].get("tolerations") or ())


def toleration_covers(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Whether one toleration covers a taint."""
    if toleration.get("effect") not in {None, "", taint["effect"]}:
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint["key"]:
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
