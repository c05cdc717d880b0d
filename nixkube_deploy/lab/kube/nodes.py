"""Nodes as their kubelets and the node lifecycle controller make them: statuses, Leases, taints.

A kubelet here is what a machine of the lab says through ``heartbeat`` and ``stopped``. It deliberately does not know
machines, nor what runs on the node (``pods`` does).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nixkube_deploy.lab.kube.objects import (
    HOSTNAME_LABEL,
    LIFECYCLE_TAINTS,
    NODE_LEASES,
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    condition,
    event,
    is_ready,
    lease,
    ready_status,
    with_condition,
)
from nixkube_deploy.lab.kube.store import Change, Object, ObjectStore, merged, micro_stamp, stamp
from nixkube_deploy.lab.kube.timing import Timing

_MAX_EVENTS = 400
_PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a kubelet says of its machine when it registers."""

    machine_id: str
    boot_id: str
    addresses: Sequence[str] = ()
    kernel_version: str = ""
    kubelet_version: str = ""
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Kubelet:
    """What the cluster cannot see directly: whether a kubelet runs and can reach the API."""

    alive: bool = True
    ready: bool = True
    posted: float = 0.0
    """When it last posted a status."""
    renewed: float = 0.0
    """When its Lease was last seen to move, by the controller's own clock."""
    frozen: bool = False
    """A fault: it runs, but neither Lease nor status gets through."""


class NodeLifecycle:
    """Registers nodes, takes heartbeats, and makes silent nodes Unknown."""

    def __init__(self, store: ObjectStore, timing: Timing) -> None:
        self.kubelets: dict[str, Kubelet] = {}
        self.refused: set[str] = set()
        """Nodes whose kubelet may not register (a fault)."""
        self.cut: set[str] = set()
        """Nodes from which nothing reaches the API (a fault)."""
        self._facts: dict[str, Registration] = {}
        self._waiting: set[str] = set()
        """Nodes whose kubelet has not managed to register yet, and tries again."""
        self._store = store
        self._timing = timing
        self._dirty: set[str] = set()
        self._next_look = 0.0
        store.subscribe(self._note)

    def register(self, name: str, facts: Registration) -> None:
        """What a kubelet does when it first meets the API: create its Node, or take over the one that is there."""
        self.kubelets[name] = Kubelet(renewed=self._store.now, posted=self._store.now)
        self._facts[name] = facts
        if name in self.refused or name in self.cut:
            self._waiting.add(name)
            return
        self._waiting.discard(name)
        known = self._store.get("nodes", name)
        if known is not None and facts.addresses:
            addresses = _addresses(name, facts)
            if addresses != known["status"].get("addresses"):
                self._store.put(merged(known, status={"addresses": addresses}))
        if known is None:
            self._store.create(_new_node(name, facts, self._store.now))
            self._store.create({"kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": []}})
        self._renew(name)

    def heartbeat(self, name: str, *, ready: bool, reason: str, news: Mapping[str, str | None]) -> bool:
        """Renew the Lease and post the status if it changed; ``news`` is nodeInfo. Whether a new boot was seen."""
        if name in self._waiting and name not in self.refused | self.cut:
            self.register(name, self._facts[name])
        kubelet = self.kubelets.get(name, Kubelet())
        node = self._store.get("nodes", name)
        self.kubelets[name] = replace(kubelet, alive=True, ready=ready)
        if kubelet.frozen or name in self.cut or node is None:
            return False  # A kubelet whose Node was deleted does not make another before it starts anew.
        self._renew(name)
        info = {**node["status"]["nodeInfo"], **{key: value for key, value in news.items() if value is not None}}
        rebooted = bool(info["bootID"] != node["status"]["nodeInfo"]["bootID"])
        posted = merged(node, status={"nodeInfo": info})
        if ready_status(node) == "Unknown":
            posted = _calm(posted, self._store.now)
        posted = with_condition(posted, _ready_condition(reason, self._store.now, ready=ready), self._store.now)
        old, new = condition(node, "Ready"), condition(posted, "Ready")
        same = info == node["status"]["nodeInfo"] and all(old.get(k) == new.get(k) for k in ("status", "message"))
        if not same or self._store.now - kubelet.posted >= self._timing.status_period:
            self._store.put(posted)
            self.kubelets[name] = replace(self.kubelets[name], posted=self._store.now)
        if rebooted:
            self.emit(posted, "Warning", "Rebooted", f"Node {name} has been rebooted, boot id: {info['bootID']}")
        return rebooted

    def stopped(self, name: str) -> None:
        """The kubelet ended; the API learns of it only by silence."""
        if name in self.kubelets:
            self.kubelets[name] = replace(self.kubelets[name], alive=False)

    def refuse(self, name: str) -> None:
        """Begin the fault in which the Node is taken away and not taken back."""
        self.refused.add(name)
        node = self._store.get("nodes", name)
        if node is not None:
            self._store.remove(node)
        if name in self._facts:
            self._waiting.add(name)

    def freeze(self, name: str, *, frozen: bool) -> None:
        """Begin or end the fault in which a running kubelet's heartbeats do not arrive."""
        self.kubelets[name] = replace(self.kubelets.get(name, Kubelet()), frozen=frozen)

    def runs(self, name: str) -> bool:
        """Whether the node's kubelet acts on what the API says."""
        kubelet = self.kubelets.get(name)
        return kubelet is not None and kubelet.alive and name not in self.cut

    def works(self, name: str) -> bool:
        """Whether it also says that it is ready to run pods."""
        kubelet = self.kubelets.get(name)
        return kubelet is not None and self.runs(name) and kubelet.ready

    def tick(self) -> None:
        """The controller's round: silent nodes become Unknown, taints follow conditions and cordons."""
        if self._store.now >= self._next_look:
            self._next_look = self._store.now + self._timing.node_period
            for known in self._store.all("nodes"):
                self._look(known)
        for name in sorted(self._dirty):
            node = self._store.get("nodes", name)
            if node is None:
                continue
            wanted = _taints(node, self._store.now)
            if wanted != node["spec"].get("taints", []):
                self._store.put(merged(node, spec={"taints": wanted}))
        self._dirty.clear()

    def resume(self) -> None:
        """Count silence from now on, after a saved state was loaded."""
        now = self._store.now
        self.kubelets = {name: replace(k, renewed=now) for name, k in self.kubelets.items()}
        self._next_look = now

    def emit(self, about: Object, kind: str, reason: str, message: str) -> None:
        """Record an Event, dropping the oldest beyond a few hundred."""
        self._store.create(event(about, kind, reason, message, self._store.now))
        if self._store.count("events") > _MAX_EVENTS:
            self._store.remove(self._store.all("events")[0])

    def _look(self, node: Object) -> None:
        name = node["metadata"]["name"]
        kubelet = self.kubelets.setdefault(name, Kubelet(alive=False, renewed=self._store.now))
        silent = self._store.now - kubelet.renewed
        if silent <= self._timing.node_grace or ready_status(node) == "Unknown":
            return
        for kind in (*_PRESSURES, "Ready"):
            unknown = {
                "type": kind,
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastHeartbeatTime": condition(node, kind).get("lastHeartbeatTime"),
            }
            node = with_condition(node, unknown, self._store.now)
        self._store.put(node)
        self.emit(node, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady")

    def _renew(self, name: str) -> None:
        now = self._store.now
        held = self._store.get("leases", name, NODE_LEASES)
        if held is None:
            self._store.create(lease(name, now))
        else:
            self._store.put(merged(held, spec={"renewTime": micro_stamp(now)}))

    def _note(self, change: Change) -> None:
        if change.resource == "nodes":
            node = change.after or change.before
            assert node is not None
            self._dirty.add(node["metadata"]["name"])
        elif change.resource == "leases" and change.after is not None:
            meta = change.after["metadata"]
            if meta["namespace"] == NODE_LEASES and meta["name"] in self.kubelets:
                name = meta["name"]
                self.kubelets[name] = replace(self.kubelets[name], renewed=self._store.now)


def _new_node(name: str, facts: Registration, now: float) -> Object:
    amount = {"cpu": "4", "memory": "8152304Ki", "pods": "110", "ephemeral-storage": "61255492Ki"}
    arch = (facts.labels or {}).get("kubernetes.io/arch", "amd64")
    labels = {HOSTNAME_LABEL: name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch, **(facts.labels or {})}
    node: Object = {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {}},
        "spec": {"providerID": f"lab://{name}"},
        "status": {
            "capacity": amount,
            "allocatable": amount,
            "addresses": _addresses(name, facts),
            "nodeInfo": {
                "machineID": facts.machine_id,
                "systemUUID": facts.machine_id,
                "bootID": facts.boot_id,
                "kernelVersion": facts.kernel_version,
                "osImage": "NixOS 25.05 (Warbler)",
                "containerRuntimeVersion": "containerd://2.0.5",
                "kubeletVersion": facts.kubelet_version,
                "kubeProxyVersion": facts.kubelet_version,
                "operatingSystem": "linux",
                "architecture": arch,
            },
            "conditions": [],
        },
    }
    return with_condition(_calm(node, now), _ready_condition("", now, ready=True), now)


