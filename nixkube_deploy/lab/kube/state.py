"""A whole simulated cluster as one state machine: kubelets drive it, the API writes to it, ``tick`` moves it.

Time comes in through ``tick``. It deliberately opens no socket and starts no task; ``server`` does.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, Unpack

from nixkube_deploy.lab.kube import seed
from nixkube_deploy.lab.kube.budgets import Budgets
from nixkube_deploy.lab.kube.deletion import Deletion
from nixkube_deploy.lab.kube.nodes import Kubelet, NodeLifecycle, Registration
from nixkube_deploy.lab.kube.objects import is_ready, is_terminating
from nixkube_deploy.lab.kube.pods import PodLifecycle
from nixkube_deploy.lab.kube.resources import BY_KIND, RESOURCES
from nixkube_deploy.lab.kube.scheduler import Scheduler
from nixkube_deploy.lab.kube.store import Change, Object, ObjectStore, key_of, merged
from nixkube_deploy.lab.kube.taints import TaintEviction
from nixkube_deploy.lab.kube.timing import SHORT, Timing
from nixkube_deploy.lab.kube.workloads import Workloads

STATE_VERSION = 1


class KubeletFacts(TypedDict):
    """What a kubelet says of its machine when it registers."""

    machine_id: str
    boot_id: str
    addresses: NotRequired[Iterable[str]]
    kernel_version: NotRequired[str]
    kubelet_version: NotRequired[str]
    labels: NotRequired[Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSummary:
    """What ``nixkube-lab status`` says of a node."""

    name: str
    ready: bool
    unschedulable: bool
    pods: int


class KubeState:
    """The cluster. Cheap to tick when nothing happens."""

    def __init__(self, *, now: float = 0.0, timing: Timing = SHORT, version: str = "v1.31.4+k3s1") -> None:
        self.version = version
        self.timing = timing
        self.store = ObjectStore(now)
        self.nodes = NodeLifecycle(self.store, timing)
        self.pods = PodLifecycle(self.store, self.nodes, timing)
        self.budgets = Budgets(self.store)
        self.deletion = Deletion(self.store, self.pods)
        self._taints = TaintEviction(self.store, self.deletion, timing)
        self._workloads = Workloads(self.store, self.deletion)
        self._scheduler = Scheduler(self.store)

    @property
    def now(self) -> float:
        """Seconds since the epoch, as of the last tick."""
        return self.store.now

    # What machines say.

    def register_node(self, name: str, **facts: Unpack[KubeletFacts]) -> None:
        """A kubelet starts on a machine; its Node is created unless it is there already."""
        registration = Registration(
            machine_id=facts["machine_id"],
            boot_id=facts["boot_id"],
            addresses=tuple(facts.get("addresses", ())),
            kernel_version=facts.get("kernel_version", ""),
            kubelet_version=facts.get("kubelet_version", self.version),
            labels=facts.get("labels"),
        )
        self.nodes.register(name, registration)

    def heartbeat(
        self,
        name: str,
        *,
        ready: bool,
        reason: str = "",
        boot_id: str | None = None,
        kernel_version: str | None = None,
        kubelet_version: str | None = None,
    ) -> None:
        """A running kubelet renews its Lease and posts its status; a new ``boot_id`` restarts the node's pods."""
        news = {"bootID": boot_id, "kernelVersion": kernel_version, "kubeletVersion": kubelet_version}
        if kubelet_version is not None:
            news["kubeProxyVersion"] = kubelet_version
        if self.nodes.heartbeat(name, ready=ready, reason=reason, news=news):
            self.pods.boot(name)

    def kubelet_stopped(self, name: str) -> None:
        """The kubelet ended; the Node stays Ready until its Lease is older than the grace period."""
        self.nodes.stopped(name)

    # Faults.

    def freeze_lease(self, name: str, *, frozen: bool = True) -> None:
        """A running kubelet whose heartbeats do not arrive."""
        self.nodes.freeze(name, frozen=frozen)

    def refuse_node(self, name: str, *, refused: bool = True) -> None:
        """Take the Node object away, and let no kubelet make it again until this ends."""
        if refused:
            self.nodes.refuse(name)
        else:
            self.nodes.refused.discard(name)

    def hold_pods(self, name: str, *, held: bool = True) -> None:
        """Pods on the node start but never become Ready."""
        (self.pods.held.add if held else self.pods.held.discard)(name)

    def keep_pods(self, name: str, *, kept: bool = True) -> None:
        """Pods on the node never finish terminating: a runtime that hangs, a volume that cannot be unmounted."""
        (self.pods.stuck.add if kept else self.pods.stuck.discard)(name)

    def cut_off(self, name: str, *, cut: bool = True) -> None:
        """A node between which and the API nothing gets through, whatever its kubelet does."""
        (self.nodes.cut.add if cut else self.nodes.cut.discard)(name)

    def block_drain(self, name: str) -> None:
        """Put a pod on the node that its budget never lets go; a later call with the same node changes nothing."""
        for manifest in seed.stubborn(name):
            self.apply(manifest)

    def unblock_drain(self, name: str) -> None:
        """Take that pod and its budget away."""
        for manifest in seed.stubborn(name):
            found = self.find(manifest["kind"], manifest["metadata"]["name"], manifest["metadata"]["namespace"])
            if found is not None:
                self.store.remove(found)

    def block_budgets(self) -> None:
        """Raise every budget so that it allows no disruption at all."""
        for budget in self.store.all("poddisruptionbudgets"):
            self.store.put({**budget, "spec": {"selector": budget["spec"]["selector"], "maxUnavailable": 0}})

    # Time.

    def tick(self, now: float) -> None:
        """Let every controller have its round. Time never goes back."""
        self.store.now = max(now, self.store.now)
        self.nodes.tick()
        self.deletion.tick()
        self._workloads.tick()
        self._scheduler.tick()
        self.pods.tick()
        self._taints.tick()
        self._workloads.tick()
        self.budgets.tick()

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call ``listener`` after every write; the result ends it."""
        self.store.subscribe(listener)
        return lambda: self.store.unsubscribe(listener)

    # Content.

    def seed(self, nodes: Iterable[str]) -> None:
        """Create the default workload for these nodes, unless it is there."""
        for manifest in seed.manifests(len(tuple(nodes))):
            self.apply(manifest)

    def apply(self, manifest: Object) -> Object:
        """Create an object, or leave the one of that name alone."""
        meta = manifest["metadata"]
        return self.find(manifest["kind"], meta["name"], meta.get("namespace", "")) or self.store.create(manifest)

    def find(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """One object by kind."""
        return self.store.get(BY_KIND[kind].plural, name, namespace)

    def node_of_pod(self, namespace: str, name: str) -> str:
        """The node a pod is bound to; empty when it is pending or gone."""
        pod = self.store.get("pods", name, namespace)
        return "" if pod is None else str(pod["spec"].get("nodeName", ""))

    def summary(self) -> tuple[NodeSummary, ...]:
        """One row a node, by name."""
        return tuple(
            NodeSummary(
                name=node["metadata"]["name"],
                ready=is_ready(node),
                unschedulable=bool(node["spec"].get("unschedulable")),
                pods=sum(1 for p in self.store.pods_on(node["metadata"]["name"]) if not is_terminating(p)),
            )
            for node in sorted(self.store.all("nodes"), key=lambda n: n["metadata"]["name"])
        )

    def set_cordon(self, name: str, *, unschedulable: bool) -> None:
        """Somebody else's cordon, for rehearsals of a fleet in which a node is cordoned already."""
        node = self.store.get("nodes", name)
        if node is not None:
            self.store.put(merged(node, spec={"unschedulable": unschedulable}))

    # Persistence.

    def to_plain(self) -> dict[str, Any]:
        """Everything as JSON data."""
        objects = [obj for resource in RESOURCES for obj in self.store.all(resource)]
        kubelets = {n: {"alive": k.alive, "ready": k.ready, "frozen": k.frozen} for n, k in self.nodes.kubelets.items()}
        return {
            "version": STATE_VERSION,
            "kubernetes": self.version,
            "now": self.now,
            "revision": self.store.version,
            "minted": self.store.minted,
            "held": sorted(self.pods.held),
            "refused": sorted(self.nodes.refused),
            "stuck": sorted(self.pods.stuck),
            "cut": sorted(self.nodes.cut),
            "kubelets": kubelets,
            "objects": objects,
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any], *, now: float, timing: Timing = SHORT) -> "KubeState":
        """The cluster ``to_plain`` described, taken up at ``now``: kubelets get a fresh grace period.

        Raises:
            ValueError: another version of the format.
        """
        if data.get("version") != STATE_VERSION:
            raise ValueError(f"saved cluster state has version {data.get('version')!r}, expected {STATE_VERSION}")
        state = cls(now=now, timing=timing, version=data["kubernetes"])
        state.store.restore(data["objects"], data["revision"], data["minted"])
        state.nodes.kubelets = {name: Kubelet(**fields) for name, fields in data["kubelets"].items()}
        state.nodes.resume()
        state.pods.held |= set(data["held"])
        state.nodes.refused |= set(data.get("refused", ()))
        state.pods.stuck |= set(data.get("stuck", ()))
        state.nodes.cut |= set(data.get("cut", ()))
        for pod in sorted(state.store.all("pods"), key=key_of):
            state.store.put(pod)  # A write each: every controller learns of every pod, as after a restart of its own.
        state._workloads.touch_all()
        state.deletion.sweep()
        for node in state.store.all("nodes"):
            state.store.put(node)
        return state
