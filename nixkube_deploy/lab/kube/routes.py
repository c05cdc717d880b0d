"""What a URL path means: discovery, or an object, a collection, a subresource.

It deliberately does nothing; ``api`` acts on the result.
"""

from dataclasses import dataclass

from nixkube_deploy.lab.kube.errors import no_such_path
from nixkube_deploy.lab.kube.resources import RESOURCES, Resource, groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """``/api/v1``, ``/apis/apps`` and their like; ``path`` without the slash at the end."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Objects of a resource: all, one namespace's, or one by name, perhaps a subresource of it."""

    resource: Resource
    namespace: str | None = None
    """None: every namespace."""
    name: str | None = None
    subresource: str = ""
    rest: str = ""
    """What follows a proxy subresource."""

    @property
    def key_namespace(self) -> str:
        """The namespace as object keys have it."""
        return self.namespace or ""


_NAMESPACED_PARTS = 3
_OWN_SUBRESOURCES = frozenset({"status", "finalize"})


def parse(path: str) -> Discovery | Target:
    """The meaning of a path.

    Raises:
        ApiError: 404, the server has no such path.
    """
    parts = [part for part in path.split("/") if part]
    match parts:
        case ["version" | "api" | "apis" | "healthz" | "readyz" | "livez"]:
            return Discovery(path=parts[0])
        case ["api", "v1"]:
            return Discovery(path="api/v1")
        case ["api", "v1", *rest]:
            return _target("", rest)
        case ["apis", group] if group in groups():
            return Discovery(path=f"apis/{group}")
        case ["apis", group, "v1"] if group in groups():
            return Discovery(path=f"apis/{group}/v1")
        case ["apis", group, "v1", *rest] if group in groups():
            return _target(group, rest)
        case _:
            raise no_such_path()


def _target(group: str, parts: list[str]) -> Target:
    namespace: str | None = None
    if parts[0] == "namespaces" and len(parts) >= _NAMESPACED_PARTS and parts[2] not in _OWN_SUBRESOURCES:
        namespace, parts = parts[1], parts[2:]
    resource = RESOURCES.get(parts[0])
    if resource is None or resource.group != group or (namespace is not None and not resource.namespaced):
        raise no_such_path()
    name = parts[1] if len(parts) > 1 else None
    subresource = parts[2] if len(parts) > 2 else ""  # noqa: PLR2004 (resource, name, subresource)
    if subresource and subresource not in {s.name for s in resource.subresources}:
        raise no_such_path()
    if name is not None and resource.namespaced and namespace is None:
        raise no_such_path()
    return Target(resource=resource, namespace=namespace, name=name, subresource=subresource, rest="/".join(parts[3:]))