def _addresses(name: str, facts: Registration) -> list[dict[str, str]]:
    internal = [{"type": "InternalIP", "address": address} for address in facts.addresses]
    return [*internal, {"type": "Hostname", "address": name}]


def _calm(node: Object, now: float) -> Object:
    """Without pressure of any kind."""
    for kind in _PRESSURES:
        calm = {"type": kind, "status": "False", "reason": f"KubeletHasNo{kind}", "message": "kubelet has no pressure"}
        node = with_condition(node, {**calm, "lastHeartbeatTime": stamp(now)}, now)
    return node


def _ready_condition(reason: str, now: float, *, ready: bool) -> dict[str, Any]:
    return {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "KubeletReady" if ready else "KubeletNotReady",
        "message": "kubelet is posting ready status" if ready else reason or "container runtime is not ready",
        "lastHeartbeatTime": stamp(now),
    }


def _taints(node: Object, now: float) -> list[dict[str, Any]]:
    present = node["spec"].get("taints", [])
    taints = [t for t in present if t["key"] not in LIFECYCLE_TAINTS]
    wanted: list[dict[str, Any]] = []
    if node["spec"].get("unschedulable"):
        wanted.append({"key": UNSCHEDULABLE, "effect": "NoSchedule"})
    if not is_ready(node):
        key = UNREACHABLE if ready_status(node) == "Unknown" else NOT_READY
        wanted += [{"key": key, "effect": "NoSchedule"}, {"key": key, "effect": "NoExecute"}]
    for taint in wanted:
        old = next((t for t in present if (t["key"], t["effect"]) == (taint["key"], taint["effect"])), None)
        taints.append(old or {**taint, "timeAdded": stamp(now)})
    return taints
