"""What a deletion is: grace for pods, finalizers for everything, namespaces that empty first, garbage collection.

It deliberately asks no budget; an eviction has done so before it comes here.
"""

from nixkube_deploy.lab.kube.errors import ApiError
from nixkube_deploy.lab.kube.objects import is_terminating
from nixkube_deploy.lab.kube.pods import PodLifecycle
from nixkube_deploy.lab.kube.resources import BY_KIND, RESOURCES
from nixkube_deploy.lab.kube.store import Change, Object, ObjectStore, merged, stamp

ORPHAN = "Orphan"
"""The propagation policy that leaves what the object controlled behind, without an owner."""


class Deletion:
    """Deletes objects, and what hangs on them."""

    def __init__(self, store: ObjectStore, pods: PodLifecycle) -> None:
        self._store = store
        self._pods = pods
        self._ownerless: dict[str, None] = {}
        """UIDs of owners that are gone, whose dependents have to follow."""
        store.subscribe(self._note)

    def delete(self, obj: Object, *, grace: int | None = None, propagation: str = "Background") -> Object | None:
        """Begin a deletion; the object while it is under way, None when it is gone at once."""
        if propagation == ORPHAN:
            for child in self._store.owned_by(obj["metadata"]["uid"]):
                self._store.put(_disowned(child))
        if obj["kind"] == "Pod":
            return self._pods.terminate(obj, grace)
        if obj["kind"] == "Namespace":
            return self._mark(merged(obj, status={"phase": "Terminating"}))
        if obj["metadata"].get("finalizers"):
            return self._mark(obj)
        self._store.remove(obj)
        return None

    def settle(self, obj: Object) -> bool:
        """Whether an object that was just written is gone now, because its last finalizer went."""
        if not is_terminating(obj) or obj["metadata"].get("finalizers") or obj["kind"] == "Namespace":
            return False
        if obj["kind"] == "Pod" and obj["metadata"].get("deletionGracePeriodSeconds", 0) > 0:
            return False
        self._store.remove(obj)
        return True

    def tick(self) -> None:
        """The garbage collector's and the namespace controller's round."""
        while self._ownerless:
            uid = next(iter(self._ownerless))
            del self._ownerless[uid]
            for child in self._store.owned_by(uid):
                if not is_terminating(child):
                    self.delete(child)
        for namespace in self._store.all("namespaces"):
            if is_terminating(namespace):
                self._empty(namespace)

    def sweep(self) -> None:
        """Look for dependents of owners that went unseen (after a saved state was loaded)."""
        for resource in RESOURCES:
            for obj in self._store.all(resource):
                for owner in obj["metadata"].get("ownerReferences", ()):
                    kind = BY_KIND.get(owner["kind"])
                    space = obj["metadata"].get("namespace", "") if kind is not None and kind.namespaced else ""
                    if kind is not None and self._store.get(kind.plural, owner["name"], space) is None:
                        self._ownerless[owner["uid"]] = None

    def _mark(self, obj: Object) -> Object:
        if is_terminating(obj):
            return obj
        meta = {"deletionTimestamp": stamp(self._store.now), "deletionGracePeriodSeconds": 0}
        return self._store.put(merged(obj, metadata=meta))

    def _empty(self, namespace: Object) -> None:
        """Delete what is in the namespace; it goes itself when nothing is left."""
        name, left = namespace["metadata"]["name"], False
        for resource in RESOURCES.values():
            if not resource.namespaced:
                continue
            for obj in self._store.all(resource.plural):
                if obj["metadata"]["namespace"] != name:
                    continue
                left = True
                if not is_terminating(obj):
                    self.delete(obj)
        if not left and not namespace["metadata"].get("finalizers"):
            self._store.remove(namespace)

    def _note(self, change: Change) -> None:
        if change.after is None and change.before is not None:
            self._ownerless[change.before["metadata"]["uid"]] = None


def refuse_new(store: ObjectStore, what: str, namespace: str) -> None:
    """Raise 403 with its cause when the namespace is on its way out; evictions are creations, too."""
    found = store.get("namespaces", namespace)
    if found is None or not is_terminating(found):
        return
    message = (
        f"{what} is forbidden: unable to create new content in namespace {namespace} because it is being terminated"
    )
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {namespace} is being terminated",
        "field": "metadata.namespace",
    }
    raise ApiError(403, "Forbidden", message, causes=(cause,))


def _disowned(obj: Object) -> Object:
    return merged(obj, metadata={"ownerReferences": []})
