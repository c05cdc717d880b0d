"""The few Kubernetes objects the product reads and writes, as values. Field names follow the API."""

from collections.abc import Mapping
from dataclasses import dataclass, field

OWNER_ANNOTATION = "nixkube-deploy.io/owner"
"""On a Node: the run id that cordoned it. Written before the cordon."""

PRIOR_ANNOTATION = "nixkube-deploy.io/prior-unschedulable"
"""On a Node: ``true`` when it was cordoned before us and must stay so."""

TO_COME_TAINT = "nixkube-deploy.io/to-come"
"""On a Node that a run takes out of service later, with the effect PreferNoSchedule: the run id."""

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
"""On static pods' mirrors, which cannot be evicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A Node. ``ready`` is the Ready condition's status: ``True``, ``False`` or ``Unknown``."""

    name: str
    uid: str = ""
    ready: str = "Unknown"
    ready_reason: str = ""
    ready_message: str = ""
    ready_since: str = ""
    """The Ready condition's lastTransitionTime, as the API wrote it: compared, never read as a time."""
    unschedulable: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    """``key:effect``."""
    marked_by: str | None = None
    """The run whose taint says that the Node is still to come."""
    addresses: tuple[str, ...] = ()
    """InternalIP, ExternalIP and Hostname values."""
    machine_id: str = ""
    boot_id: str = ""
    kernel_version: str = ""
    kubelet_version: str = ""
    resource_version: str = ""
    volumes_attached: tuple[str, ...] = ()
    """Names in ``status.volumesAttached``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A Pod, with what draining and gating ask about."""

    namespace: str
    name: str
    uid: str
    node: str = ""
    phase: str = "Running"
    ready: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    owner_kind: str | None = None
    """Kind of the controlling owner, None when unmanaged. A kind outside Kubernetes' own is ``Kind.group``."""
    owner_name: str | None = None
    priority_class: str = ""
    has_emptydir: bool = False
    deleting_since: float | None = None
    """deletionTimestamp as seconds since the epoch."""

    @property
    def is_mirror(self) -> bool:
        """Whether the kubelet owns it (a static pod)."""
        return MIRROR_ANNOTATION in self.annotations

    @property
    def is_finished(self) -> bool:
        """Whether it will never run again."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def has_operator(self) -> bool:
        """Whether something that is not Kubernetes' own controls it."""
        return self.owner_kind is not None and "." in self.owner_kind

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequirement:
    """One of a selector's matchExpressions."""

    key: str
    operator: str
    """``In``, ``NotIn``, ``Exists`` or ``DoesNotExist``."""
    values: frozenset[str] = frozenset()

    def admits(self, labels: Mapping[str, str]) -> bool:
        """Whether ``labels`` satisfy it; an operator nobody knows admits nothing."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels
            case _:
                return False


@dataclass(frozen=True, slots=True, kw_only=True)
class DisruptionBudget:
    """A PodDisruptionBudget and what its status allows now. With an empty selector it covers its whole namespace."""

    namespace: str
    name: str
    match_labels: Mapping[str, str] = field(default_factory=dict)
    match_expressions: tuple[LabelRequirement, ...] = ()
    disruptions_allowed: int = 0
    healthy: int = 0
    """``status.currentHealthy``."""
    desired: int = 0
    """``status.desiredHealthy``."""
    expected: int = 0
    """``status.expectedPods``."""
    is_observed: bool = False
    """Whether the numbers are of the budget as it is now, and the controller could count."""
    spares_unready: bool = True
    """Whether it protects also pods that are not Ready (``unhealthyPodEvictionPolicy`` is not ``AlwaysAllow``)."""

    @property
    def never_allows(self) -> bool:
        """Whether it allows no disruption even when every one of its pods is healthy."""
        return self.is_observed and self.disruptions_allowed <= 0 and 0 < self.expected <= self.desired

    def selects(self, pod: Pod) -> bool:
        """Whether the budget covers the pod."""
        return (
            pod.namespace == self.namespace
            and self.match_labels.items() <= pod.labels.items()
            and all(requirement.admits(pod.labels) for requirement in self.match_expressions)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A coordination.k8s.io Lease. Times are the API's own strings: two observations are compared, never clocks."""

    namespace: str
    name: str
    holder: str = ""
    renew_time: str = ""
    duration: int = 0
    """Seconds."""
    resource_version: str = ""
