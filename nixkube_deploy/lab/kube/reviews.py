"""Questions a user asks about rights and about itself: the API's reviews, which are created and never stored.

It deliberately answers from ``rbac`` alone.
"""

from typing import Any

from nixkube_deploy.lab.kube.errors import bad_request, no_such_path
from nixkube_deploy.lab.kube.rbac import Attempt, Rule, may, rules_of
from nixkube_deploy.lab.kube.routes import Target
from nixkube_deploy.lab.kube.store import Object, ObjectStore
from nixkube_deploy.lab.kube.users import User, token_of


def review(store: ObjectStore, user: User, target: Target, body: Any) -> dict[str, Any]:
    """The review that was asked for, its status filled."""
    if not isinstance(body, dict):
        raise bad_request("the body is not a review")
    spec = body.get("spec") or {}
    match target.resource.kind:
        case "SelfSubjectAccessReview":
            status: dict[str, Any] = {"allowed": may(store, user, _asked(spec))}
        case "SubjectAccessReview":
            asked = User(name=spec.get("user", ""), groups=tuple(spec.get("groups") or ()))
            status = {"allowed": may(store, asked, _asked(spec))}
        case "SelfSubjectRulesReview":
            status = _rules(store, user, spec.get("namespace", ""))
        case "SelfSubjectReview":
            status = {"userInfo": {"username": user.name, "groups": list(user.groups)}}
        case _:
            raise no_such_path()
    meta = {"metadata": body.get("metadata") or {"creationTimestamp": None}}
    kind = {"kind": target.resource.kind, "apiVersion": target.resource.api_version}
    return {**kind, **meta, "spec": spec, "status": status}


def token_review(account: Object) -> dict[str, Any]:
    """The ``TokenRequest`` for a service account, granted."""
    status = {"token": token_of(account), "expirationTimestamp": "2119-01-01T00:00:00Z"}
    meta = {"name": account["metadata"]["name"], "namespace": account["metadata"]["namespace"]}
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": meta,
        "spec": {},
        "status": status,
    }


def _asked(spec: dict[str, Any]) -> Attempt:
    if wanted := spec.get("nonResourceAttributes"):
        return Attempt(verb=wanted.get("verb", ""), path=wanted.get("path", ""))
    wanted = spec.get("resourceAttributes") or {}
    return Attempt(**{key: wanted.get(key, "") for key in _ATTRIBUTES})


_ATTRIBUTES = ("verb", "group", "resource", "subresource", "namespace", "name")


def _rules(store: ObjectStore, user: User, namespace: str) -> dict[str, Any]:
    anything: tuple[Rule, ...] = (
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["*"], "nonResourceURLs": ["*"]},
    )
    rules = (
        (*anything, *rules_of(store, user, namespace)) if user.is_master else tuple(rules_of(store, user, namespace))
    )
    return {
        "incomplete": False,
        "resourceRules": [dict(rule) for rule in rules if "resources" in rule],
        "nonResourceRules": [dict(rule) for rule in rules if "nonResourceURLs" in rule],
    }
