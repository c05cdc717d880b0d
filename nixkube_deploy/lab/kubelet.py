"""One machine's kubelet: registers the node, sends heartbeats, and misbehaves as scripted.

It keeps no clock and starts no task: whoever owns the world calls ``step`` several times a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from nixkube_deploy.lab.faults import FaultPlan
from nixkube_deploy.lab.kube.state import KubeState
from nixkube_deploy.lab.machine import Machine

START_SECONDS = 0.2
SETTLE_SECONDS = 0.15
HEARTBEAT_SECONDS = 0.2
FLAP_PERIOD, FLAP_READY = 1.1, 0.2
"""Ready for a moment in every period: seen by some looks, held by none."""
RESTART_SECONDS = 1.0
UNITS = ("k3s.service", "rke2-server.service", "rke2-agent.service", "kubelet.service")
_SUFFIX = {"k3s.service": "+k3s1", "rke2-server.service": "+rke2r1", "rke2-agent.service": "+rke2r1"}


class Phase(StrEnum):
    """What the process is doing."""

    DOWN = "down"
    STARTING = "starting"
    RUNNING = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the node is called, beyond what its machine says."""

    node: str
    addresses: tuple[str, ...]
    labels: Mapping[str, str]


@dataclass(slots=True)
class Kubelet:
    """The process and what it has told the API."""

    machine: Machine
    identity: Identity
    cluster: KubeState
    faults: FaultPlan
    phase: Phase = Phase.DOWN
    since: float = 0.0
    next_heartbeat: float = 0.0
    never_ready: bool = False
    crash_loop: bool = False
    stale: bool = False
    flap_until: float = 0.0

    @property
    def unit(self) -> str | None:
        """The unit it runs in, as the machine's configuration has it."""
        return next((name for name in UNITS if name in self.machine.units), None)

    @property
    def version(self) -> str:
        """As the Node reports it."""
        unit = self.unit
        return f"v{self.machine.units[unit].version}{_SUFFIX.get(unit, '')}" if unit else ""

    def start(self, now: float) -> None:
        """The process begins; faults bound to the new system take hold now."""
        if self.unit is None:
            return
        name, system = self.machine.name, self.machine.current
        self.phase, self.since = Phase.STARTING, now
        self.never_ready = self.faults.take(name, "kubelet-never-ready", system=system) is not None
        self.crash_loop = self.faults.take(name, "kubelet-dies", system=system) is not None
        self.stale = self.faults.take(name, "lease-stale", system=system) is not None
        flaps = self.faults.take(name, "ready-flaps", system=system)
        self.flap_until = now + flaps.seconds if flaps else 0.0

    def stop(self) -> None:
        """The process ends; the API notices by silence."""
        if self.phase is not Phase.DOWN:
            self.phase = Phase.DOWN
            self.cluster.kubelet_stopped(self.identity.node)

    def step(self, now: float) -> None:
        """Whatever is due."""
        match self.phase:
            case Phase.DOWN:
                return
            case Phase.STARTING if self.crash_loop:
                self._crash(now)
            case Phase.STARTING if now - self.since >= START_SECONDS:
                self._register(now)
            case Phase.RUNNING if now >= self.next_heartbeat:
                self._heartbeat(now)
            case _:
                return

    def healthz(self) -> tuple[int, str] | None:
        """Status and body on port 10248; None when nothing listens."""
        if self.phase is not Phase.RUNNING:
            return None
        return (200, "ok")

    def is_ready(self, now: float) -> bool:
        """What the kubelet thinks of itself."""
        if self.phase is not Phase.RUNNING or self.never_ready or now - self.since < SETTLE_SECONDS:
            return False
        return now >= self.flap_until or (now - self.since) % FLAP_PERIOD > FLAP_PERIOD - FLAP_READY

    def _register(self, now: float) -> None:
        machine = self.machine
        moved = self.faults.peek(machine.name, "other-address")
        self.phase, self.since = Phase.RUNNING, now
        self._log(f"Starting kubelet {self.version}")
        if self.never_ready:
            self._log("Container runtime network not ready: NetworkReady=false: cni plugin not initialized")
        self.cluster.register_node(
            self.identity.node,
            machine_id=machine.machine_id,
            boot_id=machine.boot_id,
            addresses=(moved.argument,) if moved else self.identity.addresses,
            kernel_version=machine.kernel_release,
            kubelet_version=self.version,
            labels=self.identity.labels,
        )
        # A stale kubelet registers and is never heard of again; its Node stays Ready until the grace ends.
        self.cluster.freeze_lease(self.identity.node, frozen=self.stale)
        self._heartbeat(now)

    def _heartbeat(self, now: float) -> None:
        machine = self.machine
        ready = self.is_ready(now)
        restless = not ready or now < self.flap_until
        self.next_heartbeat = now + (SETTLE_SECONDS / 2 if restless else HEARTBEAT_SECONDS)
        if self.stale:
            return
        self.cluster.heartbeat(
            self.identity.node,
            ready=ready,
            reason="KubeletReady" if ready else "KubeletNotReady",
            boot_id=machine.boot_id,
            kernel_version=machine.kernel_release,
            kubelet_version=self.version,
        )

    def _crash(self, now: float) -> None:
        """The service manager starts it again and again."""
        unit = self.machine.units.get(self.unit or "")
        if unit is None or now - self.since < RESTART_SECONDS:
            return
        self.since = now
        unit.restarts += 1
        unit.active, unit.sub, unit.result, unit.main_status = "activating", "auto-restart", "exit-code", 1
        self._log("failed to run Kubelet: misconfiguration: kubelet cgroup driver is different")
        self.cluster.kubelet_stopped(self.identity.node)

    def _log(self, line: str) -> None:
        if self.unit is not None:
            self.machine.log(self.unit, line)
