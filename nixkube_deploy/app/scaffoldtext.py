"""The texts of a new fleet that depend on what was asked for: inventory, ``cluster.nix``, one file a host.

Pure: values in, text out. What every fleet has in common is a file of the template.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A kind of machine: what Nix calls its processor, and the modules it needs."""

    title: str
    system: str
    modules: tuple[str, ...]
    """Of nixos-hardware."""
    from_card: bool = False
    """Started from an image that was written to a card; nothing is installed."""


_PI: Final = "started from the card it was written to"
HARDWARE: Final[Mapping[str, Hardware]] = MappingProxyType(
    {
        "intel": Hardware(
            title="a machine with one disk and UEFI",
            system="x86_64-linux",
            modules=("common-cpu-intel-cpu-only", "common-pc-ssd"),
        ),
        "amd": Hardware(
            title="a machine with one disk and UEFI", system="x86_64-linux", modules=("common-cpu-amd", "common-pc-ssd")
        ),
        "arm": Hardware(title="an ARM machine with one disk and UEFI", system="aarch64-linux", modules=()),
        "raspberry-pi-4": Hardware(
            title=f"a Raspberry Pi 4, {_PI}", system="aarch64-linux", modules=("raspberry-pi-4",), from_card=True
        ),
        "raspberry-pi-5": Hardware(
            title=f"a Raspberry Pi 5, {_PI}", system="aarch64-linux", modules=("raspberry-pi-5",), from_card=True
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One host to be."""

    name: str
    address: str
    is_control_plane: bool
    hardware: str = "intel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The fleet to be."""

    name: str
    distribution: str
    machines: tuple[Machine, ...]
    user: str = "deploy"
    keys: tuple[str, ...] = ()
    placeholders: bool = False
    """Whether the machines are examples."""

    @property
    def first(self) -> Machine:
        """The control-plane host that begins the cluster."""
        return next(machine for machine in self.machines if machine.is_control_plane)


EXAMPLES: Final = (
    Machine(name="cp1", address="203.0.113.11", is_control_plane=True),
    Machine(name="w1", address="203.0.113.21", is_control_plane=False),
    Machine(name="pi1", address="203.0.113.22", is_control_plane=False, hardware="raspberry-pi-4"),
)
"""In a network that RFC 5737 keeps for documentation: nobody's machine is contacted by mistake."""


def inventory_yaml(wanted: Wanted) -> str:
    """The inventory: who is where, and how a change goes."""
    groups = [f"  control-plane: {{role: control-plane, system: {_system(wanted, control_plane=True)}}}"]
    if not all(machine.is_control_plane for machine in wanted.machines):
        groups.append(f"  workers: {{role: worker, system: {_system(wanted, control_plane=False)}}}")
    hosts = [line for machine in wanted.machines for line in _host(wanted, machine)]
    return _INVENTORY.format(
        name=_quoted(wanted.name),
        distribution=wanted.distribution,
        user=_quoted(wanted.user),
        groups="\n".join(groups),
        hosts="\n".join(hosts),
    )


def _system(wanted: Wanted, *, control_plane: bool) -> str:
    alike = (machine for machine in wanted.machines if machine.is_control_plane is control_plane)
    return HARDWARE[next(alike).hardware].system


def _host(wanted: Wanted, machine: Machine) -> list[str]:
    group = "control-plane" if machine.is_control_plane else "workers"
    lines = [f"  {_quoted(machine.name)}:", f"    address: {_quoted(machine.address)}", f"    groups: [{group}]"]
    hardware = HARDWARE[machine.hardware]
    if hardware.system != _system(wanted, control_plane=machine.is_control_plane):
        lines.append(f"    system: {hardware.system}")
    if not hardware.from_card:
        lines.append(f"    bootstrap: {{disks: [{_disk(machine)}]}}")
    return lines


def cluster_nix(wanted: Wanted) -> str:
    """What all hosts share."""
    keys = "".join(f"\n        {_string(key)}" for key in wanted.keys)
    return _CLUSTER.format(
        name=_string(wanted.name),
        distribution=_string(wanted.distribution),
        first=_string(wanted.first.name),
        address=_string(wanted.first.address),
        first_name=wanted.first.name,
        user=_string(wanted.user),
        keys=f"[{keys}\n      ];" if keys else '[ ]; # "ssh-ed25519 AAAA... you@laptop"',
    )


def host_nix(machine: Machine) -> str:
    """One host: its hardware, its disk, its place in the cluster."""
    hardware = HARDWARE[machine.hardware]
    imports = [f"inputs.nixos-hardware.nixosModules.{name}" for name in hardware.modules]
    imports.append("../disks/sd-card.nix" if hardware.from_card else "../disks/single.nix")
    disk = "" if hardware.from_card else f"\n    disk = {_string(_disk(machine))};"
    return _HOST.format(
        name=machine.name,
        title=hardware.title,
        argument="{ inputs, ... }:" if hardware.modules else "{ ... }:",
        imports="\n".join(f"    {each}" for each in imports),
        system=_string(hardware.system),
        role=_string("control-plane" if machine.is_control_plane else "worker"),
        address=_string(machine.address),
        disk=disk,
        rest=_CARD if hardware.from_card else _DISK,
    )


def _disk(machine: Machine) -> str:
    return f"/dev/disk/by-id/REPLACE-{machine.name}"


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${")
    return f'"{escaped}"'


def _quoted(text: str) -> str:
    """YAML, where ``no`` is false and ``1e3`` is a number unless they are quoted."""
    plain = _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS
    return text if plain else json.dumps(text)


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._-]*|\d+(\.\d+){3}")
_YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}

_INVENTORY = """\
# The hosts of the cluster and how a change reaches them. `deploy schema` prints what else may stand here.
#
#   deploy check       is everything in order?
#   deploy plan        what would change?
#   deploy rehearse    the change on a simulated twin of this fleet
#   deploy apply       the change

cluster:
  name: {name}
  distribution: {distribution}

# Each host is nixosConfigurations.<host> of the flake beside this file.
flake: .

defaults:
  ssh: {{user: {user}}}
  privilege: sudo

strategy:
  canary: 1                # one host first, alone
  max_unavailable: 1       # then never more than one of a group
  on_failure: rollback     # a host that fails goes back to what worked

gates:
  kubelet: {{ready_for: 20s, timeout: 10m}}
  pods: {{daemonsets: true, critical: true}}

groups:
{groups}

hosts:
{hosts}
"""

_CLUSTER = """\
# What all hosts of the cluster share. The words are explained in modules/options.nix.
{{
  cluster = {{
    name = {name};
    distribution = {distribution}; # "k3s", or "kubernetes": the components of services.kubernetes

    firstHost = {first}; # begins the cluster; the others join it
    apiAddress = {address}; # {first_name}'s, or a virtual address in front of all control-plane hosts

    deployUser = {{
      name = {user};
      keys = {keys}
      from = [ ]; # such as "10.0.0.5": only from there
    }};

    # Network and storage: what they need of the hosts. Installing them is the cluster's business.
    cilium.enable = false;
    rook.enable = false;
    longhorn.enable = false;
  }};

  # What the hosts were installed with. It is not the version they run: leave it.
  system.stateVersion = "25.11";
}}
"""

_HOST = """\
# {name}: {title}.
{argument}
{{
  imports = [
{imports}
  ];

  nixpkgs.hostPlatform = {system};

  cluster = {{
    role = {role};
    address = {address};{disk}
  }};

{rest}}}
"""

_DISK = """\
  # What the first kernel needs to find the disk; `nixos-generate-config` on the machine knows better.
  boot.initrd.availableKernelModules = [
    "ahci"
    "nvme"
    "sd_mod"
    "usb_storage"
    "xhci_pci"
  ];
"""

_CARD = """\
  # The firmware leaves the memory controller group off; the kubelet does not run without it.
  boot.kernelParams = [
    "cgroup_enable=memory"
    "cgroup_memory=1"
  ];
"""
