"""Which resources the lab's API server serves, as one table: discovery, routing, selectors and printing read it.

It deliberately lists only what the product, kubectl and people at a lab need; anything else is 404, as on a server
without that API group.
"""

from collections.abc import Iterator
from dataclasses import dataclass

Verb = str

_ALL: tuple[Verb, ...] = ("create", "delete", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subresource:
    """A path below an object, as discovery announces it."""

    name: str
    kind: str
    verbs: tuple[Verb, ...]
    group: str | None = None
    """Group of ``kind`` where it differs from the parent's (evictions live in ``policy``)."""
    version: str | None = None


_STATUS_VERBS: tuple[Verb, ...] = ("get", "patch", "update")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind of object. ``plural`` is unique here, so it names the resource everywhere."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    """Field selectors beyond ``metadata.name`` and ``metadata.namespace``."""
    subresources: tuple[Subresource, ...] = ()
    verbs: tuple[Verb, ...] = _ALL

    @property
    def is_stored(self) -> bool:
        """Whether objects of it exist: reviews are answered and forgotten."""
        return self.verbs == _ALL

    @property
    def api_version(self) -> str:
        """``v1`` or ``group/version``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        """The lower-case kind."""
        return self.kind.lower()

    @property
    def selectable(self) -> frozenset[str]:
        """Every field a fieldSelector may name."""
        return frozenset({"metadata.name", "metadata.namespace", *self.fields})

    @property
    def qualified(self) -> str:
        """The name error messages use: ``pods``, ``poddisruptionbudgets.policy``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _status(kind: str) -> Subresource:
    return Subresource(name="status", kind=kind, verbs=_STATUS_VERBS)


def _rbac(plural: str, kind: str, *, namespaced: bool = True) -> Resource:
    return Resource(plural=plural, kind=kind, group="rbac.authorization.k8s.io", namespaced=namespaced)


def _review(plural: str, kind: str, *, group: str = "authorization.k8s.io") -> Resource:
    return Resource(plural=plural, kind=kind, group=group, namespaced=False, verbs=("create",))


_EVICTION = Subresource(name="eviction", kind="Eviction", verbs=("create",), group="policy", version="v1")
_TOKEN = Subresource(name="token", kind="TokenRequest", verbs=("create",), group="authentication.k8s.io", version="v1")
_PROXY = Subresource(name="proxy", kind="NodeProxyOptions", verbs=("get",))

RESOURCES: dict[str, Resource] = {
    r.plural: r
    for r in (
        Resource(
            plural="namespaces", kind="Namespace", namespaced=False, short_names=("ns",), fields=("status.phase",)
        ),
        Resource(
            plural="nodes",
            kind="Node",
            namespaced=False,
            short_names=("no",),
            fields=("spec.unschedulable",),
            subresources=(_status("Node"), _PROXY),
        ),
        Resource(
            plural="pods",
            kind="Pod",
            short_names=("po",),
            fields=("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase", "status.podIP"),
            subresources=(_status("Pod"), _EVICTION),
        ),
        Resource(
            plural="events",
            kind="Event",
            short_names=("ev",),
            fields=(
                "involvedObject.kind",
                "involvedObject.name",
                "involvedObject.namespace",
                "involvedObject.uid",
                "reason",
                "type",
            ),
        ),
        Resource(plural="persistentvolumeclaims", kind="PersistentVolumeClaim", short_names=("pvc",)),
        Resource(plural="persistentvolumes", kind="PersistentVolume", namespaced=False, short_names=("pv",)),
        Resource(plural="configmaps", kind="ConfigMap", short_names=("cm",)),
        Resource(
            plural="daemonsets",
            kind="DaemonSet",
            group="apps",
            short_names=("ds",),
            subresources=(_status("DaemonSet"),),
        ),
        Resource(
            plural="deployments",
            kind="Deployment",
            group="apps",
            short_names=("deploy",),
            subresources=(_status("Deployment"),),
        ),
        Resource(
            plural="replicasets",
            kind="ReplicaSet",
            group="apps",
            short_names=("rs",),
            subresources=(_status("ReplicaSet"),),
        ),
        Resource(
            plural="statefulsets",
            kind="StatefulSet",
            group="apps",
            short_names=("sts",),
            subresources=(_status("StatefulSet"),),
        ),
        Resource(
            plural="poddisruptionbudgets",
            kind="PodDisruptionBudget",
            group="policy",
            short_names=("pdb",),
            subresources=(_status("PodDisruptionBudget"),),
        ),
        Resource(plural="leases", kind="Lease", group="coordination.k8s.io"),
        Resource(
            plural="storageclasses",
            kind="StorageClass",
            group="storage.k8s.io",
            namespaced=False,
            short_names=("sc",),
        ),
        Resource(plural="csinodes", kind="CSINode", group="storage.k8s.io", namespaced=False),
        Resource(plural="csidrivers", kind="CSIDriver", group="storage.k8s.io", namespaced=False),
        Resource(plural="volumeattachments", kind="VolumeAttachment", group="storage.k8s.io", namespaced=False),
        Resource(plural="serviceaccounts", kind="ServiceAccount", short_names=("sa",), subresources=(_TOKEN,)),
        _rbac("roles", "Role"),
        _rbac("rolebindings", "RoleBinding"),
        _rbac("clusterroles", "ClusterRole", namespaced=False),
        _rbac("clusterrolebindings", "ClusterRoleBinding", namespaced=False),
        _review("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
        _review("selfsubjectrulesreviews", "SelfSubjectRulesReview"),
        _review("subjectaccessreviews", "SubjectAccessReview"),
        _review("selfsubjectreviews", "SelfSubjectReview", group="authentication.k8s.io"),
    )
}
"""By plural name."""

BY_KIND: dict[str, Resource] = {r.kind: r for r in RESOURCES.values()}
"""By kind, which is unique here too."""


def groups() -> tuple[str, ...]:
    """The named API groups, in order of appearance."""
    return tuple(dict.fromkeys(r.group for r in RESOURCES.values() if r.group))


def in_group(group: str) -> Iterator[Resource]:
    """The resources of one group (the empty name is the core group)."""
    return (r for r in RESOURCES.values() if r.group == group)


def discovery(group: str) -> dict[str, object]:
    """The ``APIResourceList`` of a group."""
    entries: list[dict[str, object]] = []
    for r in in_group(group):
        entry: dict[str, object] = {
            "name": r.plural,
            "singularName": r.singular,
            "namespaced": r.namespaced,
            "kind": r.kind,
            "verbs": list(r.verbs),
        }
        if r.short_names:
            entry["shortNames"] = list(r.short_names)
        entries.append(entry)
        entries.extend(_announce(r, sub) for sub in r.subresources)
    version = "v1" if not group else f"{group}/v1"
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": entries}


def _announce(resource: Resource, sub: Subresource) -> dict[str, object]:
    entry: dict[str, object] = {
        "name": f"{resource.plural}/{sub.name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": list(sub.verbs),
    }
    if sub.group is not None and sub.version is not None:
        entry |= {"group": sub.group, "version": sub.version}
    return entry


def group_entry(group: str) -> dict[str, object]:
    """A group as ``/apis`` and ``/apis/<group>`` describe it."""
    version = {"groupVersion": f"{group}/v1", "version": "v1"}
    return {"name": group, "versions": [version], "preferredVersion": version}
