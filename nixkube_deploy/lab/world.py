"""The simulated world of one folder: machines, cluster, faults, and the time that passes in them.

It listens to hosts' SSH ports and the Kubernetes API; the control socket and the files for people are elsewhere.
"""

import asyncio
import json
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nixkube_deploy.lab import scaffold
from nixkube_deploy.lab.apiserver import Access
from nixkube_deploy.lab.clusterfaults import ClusterFaults
from nixkube_deploy.lab.commands.table import PROGRAMS
from nixkube_deploy.lab.faults import FLEET, Fault, FaultPlan, faults_from_plain, parse_fault
from nixkube_deploy.lab.host import LabHost, Setting
from nixkube_deploy.lab.keyring import CLIENT, WRONG, Keyring
from nixkube_deploy.lab.kube.server import KubeServer
from nixkube_deploy.lab.kube.state import KubeState
from nixkube_deploy.lab.kube.timing import REAL, SHORT
from nixkube_deploy.lab.kube.users import Accounts
from nixkube_deploy.lab.kubelet import Phase
from nixkube_deploy.lab.machine import Machine, machine_from_plain
from nixkube_deploy.lab.population import CHANCE, Birth, create_machine, embody, jump_hosts, wake
from nixkube_deploy.lab.ports import free_ports
from nixkube_deploy.lab.recipe import Configuration, Recipe, recipe_for
from nixkube_deploy.lab.sshd import Keys, SshPort
from nixkube_deploy.lab.store import ControllerStore
from nixkube_deploy.model.fleet import Distribution, Fleet, Host
from nixkube_deploy.model.names import HostName

