"""The Kubernetes API, as far as the product needs it: about a dozen calls, no policy."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from nixkube_deploy.model.cluster import DisruptionBudget, Lease, Node, Pod


class EvictionAnswer(StrEnum):
    """What the API said to an eviction."""

    ACCEPTED = "accepted"
    GONE = "gone"
    """404: the pod is no longer there."""
    BUDGET = "budget"
    """429 with cause DisruptionBudget: wait and ask again."""
    THROTTLED = "throttled"
    """429 without it (flow control), or a conflict: ask again soon."""
    TERMINATING = "terminating"
    """403, the namespace is terminating."""
    FAILED = "failed"
    """500: the server, or a webhook it asks, could not decide: ask again."""
    MULTIPLE_BUDGETS = "multiple-budgets"
    """500: more than one budget covers the pod; permanent until somebody changes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePatch:
    """Changes to a Node; None leaves a thing alone. An annotation or a taint set to None is removed."""

    unschedulable: bool | None = None
    annotations: tuple[tuple[str, str | None], ...] = ()
    taints: tuple[tuple[str, str | None], ...] = ()
    """Keys and values of taints with the effect PreferNoSchedule; None removes one. Others stay as they are."""
    resource_version: str | None = None
    """When set, the API refuses the patch (409) if the Node changed since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """An eviction's answer and the API's own words."""

    answer: EvictionAnswer
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRight:
    """Something the API would refuse us."""

    right: str
    """``patch nodes``."""
    only_for: str = ""
    """What is lost without it; empty: a run cannot do without."""


class Cluster(Protocol):
    """The API server. Short faults (restarts, throttling) are retried inside.

    Raises:
        TaskError: CLUSTER; transient when the API was unreachable, final when it refused (401, 403).
        LeaseConflict: a lease or node changed under us.
    """

    async def nodes(self) -> tuple[Node, ...]:
        """All Nodes."""
        ...

    async def node(self, name: str) -> Node | None:
        """One Node, None when there is none."""
        ...

    async def patch_node(self, name: str, patch: NodePatch) -> Node:
        """Change what the patch says and nothing else."""
        ...

    async def node_healthz(self, name: str) -> str | None:
        """The kubelet's ``/healthz`` through the node proxy; None where RBAC or the server does not allow it."""
        ...

    async def csi_drivers(self, node: str) -> frozenset[str]:
        """Driver names registered in the node's CSINode; empty when there is none."""
        ...

    async def pods(self, node: str) -> tuple[Pod, ...]:
        """All pods bound to the node, in every namespace."""
        ...

    async def selected_pods(self, selector: str, namespace: str | None) -> tuple[Pod, ...]:
        """All pods with these labels (as for ``kubectl -l``), in one namespace or in every one."""
        ...

    async def pod(self, namespace: str, name: str) -> Pod | None:
        """One pod, None when it is gone."""
        ...

    async def evict(self, pod: Pod, grace_period: int) -> Evicted:
        """Ask for an eviction; -1 keeps the pod's own grace period."""
        ...

    async def delete_pod(self, pod: Pod, grace_period: int) -> None:
        """Plain deletion, past every budget."""
        ...

    async def daemonset_exists(self, namespace: str, name: str) -> bool:
        """Whether the DaemonSet is still there."""
        ...

    async def budgets(self) -> tuple[DisruptionBudget, ...]:
        """All PodDisruptionBudgets."""
        ...

    async def lease(self, namespace: str, name: str) -> Lease | None:
        """One Lease, None when there is none."""
        ...

    async def put_lease(self, lease: Lease) -> Lease:
        """Create (no resource_version) or replace (with it), which makes a deleted one anew; renewTime is now."""
        ...

    async def delete_lease(self, lease: Lease) -> None:
        """Give a lease back; gone already is fine."""
        ...

    async def missing_rights(self) -> tuple[MissingRight, ...]:
        """Which of the rights that the product uses this user does not have."""
        ...


class LeaseConflict(Exception):  # noqa: N818 (what happened)
    """409: somebody else wrote first."""
