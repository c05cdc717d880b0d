"""Who asks: users by bearer token or client certificate, as the API server authenticates them.

It deliberately decides nothing about rights; ``rbac`` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nixkube_deploy.lab.kube.errors import ApiError
from nixkube_deploy.lab.kube.http import Request
from nixkube_deploy.lab.kube.store import Object, ObjectStore

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
_PREFIX = "lab-token"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A name and the groups it is in."""

    name: str
    groups: tuple[str, ...] = ()

    @property
    def is_master(self) -> bool:
        """Whether RBAC is not even asked."""
        return MASTERS in self.groups


ADMIN = User(name="kubernetes-admin", groups=(MASTERS, AUTHENTICATED))


def service_account(namespace: str, name: str) -> User:
    """The user a service account's token stands for."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
    return User(name=f"system:serviceaccount:{namespace}:{name}", groups=groups)


@dataclass(slots=True, kw_only=True)
class Accounts:
    """The credentials that are accepted. Certificates count only on a server with TLS, which has checked them."""

    tokens: dict[str, User] = field(default_factory=dict)
    open_to_all: bool = False
    """Whoever shows nothing, or a token nobody knows, is the administrator: for rehearsals on loopback."""

    def user_of(self, request: Request, certificate: Mapping[str, Any] | None, store: ObjectStore) -> User:
        """The user behind a request.

        Raises:
            ApiError: 401, no credentials or unknown ones.
        """
        if certificate:
            return _of_certificate(certificate)
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip() if kind.lower() == "bearer" else ""
        user = self.tokens.get(token) or _of_service_account(store, token)
        if user is None and self.open_to_all:
            return ADMIN
        if user is None:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return user


def token_of(account: Object) -> str:
    """The token a service account is given; it is good as long as this very account exists."""
    meta = account["metadata"]
    return f"{_PREFIX}:{meta['namespace']}:{meta['name']}:{meta['uid']}"


def _of_service_account(store: ObjectStore, token: str) -> User | None:
    match token.split(":"):
        case [kind, namespace, name, uid] if kind == _PREFIX:
            account = store.get("serviceaccounts", name, namespace)
            found = account is not None and account["metadata"]["uid"] == uid
            return service_account(namespace, name) if found else None
        case _:
            return None


def _of_certificate(certificate: Mapping[str, Any]) -> User:
    """Common name and organisations, as ``ssl`` shows a peer's certificate."""
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    name = next((value for key, value in subject if key == "commonName"), "")
    groups = tuple(value for key, value in subject if key == "organizationName")
    return User(name=name, groups=(*groups, AUTHENTICATED))