TICK_SECONDS = 0.05
SAVE_SECONDS = 0.5
AWAY_SECONDS = 4 * TICK_SECONDS
"""How long the API is away each time nobody is seen to serve it."""
STATE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What whoever starts the lab asked for."""

    real_time: bool = False
    bare: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    reboot_seconds: float = 0.3


@dataclass(slots=True)
class World:
    """All of it. ``open`` and ``close`` bracket its life; between two lives it is a file."""

    folder: Path
    fleet: Fleet
    wishes: Wishes
    hosts: dict[str, LabHost] = field(default_factory=dict)
    faults: FaultPlan = field(default_factory=FaultPlan)
    kube: KubeState | None = None
    server: KubeServer | None = None
    kube_url: str = ""
    store: ControllerStore = field(init=False)
    keyring: Keyring = field(init=False)
    access: Access = field(init=False)
    _background: set[asyncio.Task[Any]] = field(default_factory=set)
    _dirty: bool = True

    def __post_init__(self) -> None:
        self.store = ControllerStore(self.folder / "store")
        self.keyring = Keyring(self.folder / "keys")
        self.access = Access(self.folder / "keys")

    @property
    def state_file(self) -> Path:
        """Where the world is between two lives."""
        return self.folder / "state.json"

    @property
    def jumps(self) -> tuple[str, ...]:
        """Jump hosts the inventory names without listing them as hosts."""
        return jump_hosts(self.fleet)

    def now(self) -> float:
        """The time of day in the world is everybody's."""
        return time.time()  # noqa: TID251 (the lab is a world with a clock of its own)

    # --- life ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Create or continue the world and listen everywhere."""
        scaffold.write_flake(self.fleet, self.folder / "flake")
        stored = json.loads(self.state_file.read_text()) if self.state_file.exists() else {}
        if stored and stored["version"] != STATE_VERSION:
            raise ValueError(f"{self.state_file} has version {stored['version']}, this lab writes {STATE_VERSION}")
        self.faults = faults_from_plain(stored.get("faults", []))
        self._make_cluster(stored)
        self._make_hosts(stored)
        self._seed(stored)
        for spec in self.wishes.faults:
            self.add_fault(spec)
        await asyncio.gather(*(self._open_port(host) for host in self.hosts.values()))
        if self.kube is not None:
            await self._serve_kube(int(stored.get("kube_port", 0)))
            self._apply_cluster_faults()
        self.save()
        self.spawn(self._pass_time())
        self.spawn(self._keep_saving())

    async def close(self) -> None:
        """Stop everything; the state is saved last."""
        for task in tuple(self._background):
            task.cancel()
        for host in self.hosts.values():
            host.abandon()
            if host.port is not None:
                await host.port.close()
        if self.server is not None:
            await self.server.close()
        self.save()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something for as long as the world lives."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _pass_time(self) -> None:
        while True:
            now = self.now()
            for host in self.hosts.values():
                host.step(now)
            if self.kube is not None:
                self.kube.tick(now)
                if self.faults.faults and (cluster := self._cluster_faults()) is not None:
                    cluster.strike()
                if self.server is not None and not self._control_plane_runs():
                    self.server.take_down(AWAY_SECONDS)
            await asyncio.sleep(TICK_SECONDS)

    def _control_plane_runs(self) -> bool:
        """Whether somebody serves the API, which has one address and every control-plane host behind it."""
        serving = [h for h in self.hosts.values() if h.role == "control-plane" and h.kubelet is not None]
        installed = [h for h in serving if h.kubelet is not None and h.kubelet.unit is not None]
        return not installed or any(_serves(host) for host in installed)

    # --- faults --------------------------------------------------------------------------------------------------

    def add_fault(self, spec: str) -> Fault:
        """Set a fault; raises FaultError."""
        fault = parse_fault(spec, frozenset(self.hosts))
        host = self.hosts.get(fault.host)
        fault.spared = host.machine.current if host else None
        self.faults.add(fault)
        self._apply_cluster_faults()
        self.touch()
        return fault

    async def refresh(self, host_name: str | None = None) -> None:
        """Let faults of ports and power take hold, or let go."""
        for host in self.hosts.values():
            if host_name not in (None, FLEET, host.name):
                continue
            if not host.machine.powered and not host.rebooting:
                if not any(self.faults.peek(host.name, kind) for kind in ("reboot-never-returns", "boot-fails")):
                    await host.power_on()
            elif host.machine.powered and host.port is not None:
                await host.port.open()

    async def clear_faults(self, host: str | None, kind: str | None) -> list[Fault]:
        """Remove faults; what they broke and power can mend is mended."""
        gone = self.faults.clear(host, kind)
        self._apply_cluster_faults()
        await self.refresh(host)
        self.touch()
        return gone

    def _cluster_faults(self) -> ClusterFaults | None:
        if self.kube is None:
            return None
        nodes = {host.name: host.kubelet.identity.node for host in self.hosts.values() if host.kubelet is not None}
        return ClusterFaults(plan=self.faults, state=self.kube, server=self.server, nodes=nodes)

    def _apply_cluster_faults(self) -> None:
        if (cluster := self._cluster_faults()) is not None:
            cluster.apply()

    # --- making --------------------------------------------------------------------------------------------------

    def _make_cluster(self, stored: dict[str, Any]) -> None:
        if not self.fleet.cluster.distribution.has_kubelet:
            return
        timing = REAL if self.wishes.real_time else SHORT
        if stored.get("kube"):
            self.kube = KubeState.from_plain(stored["kube"], now=self.now(), timing=timing)
        else:
            self.kube = KubeState(now=self.now(), timing=timing)

    def _make_hosts(self, stored: dict[str, Any]) -> None:
        machines = {plain["name"]: machine_from_plain(plain) for plain in stored.get("machines", [])}
        asleep = self.now() - float(stored.get("saved_at", self.now()))
        for machine in machines.values():
            for timer in machine.timers.values():
                timer.due += asleep
        wanted = self._wanted()
        missing = [name for name in wanted if name not in machines]
        known = {machine.port for machine in machines.values()}
        ports = dict(zip(missing, free_ports(len(missing), known, CHANCE), strict=True))
        before = scaffold.configurations_before(self.fleet, self.folder) if missing else {}
        setting = self._setting()
        for name, host in wanted.items():
            machine = machines.get(name) or self._birth(host, ports[HostName(name)], before)
            cluster = self.kube if name in self.fleet.hosts else None
            lab_host = embody(host, machine, setting, self.fleet, cluster)
            lab_host.port = self._port(lab_host)
            lab_host.password = self._password(host)
            self.hosts[name] = lab_host
        setting.peers.update(self.hosts)

    def _wanted(self) -> dict[HostName, Host]:
        jumps = {HostName(name): Host(name=HostName(name), address=name, groups=()) for name in self.jumps}
        return {**self.fleet.hosts, **jumps}

    def _setting(self) -> Setting:
        return Setting(
            store=self.store,
            faults=self.faults,
            programs=PROGRAMS,
            now=self.now,
            changed=self.touch,
            spawn=self.spawn,
            provided=self._provided,
            reboot_seconds=self.wishes.reboot_seconds,
        )

    def _birth(self, host: Host, port: int, before: dict[str, Configuration]) -> Machine:
        recipe: Recipe | None = None
        if host.name not in self.wishes.bare:
            configuration = before.get(host.name) or Configuration(host=host.name, system=host.system)
            recipe = recipe_for(configuration)
            self.store.instantiate(recipe)
            self.store.realise(recipe)
        return create_machine(host, Birth(port=port, recipe=recipe, now=self.now()))

    def _password(self, host: Host) -> str | None:
        if host.privilege_password is None:
            return None
        file = self.folder / "keys" / "sudo-password"
        return file.read_text().strip()

    def _port(self, host: LabHost) -> SshPort:
        keys = Keys(host_key=self.keyring.key, wrong=self.keyring.key(WRONG), authorized=self.keyring.key(CLIENT))
        self.keyring.key(host.machine.host_key)
        return SshPort(host, keys, self._may_forward_to)

    def _may_forward_to(self, address: str, port: int) -> bool:
        known = {host.machine.port for host in self.hosts.values()}
        return port in known and (address in ("127.0.0.1", "localhost") or address in self.hosts)

    async def _open_port(self, host: LabHost) -> None:
        if host.machine.powered and host.port is not None:
            await host.port.open()

    def _seed(self, stored: dict[str, Any]) -> None:
        now = self.now()
        if self.kube is None:
            return
        self.kube.tick(now)
        for host in self.hosts.values():
            wake(host, now)
        if not stored:
            self.kube.seed([host.kubelet.identity.node for host in self.hosts.values() if host.kubelet is not None])
        self.kube.tick(now)

    async def _serve_kube(self, port: int) -> None:
        assert self.kube is not None
        self.server = KubeServer(self.kube, accounts=Accounts(), tls=self.access.context())
        try:
            self.kube_url = await self.server.start(port=port)
        except OSError:
            self.kube_url = await self.server.start()

    def kubeconfig(self) -> str:
        """An admin kubeconfig for the simulated API."""
        return self.access.kubeconfig(self._context(), self.kube_url)

    def _context(self) -> str:
        return self.fleet.cluster.context or self.fleet.cluster.name

    def _provided(self, host: LabHost) -> dict[str, str]:
        """The admin kubeconfig, and an embedded etcd's data, lie on control-plane hosts that run their Kubernetes."""
        path, folder = self.fleet.cluster.distribution.admin_kubeconfig, self.fleet.cluster.distribution.etcd_folder
        runs = host.role == "control-plane" and host.kubelet is not None and host.kubelet.unit is not None
        if not path or not runs:
            return {}
        if self.fleet.cluster.distribution is Distribution.KUBERNETES:
            return self.access.files(path, self._context(), self.kube_url)
        data = {f"{folder}/db/etcd/config": "name: " + host.name + "\n"} if folder else {}
        return {path: self.kubeconfig()} | data

    # --- persistence ---------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Something changed that a next life must know."""
        self._dirty = True

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            if self._dirty:
                self.save()

    def save(self) -> None:
        """Write the state; never half of it."""
        self._dirty = False
        plain = {
            "version": STATE_VERSION,
            "saved_at": self.now(),
            "wishes": asdict(self.wishes),
            "kube_port": int(self.kube_url.rpartition(":")[2] or 0),
            "faults": self.faults.to_plain(),
            "machines": [host.machine.to_plain() for host in self.hosts.values()],
            "kube": self.kube.to_plain() if self.kube is not None else None,
        }
        temporary = self.state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(plain, separators=(",", ":")))
        temporary.replace(self.state_file)

    def status(self) -> list[dict[str, Any]]:
        """One row a host, for people and tests."""
        nodes = {node.name: node for node in self.kube.summary()} if self.kube is not None else {}
        return [_row(host, nodes) for host in self.hosts.values()]

    def pulse(self) -> dict[str, dict[str, bool]]:
        """Who serves and who does not, cheap enough to be asked many times a second."""
        nodes = {node.name: node for node in self.kube.summary()} if self.kube is not None else {}
        found = {}
        for host in self.hosts.values():
            node = nodes.get(host.kubelet.identity.node) if host.kubelet is not None else None
            away = node is not None and (node.unschedulable or not node.ready)
            serves = host.kubelet is not None and _serves(host)
            found[host.name] = {"powered": host.machine.powered, "away": away, "serves": serves}
        return found


def _serves(host: LabHost) -> bool:
    """Whether the unit that the API server is part of (or is started with) runs on a machine that is up."""
    assert host.kubelet is not None
    return host.machine.powered and not host.rebooting and host.kubelet.phase is not Phase.DOWN


def _row(host: LabHost, nodes: dict[str, Any]) -> dict[str, Any]:
    machine = host.machine
    node = nodes.get(host.kubelet.identity.node) if host.kubelet is not None else None
    return {
        "host": machine.name,
        "port": machine.port,
        "powered": machine.powered,
        "personality": str(machine.personality),
        "generation": machine.profile,
        "current": machine.current,
        "booted": machine.booted,
        "profile": machine.profile_system,
        "boot_id": machine.boot_id,
        "boots": machine.boots,
        "kernel": machine.kernel_release,
        "failed_units": sorted(unit.name for unit in machine.units.values() if unit.active == "failed"),
        "timers": sorted(machine.timers),
        "transient": sorted(unit.name for unit in machine.units.values() if unit.is_transient),
        "node": asdict(node) if node is not None else None,
        "activations": machine.activations,
        "commands": [asdict(deed) for deed in machine.commands],
    }
