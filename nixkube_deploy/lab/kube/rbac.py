"""Role-based access control: whether a user may do what a request asks, from the roles and bindings in the store.

It deliberately knows of the defaults only what every client needs: discovery, and asking about oneself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nixkube_deploy.lab.kube.errors import ApiError
from nixkube_deploy.lab.kube.http import Request
from nixkube_deploy.lab.kube.routes import Discovery, Target
from nixkube_deploy.lab.kube.store import Object, ObjectStore
from nixkube_deploy.lab.kube.users import User

Rule = Mapping[str, Any]

_ABOUT_ONESELF: Rule = {
    "apiGroups": ["authorization.k8s.io", "authentication.k8s.io"],
    "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"],
    "verbs": ["create"],
}
_DISCOVERY: Rule = {
    "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/readyz", "/version"],
    "verbs": ["get"],
}
DEFAULTS = (_ABOUT_ONESELF, _DISCOVERY)
"""What every authenticated user may: ``system:basic-user`` and ``system:discovery``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What somebody wants to do, in RBAC's words. ``path`` is set for what is no resource."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def full_resource(self) -> str:
        """``pods/eviction``."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def attempt_of(where: Discovery | Target, request: Request) -> Attempt:
    """What a request wants."""
    if isinstance(where, Discovery):
        return Attempt(verb=request.method.lower(), path=f"/{where.path}")
    return Attempt(
        verb=_verb(where, request),
        group=where.resource.group,
        resource=where.resource.plural,
        subresource=where.subresource,
        namespace=where.key_namespace,
        name=where.name or "",
    )


def check(store: ObjectStore, user: User, attempt: Attempt) -> None:
    """Raise 403 as the API server words it, unless the user may."""
    if not may(store, user, attempt):
        raise _forbidden(user, attempt)


def may(store: ObjectStore, user: User, attempt: Attempt) -> bool:
    """Whether the user may."""
    return user.is_master or any(covers(rule, attempt) for rule in rules_of(store, user, attempt.namespace))


def rules_of(store: ObjectStore, user: User, namespace: str) -> Iterator[Rule]:
    """Every rule that holds for the user in a namespace (or cluster-wide, when it is empty)."""
    yield from DEFAULTS
    for binding in store.all("clusterrolebindings"):
        yield from _granted(store, binding, user)
    for binding in store.all("rolebindings"):
        if namespace and binding["metadata"]["namespace"] == namespace:
            yield from _granted(store, binding, user)


def covers(rule: Rule, attempt: Attempt) -> bool:
    """Whether a rule allows an attempt."""
    if not _listed(rule, "verbs", attempt.verb):
        return False
    if attempt.path:
        return any(_path_matches(pattern, attempt.path) for pattern in rule.get("nonResourceURLs") or ())
    resources = {attempt.full_resource, "*"} | ({f"*/{attempt.subresource}"} if attempt.subresource else set())
    named = rule.get("resourceNames") or ()
    return (
        _listed(rule, "apiGroups", attempt.group)
        and bool(resources & set(rule.get("resources") or ()))
        and (not named or attempt.name in named)
    )


def _verb(target: Target, request: Request) -> str:
    watching = request.query.get("watch") in {"1", "true"}
    match request.method:
        case "GET" | "HEAD" if target.name is not None or target.subresource:
            return "watch" if watching else "get"
        case "GET" | "HEAD":
            return "watch" if watching else "list"
        case "DELETE":
            return "delete" if target.name is not None else "deletecollection"
        case method:
            return {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, method.lower())


def _granted(store: ObjectStore, binding: Object, user: User) -> Iterator[Rule]:
    if not any(_is_subject(subject, user, binding) for subject in binding.get("subjects") or ()):
        return
    reference, namespace = binding["roleRef"], binding["metadata"].get("namespace", "")
    if reference["kind"] == "ClusterRole":
        role = store.get("clusterroles", reference["name"])
    else:
        role = store.get("roles", reference["name"], namespace)
    if role is not None:
        yield from role.get("rules") or ()


def _is_subject(subject: Mapping[str, Any], user: User, binding: Object) -> bool:
    match subject.get("kind"):
        case "User":
            return bool(subject.get("name") == user.name)
        case "Group":
            return subject.get("name") in user.groups
        case "ServiceAccount":
            namespace = subject.get("namespace") or binding["metadata"].get("namespace", "")
            return user.name == f"system:serviceaccount:{namespace}:{subject.get('name')}"
        case _:
            return False


def _listed(rule: Rule, key: str, value: str) -> bool:
    return bool({value, "*"} & set(rule.get(key) or ()))


def _path_matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def _forbidden(user: User, attempt: Attempt) -> ApiError:
    if attempt.path:
        return ApiError(
            403, "Forbidden", f'forbidden: User "{user.name}" cannot {attempt.verb} path "{attempt.path}"', details={}
        )
    qualified = f"{attempt.resource}.{attempt.group}" if attempt.group else attempt.resource
    what = f'{qualified} "{attempt.name}"' if attempt.name else qualified
    where = f'in the namespace "{attempt.namespace}"' if attempt.namespace else "at the cluster scope"
    message = (
        f'{what} is forbidden: User "{user.name}" cannot {attempt.verb} resource "{attempt.full_resource}" '
        f'in API group "{attempt.group}" {where}'
    )
    details = {"name": attempt.name, "group": attempt.group, "kind": attempt.resource}
    return ApiError(403, "Forbidden", message, details={k: v for k, v in details.items() if v})
