"""Every right the backend may need, as RBAC spells it; ``docs/rbac.yaml`` grants exactly these.

It deliberately asks nobody whether we have them; ``cluster`` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALWAYS = ""
DISABLE_EVICTION = "drain.disable_eviction deletes pods instead of evicting them"
SYNC_LOOP = "without it a gate asks each kubelet over SSH only, which does not tell whether its sync loop runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One verb on one resource. ``only_for`` says what is lost without it; empty: nothing works."""

    verb: str
    resource: str
    """With its subresource: ``pods/eviction``."""
    group: str = ""
    namespace: str = ""
    """Empty: cluster-wide."""
    name: str = ""
    """The one object it is for; empty: any."""
    only_for: str = ALWAYS

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{where}"

    def review(self) -> Mapping[str, Any]:
        """The question to the API whether we have it."""
        resource, _, subresource = self.resource.partition("/")
        asked = {"verb": self.verb, "group": self.group, "resource": resource, "subresource": subresource}
        asked |= {"namespace": self.namespace, "name": self.name}
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
        }


_LOCK = {"resource": "leases", "group": "coordination.k8s.io", "namespace": "kube-system"}

RIGHTS = (
    Right(verb="get", resource="nodes"),
    Right(verb="list", resource="nodes"),
    Right(verb="patch", resource="nodes"),
    Right(verb="get", resource="pods"),
    Right(verb="list", resource="pods"),
    Right(verb="create", resource="pods/eviction"),
    Right(verb="get", resource="daemonsets", group="apps"),
    Right(verb="list", resource="poddisruptionbudgets", group="policy"),
    Right(verb="get", resource="csinodes", group="storage.k8s.io"),
    Right(verb="get", resource="leases", group="coordination.k8s.io", namespace="kube-node-lease"),
    Right(verb="create", **_LOCK),
    *(Right(verb=verb, name="nixkube-deploy", **_LOCK) for verb in ("get", "update", "delete")),
    Right(verb="delete", resource="pods", only_for=DISABLE_EVICTION),
    Right(verb="get", resource="nodes/proxy", only_for=SYNC_LOOP),
)
