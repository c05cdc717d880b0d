"""The workload controllers: DaemonSets, Deployments, ReplicaSets, StatefulSets, and their statuses.

Only what changed since the last round is looked at. Rolling updates of a template are deliberately left out: the lab's
workloads are there to be disrupted, not deployed.
"""

from typing import Any

from nixkube_deploy.lab.kube.deletion import Deletion
from nixkube_deploy.lab.kube.objects import (
    HOSTNAME_LABEL,
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    is_finished,
    is_ready,
    is_terminating,
    label,
    node_of,
    owner_reference,
    pod_defaults,
    pod_from,
)
from nixkube_deploy.lab.kube.resources import BY_KIND
from nixkube_deploy.lab.kube.store import Change, Key, Object, ObjectStore, controller_of, key_of, merged, suffix

_WORKLOADS = frozenset({"daemonsets", "deployments", "replicasets", "statefulsets"})
_DAEMON_TOLERATIONS = [
    {"key": NOT_READY, "operator": "Exists", "effect": "NoExecute"},
    {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute"},
    {"key": UNSCHEDULABLE, "operator": "Exists", "effect": "NoSchedule"},
]


class Workloads:
    """Reconciles workloads with their pods."""

    def __init__(self, store: ObjectStore, deletion: Deletion) -> None:
        self._store = store
        self._deletion = deletion
        self._dirty: dict[tuple[str, Key], None] = {}
        store.subscribe(self._note)

    def tick(self) -> None:
        """Reconcile until nothing new is dirty: a Deployment's ReplicaSet makes its pods in the same round."""
        for _ in range(8):
            dirty, self._dirty = self._dirty, {}
            if not dirty:
                return
            for resource, (namespace, name) in dirty:
                workload = self._store.get(resource, name, namespace)
                if workload is not None:
                    self._reconcile(resource, workload)

    def touch_all(self) -> None:
        """Look at everything in the next round."""
        for resource in sorted(_WORKLOADS):
            self._dirty |= {(resource, key_of(w)): None for w in self._store.all(resource)}

    def _note(self, change: Change) -> None:
        obj = change.after or change.before
        assert obj is not None
        if change.resource in _WORKLOADS:
            self._dirty[change.resource, key_of(obj)] = None
        if change.resource == "nodes" and (change.before is None or change.after is None or _relabelled(change)):
            self._dirty |= {("daemonsets", key_of(w)): None for w in self._store.all("daemonsets")}
        if change.resource in {"pods", "replicasets"} and (owner := controller_of(obj)) is not None:
            kind = BY_KIND.get(owner["kind"])
            if kind is not None:
                self._dirty[kind.plural, (obj["metadata"].get("namespace", ""), owner["name"])] = None

    def _reconcile(self, resource: str, workload: Object) -> None:
        owned = self._store.owned_by(workload["metadata"]["uid"])
        match resource:
            case "daemonsets":
                self._daemonset(workload, owned)
            case "deployments":
                self._deployment(workload, owned)
            case "replicasets":
                self._replicaset(workload, owned)
            case _:
                self._statefulset(workload, owned)

    def _daemonset(self, daemonset: Object, pods: tuple[Object, ...]) -> None:
        wanted = {n["metadata"]["name"] for n in self._store.all("nodes") if _wants(daemonset, n)}
        running = {node_of(p): p for p in pods if not is_finished(p)}
        for node in sorted(wanted - running.keys()):
            self._make(daemonset, f"{daemonset['metadata']['name']}-{self._suffix()}", node)
        for pod in [*(running[node] for node in sorted(running.keys() - wanted)), *filter(is_finished, pods)]:
            self._discard(pod)
        ready = sum(1 for p in running.values() if is_ready(p))
        self._report(
            daemonset,
            {
                "desiredNumberScheduled": len(wanted),
                "currentNumberScheduled": len(running),
                "updatedNumberScheduled": len(running),
                "numberReady": ready,
                "numberAvailable": ready,
                "numberUnavailable": len(wanted) - ready,
                "numberMisscheduled": 0,
            },
        )

    def _deployment(self, deployment: Object, owned: tuple[Object, ...]) -> None:
        replicas = deployment["spec"].get("replicas", 1)
        sets = [o for o in owned if o["kind"] == "ReplicaSet"]
        if not sets:
            meta = deployment["metadata"]
            name = f"{meta['name']}-{suffix(meta['uid'], 9)}"
            self._store.create(_replicaset_of(deployment, name))
            return
        current = sets[0]
        if current["spec"].get("replicas", 1) != replicas:
            self._store.put(merged(current, spec={"replicas": replicas}))
        status = current.get("status", {})
        ready = status.get("readyReplicas", 0)
        self._report(
            deployment,
            {
                "replicas": status.get("replicas", 0),
                "updatedReplicas": status.get("replicas", 0),
                "readyReplicas": ready,
                "availableReplicas": ready,
                "unavailableReplicas": max(0, replicas - ready),
            },
        )

    def _replicaset(self, replicaset: Object, pods: tuple[Object, ...]) -> None:
        replicas = replicaset["spec"].get("replicas", 1)
        active = [p for p in pods if not is_terminating(p) and not is_finished(p)]
        for _ in range(replicas - len(active)):
            self._make(replicaset, f"{replicaset['metadata']['name']}-{self._suffix()}")
        surplus = sorted(active, key=lambda p: (is_ready(p), p["metadata"]["name"]))[: max(0, len(active) - replicas)]
        for pod in surplus:
            self._discard(pod)
        ready = sum(1 for p in active if is_ready(p))
        status = {"replicas": max(len(active), replicas), "readyReplicas": ready, "availableReplicas": ready}
        self._report(replicaset, status)

    def _statefulset(self, statefulset: Object, pods: tuple[Object, ...]) -> None:
        """One ordinal after the other: the next pod is made when the one before it is Ready."""
        replicas = statefulset["spec"].get("replicas", 1)
        present = {p["metadata"]["name"]: p for p in pods}
        for ordinal in range(replicas):
            name = f"{statefulset['metadata']['name']}-{ordinal}"
            pod = present.get(name)
            if pod is None:
                self._make(statefulset, name)
                break
            if is_finished(pod):
                self._discard(pod)
            if not is_ready(pod) or is_terminating(pod):
                break
        ready = sum(1 for p in pods if is_ready(p))
        counts = {"replicas": len(pods), "readyReplicas": ready, "availableReplicas": ready, "currentReplicas": ready}
        self._report(statefulset, counts)

    def _discard(self, pod: Object) -> None:
        if not is_terminating(pod):
            self._deletion.delete(pod)

    def _make(self, owner: Object, name: str, node: str = "") -> None:
        namespace = self._store.get("namespaces", owner["metadata"]["namespace"])
        if is_terminating(owner) or (namespace is not None and is_terminating(namespace)):
            return  # Nothing new in a namespace that is on its way out, nor for an owner that is.
        pod = pod_from(owner["spec"]["template"], owner, name, node)
        if owner["kind"] == "DaemonSet":
            tolerations = [*pod["spec"].get("tolerations", []), *_DAEMON_TOLERATIONS]
            pod = merged(pod, spec={"tolerations": tolerations})
        self._store.create(pod_defaults(pod))

    def _suffix(self) -> str:
        return suffix(self._store.mint())

    def _report(self, workload: Object, status: dict[str, Any]) -> None:
        """Write the status, but only if it says something new: every write is a watch event."""
        status["observedGeneration"] = workload["metadata"].get("generation", 1)
        if any(workload.get("status", {}).get(key) != value for key, value in status.items()):
            self._store.put(merged(workload, status=status))


def _relabelled(change: Change) -> bool:
    assert change.before is not None
    assert change.after is not None
    return bool(change.before["metadata"].get("labels") != change.after["metadata"].get("labels"))


def _wants(daemonset: Object, node: Object) -> bool:
    selector = daemonset["spec"]["template"]["spec"].get("nodeSelector") or {}
    return all(label(node, key) == value for key, value in selector.items())


def _replicaset_of(deployment: Object, name: str) -> Object:
    spec = deployment["spec"]
    return {
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "namespace": deployment["metadata"]["namespace"],
            "labels": spec["template"]["metadata"].get("labels", {}),
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {"replicas": spec.get("replicas", 1), "selector": spec["selector"], "template": spec["template"]},
        "status": {"replicas": 0},
    }


def pinned_to(node: str) -> dict[str, str]:
    """A nodeSelector for exactly one node."""
    return {HOSTNAME_LABEL: node}
