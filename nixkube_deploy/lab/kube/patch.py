"""The three patch formats the API server takes: JSON merge, strategic merge, JSON patch.

It deliberately leaves out server-side apply, and knows merge keys only for the lists people patch on Nodes and Pods.
"""

import copy
from typing import Any

from nixkube_deploy.lab.kube.errors import ApiError, bad_request, invalid

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"

_MERGE_KEYS = {
    "taints": "key",
    "conditions": "type",
    "addresses": "type",
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "ownerReferences": "uid",
    "env": "name",
    "drivers": "name",
}
_SET_LISTS = frozenset({"finalizers", "podCIDRs"})


def apply_patch(kind: str, target: dict[str, Any], patch: Any) -> dict[str, Any]:
    """``target`` patched, as a new dict; ``kind`` is the request's content type."""
    if kind == JSON_PATCH:
        return _json_patch(target, patch)
    if not isinstance(patch, dict):
        raise bad_request("the patch is not an object")
    if kind == MERGE:
        merged: dict[str, Any] = _merge(target, patch)
        return merged
    if kind == STRATEGIC:
        return _strategic(target, patch)
    raise ApiError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result


def _strategic(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    result = dict(target)
    for key, value in patch.items():
        if key.startswith(("$setElementOrder/", "$retainKeys")):
            continue
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name, []) if item not in value]
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            present = result.get(key)
            result[key] = _strategic(present if isinstance(present, dict) else {}, value)
        elif isinstance(value, list):
            result[key] = _strategic_list(key, result.get(key) or [], value)
        else:
            result[key] = value
    return result


def _strategic_list(name: str, target: list[Any], patch: list[Any]) -> list[Any]:
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and "$patch" in item)]
    if name in _SET_LISTS:
        return [*target, *(item for item in patch if item not in target)]
    merge_key = _MERGE_KEYS.get(name)
    if merge_key is None or not all(isinstance(item, dict) for item in patch):
        return patch
    result = list(target)
    for item in patch:
        at = next((i for i, old in enumerate(result) if old.get(merge_key) == item.get(merge_key)), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(item)
        else:
            result[at] = _strategic(result[at], item)
    return result


def _json_patch(target: dict[str, Any], operations: Any) -> dict[str, Any]:
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    result = copy.deepcopy(target)
    for operation in operations:
        try:
            _operate(result, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise invalid(f"the server rejected our request due to an error in our request: {error}") from error
    return result


def _operate(document: dict[str, Any], operation: dict[str, Any]) -> None:
    parent, last = _resolve(document, operation["path"])
    match operation["op"]:
        case "add":
            _add(parent, last, operation["value"])
        case "replace":
            _take(parent, last)
            _add(parent, last, operation["value"])
        case "remove":
            _take(parent, last)
        case "test":
            found = parent[int(last)] if isinstance(parent, list) else parent.get(last)
            if found != operation["value"]:
                raise ValueError(f"testing value {operation['path']} failed")
        case other:
            raise ValueError(f"unexpected operation {other!r}")


def _resolve(document: Any, pointer: str) -> tuple[Any, str]:
    if not pointer.startswith("/"):
        raise ValueError(f"{pointer!r} is not a JSON pointer below the root")
    *steps, last = [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]
    for step in steps:
        document = document[int(step)] if isinstance(document, list) else document[step]
    return document, last


def _add(parent: Any, key: str, value: Any) -> None:
    if isinstance(parent, list):
        parent.insert(len(parent) if key == "-" else int(key), value)
    else:
        parent[key] = value


def _take(parent: Any, key: str) -> Any:
    return parent.pop(int(key)) if isinstance(parent, list) else parent.pop(key)
