"""The lab cluster's etcd: objects by resource and key, one revision counter, a log for watches, indexes for pods.

Objects are plain dicts in the API's own JSON and are never changed in place: a write puts a new dict, so a list or a
watch may hold on to what it saw. It deliberately knows no controller and no HTTP.
"""

import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nixkube_deploy.lab.kube.resources import BY_KIND, RESOURCES

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

Key = tuple[str, str]
"""Namespace (empty for cluster-wide objects) and name."""

_LOG_LENGTH = 8192
_UID_SPACE = uuid.UUID("5f0b2f6e-9f0e-4c55-8d6b-7f2f6d1f3a10")


@dataclass(frozen=True, slots=True)
class Change:
    """One write: created (no ``before``), deleted (no ``after``), or replaced."""

    version: int
    resource: str
    before: Object | None
    after: Object | None


def stamp(at: float) -> str:
    """``metav1.Time``: whole seconds, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp(at: float) -> str:
    """``metav1.MicroTime``, as Leases carry it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def suffix(uid: str, length: int = 5) -> str:
    """The random-looking tail of a generated name, from letters that spell no words."""
    letters = "bcdfghjklmnpqrstvwxz2456789"
    number = uuid.UUID(uid).int
    return "".join(letters[(number >> (5 * i)) % len(letters)] for i in range(length))


def key_of(obj: Object) -> Key:
    """An object's key."""
    meta = obj["metadata"]
    return meta.get("namespace", ""), meta["name"]


def version_of(obj: Object) -> int:
    """The resourceVersion as the number it is here."""
    return int(obj["metadata"]["resourceVersion"])


def controller_of(obj: Object) -> dict[str, Any] | None:
    """The owner reference with ``controller: true``."""
    for owner in obj["metadata"].get("ownerReferences", ()):
        if owner.get("controller"):
            found: dict[str, Any] = owner
            return found
    return None


def merged(obj: Object, **parts: dict[str, Any]) -> Object:
    """A copy with each named top-level part (``metadata``, ``spec``, ``status``) overlaid by the given keys."""
    return {**obj, **{name: {**obj.get(name, {}), **part} for name, part in parts.items()}}


class ObjectStore:
    """All objects. ``now`` (seconds since the epoch) is set by whoever drives the cluster."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.version = 1
        self.minted = 0
        self.log: deque[Change] = deque(maxlen=_LOG_LENGTH)
        self._objects: dict[str, dict[Key, Object]] = {plural: {} for plural in RESOURCES}
        self._by_node: dict[str, dict[Key, Object]] = {}
        self._by_owner: dict[str, dict[tuple[str, Key], Object]] = {}
        self._listeners: list[Callable[[Change], None]] = []

    def subscribe(self, listener: Callable[[Change], None]) -> None:
        """Call ``listener`` after every write, synchronously."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[Change], None]) -> None:
        """Stop calling ``listener``."""
        self._listeners.remove(listener)

    def get(self, resource: str, name: str, namespace: str = "") -> Object | None:
        """One object, or None."""
        return self._objects[resource].get((namespace, name))

    def all(self, resource: str) -> tuple[Object, ...]:
        """Every object of a resource, in no promised order."""
        return tuple(self._objects[resource].values())

    def count(self, resource: str) -> int:
        """How many there are."""
        return len(self._objects[resource])

    def pods_on(self, node: str) -> tuple[Object, ...]:
        """Pods bound to a node, by index."""
        return tuple(self._by_node.get(node, {}).values())

    def pod_count(self, node: str) -> int:
        """How many pods are bound to a node."""
        return len(self._by_node.get(node, ()))

    def owned_by(self, uid: str) -> tuple[Object, ...]:
        """Objects whose controller is ``uid``."""
        return tuple(self._by_owner.get(uid, {}).values())

    def compact(self) -> None:
        """Forget what was, as etcd does: who has not seen the last write has to list again."""
        self.log.clear()

    def mint(self) -> str:
        """A new uid; the same history mints the same ids."""
        self.minted += 1
        return str(uuid.uuid5(_UID_SPACE, str(self.minted)))

    def create(self, obj: Object) -> Object:
        """Add a new object, filling what the API server fills."""
        kind = BY_KIND[obj["kind"]]
        uid = self.mint()
        meta = {**obj["metadata"], "uid": uid, "creationTimestamp": stamp(self.now), "generation": 1}
        if "name" not in meta:
            meta["name"] = f"{meta['generateName']}{suffix(uid)}"
        if kind.namespaced:
            meta.setdefault("namespace", "default")
        return self.put({**obj, "apiVersion": kind.api_version, "metadata": meta})

    def put(self, obj: Object) -> Object:
        """Store a new dict under its key with the next resourceVersion; returns what was stored."""
        resource = BY_KIND[obj["kind"]].plural
        self.version += 1
        stored = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        key = key_of(stored)
        before = self._objects[resource].get(key)
        self._objects[resource][key] = stored
        self._record(resource, before, stored)
        return stored

    def remove(self, obj: Object) -> None:
        """Delete an object, whatever its finalizers say; what it controlled is the garbage collector's to take."""
        resource, key = BY_KIND[obj["kind"]].plural, key_of(obj)
        before = self._objects[resource].pop(key, None)
        if before is None:
            return
        self.version += 1
        self._record(resource, before, None)

    def restore(self, objects: Iterable[Object], version: int, minted: int) -> None:
        """Take over objects as they are (from a saved state), without writing history."""
        for obj in objects:
            resource = BY_KIND[obj["kind"]].plural
            self._objects[resource][key_of(obj)] = obj
            self._index(resource, None, obj)
        self.version, self.minted = version, minted

    def _record(self, resource: str, before: Object | None, after: Object | None) -> None:
        self._index(resource, before, after)
        change = Change(self.version, resource, before, after)
        self.log.append(change)
        for listener in self._listeners:
            listener(change)

    def _index(self, resource: str, before: Object | None, after: Object | None) -> None:
        if before is not None:
            self._unindex(resource, before)
        if after is None:
            return
        if (owner := controller_of(after)) is not None:
            self._by_owner.setdefault(owner["uid"], {})[resource, key_of(after)] = after
        if resource == "pods" and (node := after["spec"].get("nodeName")):
            self._by_node.setdefault(node, {})[key_of(after)] = after

    def _unindex(self, resource: str, before: Object) -> None:
        if (owner := controller_of(before)) is not None:
            self._by_owner.get(owner["uid"], {}).pop((resource, key_of(before)), None)
        if resource == "pods" and (node := before["spec"].get("nodeName")):
            self._by_node.get(node, {}).pop(key_of(before), None)
