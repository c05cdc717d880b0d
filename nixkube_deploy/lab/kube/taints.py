"""Taint-based eviction: which pods a NoExecute taint drives off a node, and when.

A pod stays as long as its tolerations say, counted from when the taint was seen; budgets do not count here, as in a
cluster. It deliberately sets no taints: nodes and people do.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from nixkube_deploy.lab.kube.deletion import Deletion
from nixkube_deploy.lab.kube.objects import MIRROR, is_terminating, toleration_covers
from nixkube_deploy.lab.kube.store import Change, Object, ObjectStore
from nixkube_deploy.lab.kube.timing import REAL, Timing

Taint = Mapping[str, Any]


class TaintEviction:
    """Deletes pods from nodes with NoExecute taints; other nodes cost nothing."""

    def __init__(self, store: ObjectStore, deletion: Deletion, timing: Timing) -> None:
        self._store = store
        self._deletion = deletion
        self._scale = timing.toleration / REAL.toleration
        self._since: dict[str, dict[tuple[str, str], float]] = {}
        """Node to taint (key and value) to when it was first seen."""
        store.subscribe(self._note)

    def tick(self) -> None:
        """Let go every pod whose time is up."""
        for node, seen in list(self._since.items()):
            for pod in self._store.pods_on(node):
                mirror = MIRROR in (pod["metadata"].get("annotations") or {})
                if not (mirror or is_terminating(pod)) and self._is_due(pod, seen):
                    self._deletion.delete(pod)

    def _is_due(self, pod: Object, seen: Mapping[tuple[str, str], float]) -> bool:
        for (key, value), since in seen.items():
            stay = patience(pod, {"key": key, "value": value, "effect": "NoExecute"})
            if stay is not None and self._store.now > since + stay * self._scale:
                return True
        return False

    def _note(self, change: Change) -> None:
        if change.resource != "nodes":
            return
        node = change.after or change.before
        assert node is not None
        name = node["metadata"]["name"]
        old = self._since.pop(name, {})
        taints = _executing(change.after["spec"].get("taints") or ()) if change.after is not None else []
        if taints:
            self._since[name] = {taint: old.get(taint, self._store.now) for taint in taints}


def patience(pod: Object, taint: Taint) -> float | None:
    """Seconds the pod bears the taint; None is for ever, and the shortest of several tolerations counts."""
    covering = [t for t in pod["spec"].get("tolerations") or () if toleration_covers(t, taint)]
    if not covering:
        return 0.0
    limits = [float(t["tolerationSeconds"]) for t in covering if t.get("tolerationSeconds") is not None]
    return max(0.0, min(limits)) if limits else None


def _executing(taints: Iterable[Taint]) -> list[tuple[str, str]]:
    return [(taint["key"], taint.get("value", "")) for taint in taints if taint["effect"] == "NoExecute"]
