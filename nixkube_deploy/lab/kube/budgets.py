"""PodDisruptionBudgets: the disruption controller that keeps their status, and the check an eviction has to pass.

The two talk through the status alone, as in a cluster: an eviction takes from ``disruptionsAllowed`` and notes its pod
in ``disruptedPods``, the controller counts again in its next round. It deliberately never deletes a pod itself.
"""

from datetime import datetime
from typing import Any

from nixkube_deploy.lab.kube.errors import ApiError
from nixkube_deploy.lab.kube.objects import condition, is_finished, is_ready, is_terminating, with_condition
from nixkube_deploy.lab.kube.resources import BY_KIND
from nixkube_deploy.lab.kube.selectors import matches_selector
from nixkube_deploy.lab.kube.store import Change, Object, ObjectStore, controller_of, merged, stamp

DELETION_SECONDS = 120.0
"""A pod whose eviction was allowed counts as gone for so long; if it is still there then, it counts again."""
UNOBSERVED_SECONDS = 10
"""When to ask again about a budget the controller has not looked at."""
_SCALED = frozenset({"Deployment", "ReplicaSet", "StatefulSet"})
_KIND = "DisruptionAllowed"
_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."


class SyncFailed(Exception):  # noqa: N818 (what the condition says)
    """The controller cannot tell how many pods are expected; it allows nothing then."""


class Budgets:
    """Keeps the budgets' statuses, and judges evictions by them."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._dirty: set[str] = set()
        store.subscribe(self._note)

    def tick(self) -> None:
        """Count again in the namespaces in which something changed, and where an allowed eviction came to nothing."""
        dirty, self._dirty = self._dirty, set()
        for budget in self._store.all("poddisruptionbudgets"):
            if budget["metadata"]["namespace"] in dirty or budget.get("status", {}).get("disruptedPods"):
                self._refresh(budget)

    def admit(self, pod: Object, *, dry_run: bool) -> None:
        """Take one disruption from the pod's budget; raise what the API server answers when there is none."""
        if is_terminating(pod) or is_finished(pod) or pod["status"].get("phase") == "Pending":
            return
        covering = [b for b in self._store.all("poddisruptionbudgets") if _covers(b, pod)]
        if len(covering) > 1:
            message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            raise ApiError(500, "", message)
        for budget in covering:
            if not (_is_unguarded(pod, budget) or self._decrement(pod, budget, dry_run=dry_run)):
                raise _too_many(budget)

    def _decrement(self, pod: Object, budget: Object, *, dry_run: bool) -> bool:
        status = budget.get("status", {})
        if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 1):
            raise _too_many(budget)
        allowed = status.get("disruptionsAllowed", 0)
        if allowed <= 0:
            return False
        if not dry_run:
            disrupted = {**status.get("disruptedPods", {}), pod["metadata"]["name"]: stamp(self._store.now)}
            left = merged(budget, status={"disruptionsAllowed": allowed - 1, "disruptedPods": disrupted})
            self._store.put(_concluded(left, self._store.now))
        return True

    def _refresh(self, budget: Object) -> None:
        try:
            status = self._status(budget)
        except SyncFailed as error:
            failed = {"type": _KIND, "status": "False", "reason": "SyncFailed", "message": str(error)}
            held = with_condition(merged(budget, status={"disruptionsAllowed": 0}), failed, self._store.now)
        else:
            held = _concluded(merged(budget, status=status), self._store.now)
        if held != budget:
            self._store.put(held)

    def _status(self, budget: Object) -> dict[str, Any]:
        pods = [p for p in self._store.all("pods") if _covers(budget, p)]
        disrupted = self._disrupted(budget, pods)
        healthy = sum(
            1 for p in pods if is_ready(p) and not is_terminating(p) and p["metadata"]["name"] not in disrupted
        )
        expected, desired = self._expected(budget["spec"], pods)
        return {
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
            "disruptionsAllowed": max(0, healthy - desired) if expected else 0,
            "disruptedPods": disrupted,
            "observedGeneration": budget["metadata"].get("generation", 1),
        }

    def _disrupted(self, budget: Object, pods: list[Object]) -> dict[str, str]:
        """Evictions that were allowed and are not seen yet, as long as they may still come."""
        noted = budget.get("status", {}).get("disruptedPods", {})
        staying = [p["metadata"]["name"] for p in pods if not is_terminating(p)]
        return {n: noted[n] for n in staying if n in noted and self._store.now <= _epoch(noted[n]) + DELETION_SECONDS}

    def _expected(self, spec: dict[str, Any], pods: list[Object]) -> tuple[int, int]:
        """Pods there should be, and how many of these healthy.

        A whole number in ``minAvailable`` asks no controller; everything else does, and leaves out unmanaged pods.
        """
        least = spec.get("minAvailable", 1)
        if (unavailable := spec.get("maxUnavailable")) is not None:
            expected = self._scale(pods)
            return expected, max(0, expected - _count(unavailable, expected))
        if isinstance(least, int):
            return len(pods), least
        expected = self._scale(pods)
        return expected, _count(least, expected)

    def _scale(self, pods: list[Object]) -> int:
        """What the controllers of the pods want in all."""
        scales: dict[str, int] = {}
        for pod in pods:
            owner = controller_of(pod)
            if owner is None or owner["uid"] in scales:
                continue
            found = None
            if owner["kind"] in _SCALED:
                found = self._store.get(BY_KIND[owner["kind"]].plural, owner["name"], pod["metadata"]["namespace"])
            if found is None:
                raise SyncFailed(f'found no controllers for pod "{pod["metadata"]["name"]}"')
            scales[owner["uid"]] = found["spec"].get("replicas", 1)
        return sum(scales.values())

    def _note(self, change: Change) -> None:
        if change.resource in {"pods", "poddisruptionbudgets", "replicasets", "statefulsets"}:
            obj = change.after or change.before
            assert obj is not None
            self._dirty.add(obj["metadata"]["namespace"])


