"""Lists and watches: selectors, chunks, and the translation of writes into a watcher's own events.

It deliberately does not wait for anything; ``server`` does, and asks here what is new.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
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
    """The list, or the chunk of it that ``limit`` and ``continue`` ask for; every chunk is of the same revision.

    Raises:
        ApiError: 410, that revision is not remembered any more; 504, the revision asked for is yet to come.
    """
    selects, token = chosen(target, query), _token_of(query.get("continue", ""))
    version = _exact(state, query) if token is None else token.version
    if version is None:
        objects: Iterable[Object] = _candidates(state, target, query)
        version = state.store.version
    else:
        objects = _as_of(state, target.resource.plural, version, continued=token is not None)
    found = sorted((o for o in objects if selects(o)), key=key_of)
    metadata: dict[str, Any] = {"resourceVersion": str(version)}
    if token is not None:
        found = [o for o in found if key_of(o) > token.after]
    limit = _number(query, "limit")
    if 0 < limit < len(found):
        metadata["remainingItemCount"] = len(found) - limit
        found = found[:limit]
        metadata["continue"] = _Token(version=version, after=key_of(found[-1])).text()
    return Page(items=found, metadata=metadata)


def watch_start(query: Mapping[str, str]) -> int | None:
    """The revision a watch begins after; None when it begins with what is there.

    Raises:
        ApiError: 400, the parameters make no sense together.
    """
    version = _number(query, "resourceVersion")
    if wants_initial(query):
        if query.get("resourceVersionMatch") != "NotOlderThan":
            raise bad_request("sendInitialEvents is forbidden for watch unless resourceVersionMatch is NotOlderThan")
        return None
    return version or None


def wants_initial(query: Mapping[str, str]) -> bool:
    """Whether a watch asked to be told what is there, and when that ends (a streaming list)."""
    return query.get("sendInitialEvents") in {"1", "true"}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """Where a list goes on, and of which revision it is."""

    version: int
    after: Key

    def text(self) -> str:
        """As clients carry it."""
        plain = {"v": "meta.k8s.io/v1", "rv": self.version, "start": self.after}
        return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode()


def _token_of(text: str) -> _Token | None:
    if not text:
        return None
    try:
        plain = json.loads(base64.urlsafe_b64decode(text))
        namespace, name = plain["start"]
        return _Token(version=int(plain["rv"]), after=(str(namespace), str(name)))
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise bad_request("continue key is not valid") from error


def _exact(state: KubeState, query: Mapping[str, str]) -> int | None:
    """The one revision a list has to be of; None when the newest will do."""
    version, match = _number(query, "resourceVersion"), query.get("resourceVersionMatch", "")
    if match and not version and match != "NotOlderThan":
        raise bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided")
    if version > state.store.version:
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        message = f"Too large resource version: {version}, current: {state.store.version}"
        raise ApiError(504, "Timeout", message, causes=(cause,), retry_after=1)
    return version if match == "Exact" else None


def _as_of(state: KubeState, resource: str, version: int, *, continued: bool) -> Iterable[Object]:
    """What there was at a revision: what there is, with everything that was written since taken back."""
    log = state.store.log
    if version < state.store.version and (not log or log[0].version > version + 1):
        why = "The resourceVersion for the provided list is too old."
        if continued:
            why = (
                "The provided continue parameter is too old to display a consistent list result. You can start a new "
                "list without the continue parameter."
            )
        raise ApiError(410, "Expired", why)
    found = {key_of(obj): obj for obj in state.store.all(resource)}
    for change in reversed(log):
        if change.version <= version:
            break
        if change.resource == resource:
            written = change.after or change.before
            assert written is not None
            found.pop(key_of(written), None)
            if change.before is not None:
                found[key_of(change.before)] = change.before
    return found.values()


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name) or "0"
    if not text.isascii() or not text.isdecimal():
        raise bad_request(f"invalid {name}: {text!r} is not a number")
    return int(text)
