"""The verbs on objects: create, replace, patch, delete, evict, with the API server's checks.

Everything here is synchronous and speaks objects and ``ApiError``; it deliberately knows no HTTP and no lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nixkube_deploy.lab.kube.deletion import refuse_new
from nixkube_deploy.lab.kube.errors import ApiError, already_exists, bad_request, conflict, not_found, success
from nixkube_deploy.lab.kube.objects import pod_defaults
from nixkube_deploy.lab.kube.patch import apply_patch
from nixkube_deploy.lab.kube.routes import Target
from nixkube_deploy.lab.kube.state import KubeState
from nixkube_deploy.lab.kube.store import Object

_SERVER_OWNED = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")
_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A request to change something."""

    target: Target
    body: Any = None
    content_type: str = "application/json"
    dry_run: bool = False


def find(state: KubeState, target: Target) -> Object:
    """The object a target names; 404 without it."""
    assert target.name is not None
    found = state.store.get(target.resource.plural, target.name, target.key_namespace)
    if found is None:
        raise not_found(target.resource.qualified, target.name)
    return found


def create(state: KubeState, write: Write) -> Object:
    """POST on a collection."""
    target, body = write.target, _object(write.body, write.target)
    meta = dict(body["metadata"])
    for key in (*_SERVER_OWNED, "resourceVersion"):
        meta.pop(key, None)
    if target.resource.namespaced:
        meta["namespace"] = _one_namespace(target, meta)
        if state.store.get("namespaces", meta["namespace"]) is None:
            raise not_found("namespaces", meta["namespace"])
        refuse_new(state.store, target.resource.qualified, meta["namespace"])
    if "name" not in meta and "generateName" not in meta:
        raise ApiError(422, "Invalid", "metadata.name: Required value: name or generateName is required")
    if "name" in meta and state.store.get(target.resource.plural, meta["name"], meta.get("namespace", "")) is not None:
        raise already_exists(target.resource.qualified, meta["name"])
    new = {**body, "metadata": meta}
    if target.resource.plural == "pods":
        new = pod_defaults({key: value for key, value in new.items() if key != "status"})
    return {**new, "apiVersion": target.resource.api_version} if write.dry_run else state.store.create(new)


def replace(state: KubeState, write: Write) -> Object:
    """PUT: optimistic concurrency by resourceVersion. A Lease that is gone is made anew, as a real server does."""
    target = write.target
    assert target.name is not None
    if target.resource.plural == "leases" and state.store.get("leases", target.name, target.key_namespace) is None:
        return create(state, write)
    old = find(state, target)
    return _update(state, write, old, _object(write.body, write.target))


def patch(state: KubeState, write: Write) -> Object:
    """PATCH, in any of the three formats."""
    old = find(state, write.target)
    return _update(state, write, old, apply_patch(write.content_type, old, write.body))


def delete(state: KubeState, write: Write, query: Mapping[str, str]) -> Object:
    """DELETE on an object; the answer is the object while something holds it, else that it is gone."""
    old = find(state, write.target)
    options = write.body if isinstance(write.body, dict) else {}
    _check_preconditions(old, write.target, options.get("preconditions") or {})
    grace = options.get("gracePeriodSeconds")
    if grace is None and "gracePeriodSeconds" in query:
        grace = int(query["gracePeriodSeconds"])
    if write.dry_run:
        return old
    left = state.deletion.delete(old, grace=grace, propagation=_propagation(options, query))
    if left is not None:
        return left
    details = {"name": write.target.name, "kind": write.target.resource.plural, "uid": old["metadata"]["uid"]}
    return {**success(200), "details": details}


def _propagation(options: Mapping[str, Any], query: Mapping[str, str]) -> str:
    policy: str = options.get("propagationPolicy") or query.get("propagationPolicy", "Background")
    return "Orphan" if options.get("orphanDependents") else policy


