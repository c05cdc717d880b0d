"""The scheduler: gives each pending pod a node, or says on the pod why there is none.

It weighs only how many pods are where; resources and affinity are deliberately left out.
"""

from collections import Counter

from nixkube_deploy.lab.kube.objects import (
    condition,
    is_finished,
    is_ready,
    is_terminating,
    label,
    node_of,
    tolerates,
    with_condition,
)
from nixkube_deploy.lab.kube.store import Change, Key, Object, ObjectStore, controller_of, key_of, merged


class Scheduler:
    """Binds pods that have no node."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._pending: dict[Key, None] = {}
        self._retry = False
        store.subscribe(self._note)

    def tick(self) -> None:
        """Try every pending pod again if a pod or a node changed."""
        if not self._retry or not self._pending:
            return
        self._retry = False
        nodes = self._store.all("nodes")
        for key in list(self._pending):
            pod = self._store.get("pods", key[1], key[0])
            if pod is None or node_of(pod):
                self._pending.pop(key, None)
            else:
                self._place(pod, nodes)

    def _note(self, change: Change) -> None:
        if change.resource == "nodes":
            self._retry = True
        if change.resource != "pods":
            return
        pod = change.after
        if pod is not None and not node_of(pod) and not is_finished(pod) and not is_terminating(pod):
            # Our own note on the pod that it cannot be placed is no reason to try again.
            self._retry = self._retry or change.before is None
            self._pending[key_of(pod)] = None

    def _place(self, pod: Object, nodes: tuple[Object, ...]) -> None:
        fitting = [node for node in nodes if _fits(pod, node)]
        now = self._store.now
        if fitting:
            siblings = self._siblings(pod)
            best = min(fitting, key=lambda n: (_deterred(pod, n), *self._load(siblings, n["metadata"]["name"])))
            bound = merged(pod, spec={"nodeName": best["metadata"]["name"]})
            self._store.put(with_condition(bound, {"type": "PodScheduled", "status": "True"}, now))
        elif condition(pod, "PodScheduled").get("status") != "False":
            message = f"0/{len(nodes)} nodes are available: {_refusals(pod, nodes)}."
            verdict = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            self._store.put(with_condition(pod, verdict, now))

    def _siblings(self, pod: Object) -> Counter[str]:
        owner = controller_of(pod)
        return Counter(node_of(p) for p in self._store.owned_by(owner["uid"])) if owner else Counter()

    def _load(self, siblings: Counter[str], node: str) -> tuple[int, int, str]:
        return siblings[node], self._store.pod_count(node), node


def _fits(pod: Object, node: Object) -> bool:
    return not _refusal(pod, node)


def _refusal(pod: Object, node: Object) -> str:
    selector = pod["spec"].get("nodeSelector") or {}
    if any(label(node, key) != value for key, value in selector.items()):
        return "node(s) didn't match Pod's node affinity/selector"
    if node["spec"].get("unschedulable"):
        return "node(s) were unschedulable"
    for taint in node["spec"].get("taints", ()):
        if taint["effect"] in {"NoSchedule", "NoExecute"} and not tolerates(pod, taint):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    if not is_ready(node):
        return "node(s) were not ready"
    return ""


def _deterred(pod: Object, node: Object) -> int:
    """Taints that make the node a second choice."""
    soft = (t for t in node["spec"].get("taints", ()) if t["effect"] == "PreferNoSchedule")
    return sum(not tolerates(pod, taint) for taint in soft)


def _refusals(pod: Object, nodes: tuple[Object, ...]) -> str:
    counted = Counter(_refusal(pod, node) for node in nodes)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counted.items()))