def _is_unguarded(pod: Object, budget: Object) -> bool:
    """A pod that is not Ready is not what the budget protects, if the others suffice or its policy says so."""
    if is_ready(pod):
        return False
    if budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status", {})
    return bool(status.get("currentHealthy", 0) >= status.get("desiredHealthy", 0) > 0)


def _too_many(budget: Object) -> ApiError:
    """429 with the cause DisruptionBudget: no telling when, or soon, when the controller has only to look."""
    name, status = budget["metadata"]["name"], budget.get("status", {})
    verdict = condition(budget, _KIND)
    after: int | None = None
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 1):
        message, after = f"The disruption budget {name} is still being processed by the server.", UNOBSERVED_SECONDS
    elif verdict.get("reason") == "SyncFailed":
        message = (
            f"The disruption budget {name} does not allow evicting pods currently because it failed sync: "
            f"{verdict['message']}"
        )
    elif status["currentHealthy"] <= status["desiredHealthy"]:
        needs, has = status["desiredHealthy"], status["currentHealthy"]
        message = f"The disruption budget {name} needs {needs} healthy pods and has {has} currently"
    else:  # What was allowed is spoken for by evictions the controller has not counted yet.
        message = f"The disruption budget {name} does not allow evicting pods currently"
    cause = {"reason": "DisruptionBudget", "message": message}
    return ApiError(429, "TooManyRequests", _REFUSED, causes=(cause,), retry_after=after)


def _concluded(budget: Object, now: float) -> Object:
    """With the condition that follows from the numbers."""
    allowed = budget["status"]["disruptionsAllowed"] > 0
    verdict = {
        "type": _KIND,
        "status": "True" if allowed else "False",
        "reason": "SufficientPods" if allowed else "InsufficientPods",
        "message": "",
        "observedGeneration": budget["status"].get("observedGeneration", 0),
    }
    return with_condition(budget, verdict, now)


def _covers(budget: Object, pod: Object) -> bool:
    if budget["metadata"]["namespace"] != pod["metadata"]["namespace"]:
        return False
    return matches_selector(budget["spec"].get("selector"), pod["metadata"].get("labels") or {})


def _count(value: int | str, total: int) -> int:
    """An IntOrString; percentages round up, as the disruption controller does for both fields."""
    if isinstance(value, int):
        return value
    return -(-total * int(value.rstrip("%")) // 100)


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
