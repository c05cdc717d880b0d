"""The ``Table`` form of lists, which is what ``kubectl get`` prints.

It deliberately knows only the columns people look at; other resources get NAME and AGE.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nixkube_deploy.lab.kube.objects import is_terminating, ready_status
from nixkube_deploy.lab.kube.store import Object

Cell = str | int | bool
_ROLE = "node-role.kubernetes.io/"


@dataclass(frozen=True, slots=True)
class Column:
    """One column; ``wide`` ones show only with ``-o wide``."""

    name: str
    cell: Callable[[Object], Cell] | None
    """None is the object's age."""
    wide: bool = False

    def show(self, obj: Object, now: float) -> Cell:
        """The cell's value."""
        return age(obj["metadata"].get("creationTimestamp"), now) if self.cell is None else self.cell(obj)


_AGE = Column("Age", None)


def to_table(plural: str, objects: Sequence[Object], metadata: dict[str, Any], now: float) -> dict[str, Any]:
    """A ``meta.k8s.io/v1`` Table of objects."""
    columns = [Column("Name", lambda o: str(o["metadata"]["name"])), *_COLUMNS.get(plural, (_AGE,))]
    definitions = [
        {
            "name": c.name,
            "type": "string",
            "format": "name" if c.name == "Name" else "",
            "description": "",
            "priority": int(c.wide),
        }
        for c in columns
    ]
    rows = [{"cells": [c.show(o, now) for c in columns], "object": _partial(o)} for o in objects]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    }


def age(created: str | None, now: float) -> str:
    """How old, in kubectl's short form: ``7s``, ``5m``, ``3h``, ``2d``."""
    if created is None:
        return "<unknown>"
    parsed = datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    seconds = max(0, int(now - parsed.timestamp()))
    for least, size, unit in ((172800, 86400, "d"), (7200, 3600, "h"), (120, 60, "m")):
        if seconds >= least:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _partial(obj: Object) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _node_status(node: Object) -> str:
    words = {"True": "Ready", "False": "NotReady", "Unknown": "NotReady"}
    cordoned = ",SchedulingDisabled" if node["spec"].get("unschedulable") else ""
    return words[ready_status(node)] + cordoned


def _node_roles(node: Object) -> str:
    labels = node["metadata"].get("labels") or {}
    return ",".join(sorted(key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE))) or "<none>"


def _node_address(node: Object) -> str:
    found = (a["address"] for a in node["status"].get("addresses", ()) if a["type"] == "InternalIP")
    return next(found, "<none>")


def _node_info(key: str) -> Callable[[Object], Cell]:
    return lambda node: str(node["status"]["nodeInfo"][key])


def _pod_ready(pod: Object) -> str:
    ready = sum(1 for c in pod["status"].get("containerStatuses", ()) if c["ready"])
    return f"{ready}/{len(pod['spec'].get('containers', ()))}"


def _pod_status(pod: Object) -> str:
    if is_terminating(pod):
        return "Terminating"
    phase: str = pod["status"].get("phase", "Unknown")
    if phase == "Pending" and pod["spec"].get("nodeName"):
        return "ContainerCreating"
    return phase


def _restarts(pod: Object) -> int:
    return sum(c["restartCount"] for c in pod["status"].get("containerStatuses", ()))


def _get(*path: str, default: Cell = "<none>") -> Callable[[Object], Cell]:
    def cell(obj: Object) -> Cell:
        value: Any = obj
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return default if value is None else value

    return cell


def _fraction(ready: str, wanted: Callable[[Object], Cell]) -> Callable[[Object], Cell]:
    return lambda obj: f"{_get('status', ready, default=0)(obj)}/{wanted(obj)}"


_REPLICAS = _get("spec", "replicas", default=1)

_COLUMNS: dict[str, tuple[Column, ...]] = {
    "nodes": (
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        _AGE,
        Column("Version", _node_info("kubeletVersion")),
        Column("Internal-IP", _node_address, wide=True),
        Column("OS-Image", _node_info("osImage"), wide=True),
        Column("Kernel-Version", _node_info("kernelVersion"), wide=True),
        Column("Container-Runtime", _node_info("containerRuntimeVersion"), wide=True),
    ),
    "pods": (
        Column("Ready", _pod_ready),
        Column("Status", _pod_status),
        Column("Restarts", _restarts),
        _AGE,
        Column("IP", _get("status", "podIP"), wide=True),
        Column("Node", _get("spec", "nodeName"), wide=True),
    ),
    "daemonsets": (
        Column("Desired", _get("status", "desiredNumberScheduled", default=0)),
        Column("Current", _get("status", "currentNumberScheduled", default=0)),
        Column("Ready", _get("status", "numberReady", default=0)),
        Column("Available", _get("status", "numberAvailable", default=0)),
        _AGE,
    ),
    "deployments": (
        Column("Ready", _fraction("readyReplicas", _REPLICAS)),
        Column("Up-to-date", _get("status", "updatedReplicas", default=0)),
        Column("Available", _get("status", "availableReplicas", default=0)),
        _AGE,
    ),
    "replicasets": (
        Column("Desired", _REPLICAS),
        Column("Current", _get("status", "replicas", default=0)),
        Column("Ready", _get("status", "readyReplicas", default=0)),
        _AGE,
    ),
    "statefulsets": (Column("Ready", _fraction("readyReplicas", _REPLICAS)), _AGE),
    "poddisruptionbudgets": (
        Column("Min available", _get("spec", "minAvailable", default="N/A")),
        Column("Max unavailable", _get("spec", "maxUnavailable", default="N/A")),
        Column("Allowed disruptions", _get("status", "disruptionsAllowed", default=0)),
        _AGE,
    ),
    "leases": (Column("Holder", _get("spec", "holderIdentity")), _AGE),
    "namespaces": (Column("Status", _get("status", "phase")), _AGE),
    "persistentvolumeclaims": (
        Column("Status", _get("status", "phase")),
        Column("Volume", _get("spec", "volumeName", default="")),
        Column("StorageClass", _get("spec", "storageClassName")),
        _AGE,
    ),
    "storageclasses": (Column("Provisioner", _get("provisioner")), _AGE),
    "events": (
        Column("Last seen", None),
        Column("Type", _get("type")),
        Column("Reason", _get("reason")),
        Column("Object", lambda e: f"{e['involvedObject']['kind'].lower()}/{e['involvedObject']['name']}"),
        Column("Message", _get("message")),
    ),
}