def evict(state: KubeState, write: Write) -> dict[str, Any]:
    """POST on ``pods/<name>/eviction``."""
    target, body = write.target, write.body
    if not isinstance(body, dict) or body.get("kind", "Eviction") != "Eviction":
        raise bad_request("the object provided is not an Eviction")
    if body.get("metadata", {}).get("name", target.name) != target.name:
        raise bad_request("name in URL does not match name in Eviction object")
    refuse_new(state.store, f'{target.resource.qualified} "{target.name}"', target.key_namespace)
    pod = find(state, target)
    options = body.get("deleteOptions") or {}
    _check_preconditions(pod, target, options.get("preconditions") or {})
    dry_run = write.dry_run or bool(options.get("dryRun"))
    state.budgets.admit(pod, dry_run=dry_run)
    if not dry_run:
        state.deletion.delete(pod, grace=options.get("gracePeriodSeconds"))
    return success(201)


def node_proxy(state: KubeState, target: Target) -> str:
    """GET on ``nodes/<name>/proxy/...``: the kubelet's own answer, if it runs."""
    find(state, target)
    assert target.name is not None
    if not state.nodes.runs(target.name):
        refused = f"dial tcp {target.name}:10250: connect: connection refused"
        raise ApiError(503, "ServiceUnavailable", f"error trying to reach service: {refused}")
    if target.rest.rstrip("/") != "healthz":
        raise ApiError(404, "NotFound", "the server could not find the requested resource")
    return "ok"


def _update(state: KubeState, write: Write, old: Object, new: Object) -> Object:
    """Store ``new`` in place of ``old``, keeping what the server owns and bumping the generation with the spec."""
    target = write.target
    assert target.name is not None
    meta = dict(new["metadata"])
    if meta.get("name", target.name) != target.name:
        raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({target.name})")
    if meta.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
        raise conflict(target.resource.qualified, target.name, "the UID in the precondition does not match")
    if meta.get("resourceVersion") not in {None, "", old["metadata"]["resourceVersion"]}:
        raise conflict(target.resource.qualified, target.name, _MODIFIED)
    meta |= {key: old["metadata"][key] for key in _SERVER_OWNED if key in old["metadata"]}
    meta["name"] = target.name
    if target.resource.namespaced:
        meta["namespace"] = target.key_namespace
    if target.subresource == "status":
        result = {**old, "metadata": meta, "status": new.get("status", {})}
    elif target.resource.subresources and "status" in old:
        # A write to the object itself does not touch the status, as for every kind with a status subresource.
        result = {**new, "metadata": meta, "status": old["status"]}
    else:
        result = {**new, "metadata": meta}
    if result.get("spec") != old.get("spec"):
        result["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
    if _same(result, old):
        return old
    if write.dry_run:
        return result
    stored = state.store.put(result)
    state.deletion.settle(stored)
    return stored


def _same(new: Object, old: Object) -> bool:
    """A write that changes nothing makes no new version."""
    meta = {**new["metadata"], "resourceVersion": old["metadata"]["resourceVersion"]}
    return {**new, "metadata": meta} == old


def _object(body: Any, target: Target) -> Object:
    if not isinstance(body, dict) or not isinstance(body.get("metadata"), dict):
        raise bad_request("the body is not an object with metadata")
    kind = body.get("kind", target.resource.kind)
    if kind != target.resource.kind:
        raise bad_request(f"{kind} in version {body.get('apiVersion')!r} cannot be handled as a {target.resource.kind}")
    return {**body, "kind": target.resource.kind, "apiVersion": target.resource.api_version}


def _one_namespace(target: Target, meta: Mapping[str, Any]) -> str:
    given: str = meta.get("namespace") or target.namespace or "default"
    if target.namespace is not None and given != target.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    return given


def _check_preconditions(obj: Object, target: Target, wanted: Mapping[str, Any]) -> None:
    assert target.name is not None
    for key in ("uid", "resourceVersion"):
        if wanted.get(key) not in {None, obj["metadata"][key]}:
            why = f"Precondition failed: {key} in precondition: {wanted[key]}, in object meta: {obj['metadata'][key]}"
            raise conflict(target.resource.qualified, target.name, why)
