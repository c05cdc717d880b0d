"""PodDisruptionBudgets: what their status says, and what an eviction may do.

Follows the eviction REST handler of the API server. It deliberately never deletes a pod itself.
"""

from typing import Any

from nixkube_deploy.lab.kube.errors import ApiError
from nixkube_deploy.lab.kube.objects import is_finished, is_ready, is_terminating
from nixkube_deploy.lab.kube.resources import BY_KIND
from nixkube_deploy.lab.kube.selectors import matches_selector
from nixkube_deploy.lab.kube.store import Change, Object, ObjectStore, controller_of, merged, stamp


class Budgets:
    """Keeps the budgets' statuses true."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._dirty: set[str] = set()
        store.subscribe(self._note)

    def tick(self) -> None:
        """Recompute the budgets of the namespaces in which something changed."""
        dirty, self._dirty = self._dirty, set()
        for budget in self._store.all("poddisruptionbudgets"):
            if budget["metadata"]["namespace"] in dirty:
                self._refresh(budget)

    def check(self, pod: Object) -> None:
        """Raise what the API server answers when the pod may not be evicted now."""
        if is_terminating(pod) or pod["status"].get("phase") in {"Pending", "Succeeded", "Failed"}:
            return
        covering = [b for b in self._store.all("poddisruptionbudgets") if _covers(b, pod)]
        if len(covering) > 1:
            message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            raise ApiError(500, "InternalError", message)
        for budget in covering:
            self._check_one(pod, self._refresh(budget))

    def _check_one(self, pod: Object, budget: Object) -> None:
        status = budget["status"]
        healthy_enough = status["currentHealthy"] >= status["desiredHealthy"] > 0
        if (not is_ready(pod) and healthy_enough) or status["disruptionsAllowed"] > 0:
            return
        name = budget["metadata"]["name"]
        needs, has = status["desiredHealthy"], status["currentHealthy"]
        cause = {
            "reason": "DisruptionBudget",
            "message": f"The disruption budget {name} needs {needs} healthy pods and has {has} currently",
        }
        message = "Cannot evict pod as it would violate the pod's disruption budget."
        raise ApiError(429, "TooManyRequests", message, causes=(cause,))

    def _refresh(self, budget: Object) -> Object:
        status = self._status(budget)
        if all(budget.get("status", {}).get(key) == value for key, value in status.items()):
            return budget
        allowed = status["disruptionsAllowed"] > 0
        condition = {
            "type": "DisruptionAllowed",
            "status": "True" if allowed else "False",
            "reason": "SufficientPods" if allowed else "InsufficientPods",
            "message": "",
            "lastTransitionTime": stamp(self._store.now),
        }
        return self._store.put(merged(budget, status={**status, "conditions": [condition]}))

    def _status(self, budget: Object) -> dict[str, Any]:
        pods = [p for p in self._store.all("pods") if _covers(budget, p) and not is_finished(p)]
        expected = self._expected(pods)
        healthy = sum(1 for p in pods if is_ready(p) and not is_terminating(p))
        spec = budget["spec"]
        if (unavailable := spec.get("maxUnavailable")) is not None:
            desired = max(0, expected - _count(unavailable, expected))
        else:
            desired = _count(spec.get("minAvailable", 1), expected)
        return {
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
            "disruptionsAllowed": max(0, healthy - desired) if expected else 0,
            "observedGeneration": budget["metadata"].get("generation", 1),
        }

    def _expected(self, pods: list[Object]) -> int:
        """The scale of every controller of a covered pod; a bare pod counts as itself."""
        scales: dict[str, int] = {}
        for pod in pods:
            owner = controller_of(pod)
            kind = BY_KIND.get(owner["kind"]) if owner else None
            found = None
            if owner is not None and kind is not None:
                found = self._store.get(kind.plural, owner["name"], pod["metadata"]["namespace"])
            if found is not None:
                scales[found["metadata"]["uid"]] = found["spec"].get("replicas", 1)
            else:
                scales[pod["metadata"]["uid"]] = 1
        return sum(scales.values())

    def _note(self, change: Change) -> None:
        if change.resource in {"pods", "poddisruptionbudgets", "replicasets", "statefulsets"}:
            obj = change.after or change.before
            assert obj is not None
            self._dirty.add(obj["metadata"]["namespace"])


def _covers(budget: Object, pod: Object) -> bool:
    if budget["metadata"]["namespace"] != pod["metadata"]["namespace"]:
        return False
    return matches_selector(budget["spec"].get("selector"), pod["metadata"].get("labels") or {})


def _count(value: int | str, total: int) -> int:
    """An IntOrString; percentages round up, as the disruption controller does for both fields."""
    if isinstance(value, int):
        return value
    return -(-total * int(value.rstrip("%")) // 100)
