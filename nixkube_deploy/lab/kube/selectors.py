"""Label and field selectors: parsed once into predicates.

It deliberately supports only the field labels a resource declares; any other is refused, as by a real server.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from nixkube_deploy.lab.kube.errors import bad_request
from nixkube_deploy.lab.kube.resources import Resource

Predicate = Callable[[dict[str, Any]], bool]

_SET = re.compile(r"^\s*(?P<key>[\w./-]+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)\s*$")
_EQUAL = re.compile(r"^\s*(?P<key>[\w./-]+)\s*(?P<op>==|=|!=)\s*(?P<value>[\w.:/-]*)\s*$")
_EXISTS = re.compile(r"^\s*(?P<not>!?)\s*(?P<key>[\w./-]+)\s*$")
_COMMA = re.compile(r",(?![^(]*\))")


def by_labels(text: str) -> Predicate:
    """A ``labelSelector`` query parameter: equality, sets and existence, joined by commas."""
    tests = [_label_test(part) for part in _COMMA.split(text) if part.strip()]

    def matches(obj: dict[str, Any]) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(test(labels) for test in tests)

    return matches


def _label_test(part: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.match(part):
        key, values = found["key"], {v.strip() for v in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(part):
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(part):
        key = found["key"]
        if found["not"]:
            return lambda labels: key not in labels
        return lambda labels: key in labels
    raise bad_request(f"unable to parse requirement: {part!r}")


def by_fields(text: str, resource: Resource) -> Predicate:
    """A ``fieldSelector`` query parameter."""
    tests = [_field_test(key, op, value, resource) for key, op, value in field_terms(text)]
    return lambda obj: all(test(obj) for test in tests)


def field_terms(text: str) -> list[tuple[str, str, str]]:
    """The selector's terms as (field, operator, value)."""
    terms = []
    for part in text.split(","):
        if not part.strip():
            continue
        found = _EQUAL.match(part)
        if found is None:
            raise bad_request(f"invalid selector: {text!r}; can't understand {part!r}")
        terms.append((found["key"], "!=" if found["op"] == "!=" else "=", found["value"]))
    return terms


def _field_test(key: str, op: str, value: str, resource: Resource) -> Predicate:
    if key not in resource.selectable:
        raise bad_request(f"field label not supported: {key}")
    path = key.split(".")
    if op == "=":
        return lambda obj: _field(obj, path) == value
    return lambda obj: _field(obj, path) != value


def _field(obj: Any, path: list[str]) -> str:
    for step in path:
        obj = obj.get(step) if isinstance(obj, dict) else None
    if isinstance(obj, bool):
        return "true" if obj else "false"
    return "" if obj is None else str(obj)


def matches_selector(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """A ``metav1.LabelSelector``. None selects nothing, the empty one everything."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression(e, labels) for e in selector.get("matchExpressions") or ())


def _expression(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case other:
            raise bad_request(f"{other!r} is not a valid label selector operator")
