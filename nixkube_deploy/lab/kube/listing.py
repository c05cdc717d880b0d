"""Lists and watches: selectors, chunks, and the translation of writes into a watcher's own events.

It deliberately does not wait for anything; ``server`` does, and asks here what is new.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nixkube_deploy.lab.kube.errors import ApiError, bad_request
from nixkube_deploy.lab.kube.routes import Target
from nixkube_deploy.lab.kube.selectors import Predicate, by_fields, by_labels, field_terms
from nixkube_deploy.lab.kube.state import KubeState
from nixkube_deploy.lab.kube.store import Change, Key, Object, key_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One answer to a list request."""

    items: list[Object]
    metadata: dict[str, Any]


def chosen(target: Target, query: Mapping[str, str]) -> Predicate:
    """Whether an object belongs to what the request asks for."""
    tests: list[Predicate] = []
    if target.namespace is not None:
        tests.append(lambda obj: obj["metadata"].get("namespace") == target.namespace)
    if target.name is not None:
        tests.append(lambda obj: obj["metadata"]["name"] == target.name)
    if fields := query.get("fieldSelector"):
        tests.append(by_fields(fields, target.resource))
    if labels := query.get("labelSelector"):
        tests.append(by_labels(labels))
    return lambda obj: all(test(obj) for test in tests)


def page(state: KubeState, target: Target, query: Mapping[str, str]) -> Page:
    """The list, or the chunk of it that ``limit`` and ``continue`` ask for."""
    selects = chosen(target, query)
    found = sorted((o for o in _candidates(state, target, query) if selects(o)), key=key_of)
    metadata: dict[str, Any] = {"resourceVersion": str(state.store.version)}
    after, limit = _continue(query.get("continue", "")), int(query.get("limit") or 0)
    if after is not None:
        found = [o for o in found if key_of(o) > after]
    if 0 < limit < len(found):
        metadata["remainingItemCount"] = len(found) - limit
        found = found[:limit]
        metadata["continue"] = _token(key_of(found[-1]))
    return Page(items=found, metadata=metadata)


def events_since(state: KubeState, resource: str, version: int, selects: Predicate) -> Iterator[tuple[str, Object]]:
    """What a watcher that saw ``version`` has to be told: (ADDED | MODIFIED | DELETED, object).

    Raises:
        ApiError: 410, the log does not reach back so far.
    """
    log = state.store.log
    if version < state.store.version and (not log or log[0].version > version + 1):
        raise ApiError(410, "Expired", f"too old resource version: {version} ({state.store.version})")
    news: list[Change] = []
    for change in reversed(log):
        if change.version <= version:
            break
        if change.resource == resource:
            news.append(change)
    for change in reversed(news):
        was = change.before is not None and selects(change.before)
        now = change.after is not None and selects(change.after)
        if now and change.after is not None:
            yield ("MODIFIED" if was else "ADDED"), change.after
        elif was and change.before is not None:
            yield "DELETED", _last_state(change)


def _last_state(change: Change) -> Object:
    """A deletion carries the revision it happened at."""
    assert change.before is not None
    meta = {**change.before["metadata"], "resourceVersion": str(change.version)}
    return {**change.before, "metadata": meta}


def _candidates(state: KubeState, target: Target, query: Mapping[str, str]) -> tuple[Object, ...]:
    """The fewest objects that can match: pods by node come from the index."""
    if target.resource.plural == "pods":
        for field, op, value in field_terms(query.get("fieldSelector", "")):
            if (field, op) == ("spec.nodeName", "=") and value:
                return state.store.pods_on(value)
    return state.store.all(target.resource.plural)


def _token(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _continue(token: str) -> Key | None:
    if not token:
        return None
    try:
        namespace, name = json.loads(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError) as error:
        raise bad_request("continue key is not valid") from error
    return str(namespace), str(name)
