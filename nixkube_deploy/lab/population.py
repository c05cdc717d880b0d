"""From an inventory to machines: what each host of a fleet looks like before anybody deploys to it."""

import random
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from nixkube_deploy.lab.host import LabHost, Setting
from nixkube_deploy.lab.kube.state import KubeState
from nixkube_deploy.lab.kubelet import Identity, Kubelet, Phase
from nixkube_deploy.lab.machine import Loader, Machine, Personality
from nixkube_deploy.lab.recipe import Recipe
from nixkube_deploy.model.fleet import Fleet, Host

_DAYS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """What a new machine starts with."""

    port: int
    recipe: Recipe | None
    """None: a bare machine with a foreign system."""
    now: float


def create_machine(host: Host, birth: Birth) -> Machine:
    """A machine that has run for some days."""
    machine = Machine(
        name=host.name,
        hostname=host.name if birth.recipe else "debian",
        port=birth.port,
        architecture=host.system,
        machine_id=_expected_machine_id(host) or uuid.uuid4().hex,
        boot_id=str(uuid.uuid4()),
        serial=(host.bootstrap and host.bootstrap.expect_serial) or f"LAB-{host.name.upper()}",
        host_key=host.name,
        disks=list(host.bootstrap.disks if host.bootstrap else ()) or [f"/dev/disk/by-id/ata-LAB_{host.name.upper()}"],
        loader=Loader(kind="systemd-boot" if host.system.startswith("x86_64") else "generic-extlinux"),
        booted_at=birth.now - 3 * _DAYS,
    )
    if birth.recipe is None:
        machine.personality = Personality.DEBIAN
        machine.kernel_release = "6.12.57+deb13-amd64"
        return machine
    system = birth.recipe.toplevel
    machine.set_profile(system, birth.now - 30 * _DAYS)
    machine.install_loader((system,))
    machine.current = machine.booted = system
    machine.kernel_release = birth.recipe.configuration.kernel
    return machine


def _expected_machine_id(host: Host) -> str | None:
    return host.bootstrap.expect_machine_id if host.bootstrap else None


def embody(host: Host, machine: Machine, setting: Setting, fleet: Fleet, cluster: KubeState | None) -> LabHost:
    """The living host around a machine."""
    user = host.ssh.user or "root"
    lab_host = LabHost(machine, setting, user=user, privilege=str(host.privilege))
    lab_host.role = str(host.role)
    if cluster is not None and fleet.cluster.distribution.has_kubelet:
        identity = Identity(node=host.node or host.name, addresses=_addresses(host), labels=_labels(host))
        lab_host.kubelet = Kubelet(machine, identity, cluster, setting.faults)
    if machine.powered and machine.current is not None:
        recipe = setting.store.system(machine.current)
        if recipe is not None and not machine.units:
            lab_host.load_units(recipe)
    return lab_host


def wake(host: LabHost, now: float) -> None:
    """A host that ran all along: its kubelet is up at once and has long been so."""
    kubelet = host.kubelet
    if kubelet is None or kubelet.unit is None or not host.machine.powered:
        return
    kubelet.start(now)
    if kubelet.phase is Phase.STARTING and not kubelet.crash_loop:
        kubelet.since = now - 60
        kubelet.step(now)
        kubelet.since = now - 60
        kubelet.next_heartbeat = now
        kubelet.step(now)


def _addresses(host: Host) -> tuple[str, ...]:
    is_ip = host.address.replace(".", "").isdigit() or ":" in host.address
    return (host.address,) if is_ip else ()


def _labels(host: Host) -> dict[str, str]:
    labels = {
        "kubernetes.io/arch": "arm64" if host.system.startswith("aarch64") else "amd64",
        "kubernetes.io/os": "linux",
    }
    if host.role.is_control_plane:
        labels |= {"node-role.kubernetes.io/control-plane": "true", "node-role.kubernetes.io/etcd": "true"}
    zone = host.labels.get("zone")
    if zone:
        labels["topology.kubernetes.io/zone"] = zone
    return {**labels, **host.labels}


def jump_hosts(fleet: Fleet) -> tuple[str, ...]:
    """Jump hosts that are not hosts of the inventory themselves: ``user@name:port`` reduced to names, in order."""
    found: dict[str, None] = {}
    for host in fleet.hosts.values():
        for hop in (host.ssh.jump or "").split(","):
            name = jump_name(hop)
            if name and name != "none" and name not in fleet.hosts:
                found[name] = None
    return tuple(found)


def jump_name(hop: str) -> str:
    """``user@name:port`` without user and port."""
    return hop.strip().rpartition("@")[2].partition(":")[0]


def spread_ports(names: Collection[str], known: Mapping[str, int], fresh: list[int]) -> dict[str, int]:
    """Every name with a port: the one it had, or a fresh one."""
    remaining = iter(fresh)
    return {name: known[name] if name in known else next(remaining) for name in names}


CHANCE = random.Random()  # noqa: S311 (ports, not secrets)
