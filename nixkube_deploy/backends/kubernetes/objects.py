"""API objects as JSON data to the model's values.

Read leniently, field by field: an unknown or missing field of somebody else's object never stops a drain.
It deliberately knows only the fields the product uses.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from nixkube_deploy.model.cluster import TO_COME_TAINT, DisruptionBudget, LabelRequirement, Lease, Node, Pod

OWN_GROUPS = frozenset({"", "apps", "batch", "core"})
"""API groups of Kubernetes' own controllers."""


def node_from(data: Mapping[str, Any]) -> Node:
    """A Node."""
    meta, spec, status = _part(data, "metadata"), _part(data, "spec"), _part(data, "status")
    info, ready = _part(status, "nodeInfo"), _condition(status, "Ready")
    return Node(
        name=meta.get("name", ""),
        uid=meta.get("uid", ""),
        ready=ready.get("status", "Unknown"),
        ready_reason=ready.get("reason") or "",
        ready_message=ready.get("message") or "",
        ready_since=ready.get("lastTransitionTime") or "",
        unschedulable=bool(spec.get("unschedulable")),
        annotations=_part(meta, "annotations"),
        labels=_part(meta, "labels"),
        taints=tuple(f"{t.get('key', '')}:{t.get('effect', '')}" for t in _list(spec, "taints")),
        marked_by=next((t.get("value", "") for t in _list(spec, "taints") if t.get("key") == TO_COME_TAINT), None),
        addresses=tuple(a.get("address", "") for a in _list(status, "addresses")),
        machine_id=info.get("machineID", ""),
        boot_id=info.get("bootID", ""),
        kernel_version=info.get("kernelVersion", ""),
        kubelet_version=info.get("kubeletVersion", ""),
        resource_version=meta.get("resourceVersion", ""),
        volumes_attached=tuple(v.get("name", "") for v in _list(status, "volumesAttached")),
    )


def pod_from(data: Mapping[str, Any]) -> Pod:
    """A Pod."""
    meta, spec, status = _part(data, "metadata"), _part(data, "spec"), _part(data, "status")
    owner = next((owner for owner in _list(meta, "ownerReferences") if owner.get("controller")), None)
    return Pod(
        namespace=meta.get("namespace", ""),
        name=meta.get("name", ""),
        uid=meta.get("uid", ""),
        node=spec.get("nodeName") or "",
        phase=status.get("phase") or "Pending",
        ready=_condition(status, "Ready").get("status") == "True",
        labels=_part(meta, "labels"),
        annotations=_part(meta, "annotations"),
        owner_kind=_qualified_kind(owner) if owner else None,
        owner_name=owner.get("name") if owner else None,
        priority_class=spec.get("priorityClassName") or "",
        has_emptydir=any("emptyDir" in volume for volume in _list(spec, "volumes")),
        deleting_since=_seconds(meta.get("deletionTimestamp")),
    )


def budget_from(data: Mapping[str, Any]) -> DisruptionBudget | None:
    """A PodDisruptionBudget; None for one without a selector, which covers no pod."""
    meta, spec, status = _part(data, "metadata"), _part(data, "spec"), _part(data, "status")
    selector, verdict = spec.get("selector"), _condition(status, "DisruptionAllowed")
    if not isinstance(selector, Mapping):
        return None
    observed = (status.get("observedGeneration") or 0) >= (meta.get("generation") or 0)
    return DisruptionBudget(
        namespace=meta.get("namespace", ""),
        name=meta.get("name", ""),
        match_labels=_part(selector, "matchLabels"),
        match_expressions=tuple(
            LabelRequirement(
                key=e.get("key", ""), operator=e.get("operator", ""), values=frozenset(e.get("values") or ())
            )
            for e in _list(selector, "matchExpressions")
        ),
        disruptions_allowed=status.get("disruptionsAllowed") or 0,
        healthy=status.get("currentHealthy") or 0,
        desired=status.get("desiredHealthy") or 0,
        expected=status.get("expectedPods") or 0,
        is_observed=observed and verdict.get("reason") != "SyncFailed",
        spares_unready=spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow",
    )


def lease_from(data: Mapping[str, Any]) -> Lease:
    """A Lease, its times as the server wrote them."""
    meta, spec = _part(data, "metadata"), _part(data, "spec")
    return Lease(
        namespace=meta.get("namespace", ""),
        name=meta.get("name", ""),
        holder=spec.get("holderIdentity") or "",
        renew_time=spec.get("renewTime") or "",
        duration=spec.get("leaseDurationSeconds") or 0,
        resource_version=meta.get("resourceVersion", ""),
    )


def lease_to(lease: Lease, now: datetime) -> dict[str, Any]:
    """A Lease to send, renewed ``now``."""
    meta = {"namespace": lease.namespace, "name": lease.name}
    if lease.resource_version:
        meta["resourceVersion"] = lease.resource_version
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": meta,
        "spec": {
            "holderIdentity": lease.holder,
            "leaseDurationSeconds": lease.duration,
            "renewTime": f"{now:%Y-%m-%dT%H:%M:%S.%f}Z",
        },
    }


def taints_after(data: Mapping[str, Any], changes: Iterable[tuple[str, str | None]]) -> list[Mapping[str, Any]]:
    """A Node's taints with some of ours set or (None) removed; everybody else's as they are."""
    wanted = dict(changes)
    kept = [taint for taint in _list(_part(data, "spec"), "taints") if taint.get("key") not in wanted]
    ours = ((key, value) for key, value in wanted.items() if value is not None)
    return [*kept, *({"key": key, "value": value, "effect": "PreferNoSchedule"} for key, value in ours)]


def driver_names(data: Mapping[str, Any]) -> frozenset[str]:
    """The drivers of a CSINode."""
    return frozenset(driver.get("name", "") for driver in _list(_part(data, "spec"), "drivers"))


def _part(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = data.get(key)
    return part if isinstance(part, Mapping) else {}


def _list(data: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = data.get(key)
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((c for c in _list(status, "conditions") if c.get("type") == kind), {})


def _qualified_kind(owner: Mapping[str, Any]) -> str:
    """``DaemonSet`` for Kubernetes' own, ``DaemonSet.apps.kruise.io`` for one that only has the same name."""
    group = str(owner.get("apiVersion", "")).rpartition("/")[0]
    kind = str(owner.get("kind", ""))
    return kind if group in OWN_GROUPS else f"{kind}.{group}"


def _seconds(stamp: object) -> float | None:
    if not isinstance(stamp, str):
        return None
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        # Being deleted is what matters; since when is only shown.
        return 0.0
