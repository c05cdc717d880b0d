"""The workload a fresh lab cluster runs: enough of everything that a drain and a gate meet.

It deliberately contains no images or commands anyone would run.
"""

from collections.abc import Mapping
from typing import Any

from nixkube_deploy.lab.kube.objects import SYSTEM
from nixkube_deploy.lab.kube.pods import CSI_DRIVER, CSI_LABEL
from nixkube_deploy.lab.kube.store import Object
from nixkube_deploy.lab.kube.workloads import pinned_to

NAMESPACES = ("default", SYSTEM, "kube-node-lease", "kube-public")
_NODE_CRITICAL = {"priorityClassName": "system-node-critical"}
_CLUSTER_CRITICAL = {"priorityClassName": "system-cluster-critical"}
_EMPTYDIR = {"volumes": [{"name": "cache", "emptyDir": {}}]}
_LARGE = 7
_PER_NODE = 2
"""Ordinary pods for each node of a larger fleet."""


def manifests(node_count: int) -> tuple[Object, ...]:
    """The default objects for a cluster of that many nodes."""
    budgets = (budget("web", {"app": "web"}, {"minAvailable": 2}),) if node_count > 1 else ()
    batch: tuple[Object, ...] = ()
    if node_count >= _LARGE:
        batch = (workload("Deployment", "batch", "default", replicas=_PER_NODE * node_count),)
    return (
        *(namespace(name) for name in NAMESPACES),
        workload("DaemonSet", "cni", SYSTEM, pod=_NODE_CRITICAL),
        workload("DaemonSet", "csi-node", SYSTEM, pod=_NODE_CRITICAL, labels={CSI_LABEL: CSI_DRIVER}),
        workload("DaemonSet", "log-agent", "default"),
        workload("Deployment", "coredns", SYSTEM, replicas=2, pod=_CLUSTER_CRITICAL),
        workload("Deployment", "web", "default", replicas=3, pod=_EMPTYDIR),
        *batch,
        workload("StatefulSet", "db", "default", replicas=min(3, node_count)),
        *budgets,
        _storage_class(),
        _csi_driver(),
        _claim(),
    )


def namespace(name: str) -> Object:
    """A Namespace."""
    return {"kind": "Namespace", "metadata": {"name": name}, "spec": {}, "status": {"phase": "Active"}}


def workload(
    kind: str,
    name: str,
    namespace: str,
    *,
    replicas: int | None = None,
    pod: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Object:
    """A workload of pause containers; ``pod`` adds to its pods' spec, ``labels`` to their labels."""
    own = {"app": name}
    spec = {"containers": [{"name": name, "image": "registry.k8s.io/pause:3.10"}], **(pod or {})}
    template = {"metadata": {"labels": {**own, **(labels or {})}}, "spec": spec}
    scale = {} if replicas is None else {"replicas": replicas}
    return {
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": own},
        "spec": {**scale, "selector": {"matchLabels": own}, "template": template},
        "status": {},
    }


def budget(name: str, match: Mapping[str, str], limits: Mapping[str, Any], namespace: str = "default") -> Object:
    """A PodDisruptionBudget; ``limits`` is ``minAvailable`` or ``maxUnavailable``."""
    return {
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": dict(match)}, **limits},
        "status": {},
    }


def stubborn(node: str) -> tuple[Object, Object]:
    """A pod that lives only on ``node``, and a budget that never lets it go: what blocks a drain for good."""
    name = f"stubborn-{node}"
    return (
        workload("Deployment", name, "default", replicas=1, pod={"nodeSelector": pinned_to(node)}),
        budget(name, {"app": name}, {"minAvailable": 1}),
    )


def _storage_class() -> Object:
    return {
        "kind": "StorageClass",
        "metadata": {"name": "lab-local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": CSI_DRIVER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _csi_driver() -> Object:
    return {"kind": "CSIDriver", "metadata": {"name": CSI_DRIVER}, "spec": {"attachRequired": False}}


def _claim() -> Object:
    return {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-db-0", "namespace": "default", "labels": {"app": "db"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "lab-local",
            "volumeName": "pv-data-db-0",
            "resources": {"requests": {"storage": "1Gi"}},
        },
        "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}},
    }
