"""Where a machine stands in the middle of its installation: the installer, the disks on /mnt, the system on them.

The installer's host key cannot be known, so what it says is trusted with nothing: it only tells which phase is next,
and refuses. The installed system is looked at with the key that was sent along, and with no other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import BootstrapSettings, Host, HostKeyPolicy, Privilege
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.ports.shell import Shell
from nixkube_deploy.protocols import probe
from nixkube_deploy.protocols.script import Question, ask

INSTALLER: Final = "installer"
"""``VARIANT_ID`` of NixOS installers."""

_AT_WORK: Final = "pgrep -f '[/]nix/store/[^ ]*disko|[n]ixos-install '"
"""The brackets keep the pattern from finding the shell that asks."""
_DISKS: Final = "/dev/disk/by-id"
_QUESTIONS: Final = (
    Question(name="release", command="cat /etc/os-release"),
    Question(name="boot_id", command="cat /proc/sys/kernel/random/boot_id"),
    Question(name="serial", command="cat /sys/class/dmi/id/product_serial"),
    Question(name="current", command=f"readlink -f {probe.CURRENT}"),
    Question(name="mounts", command="cat /proc/mounts"),
    Question(name="prepared", command=f"readlink -f /mnt{probe.PROFILE}"),
    Question(name="host_key", command="cat /mnt/etc/ssh/ssh_host_ed25519_key.pub"),
    Question(name="at_work", command=_AT_WORK),
    Question(name="disks", command=f"ls {_DISKS}"),
)
_MOUNTED: Final = re.compile(r"^\S+ /mnt(/\S*)? ", re.MULTILINE)
_KEY_FIELDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look at a machine that is being installed."""

    os_id: str
    variant: str
    boot_id: str
    serial: str = ""
    current: StorePath | None = None
    mounted: bool = False
    """Whether disks are on /mnt."""
    prepared: StorePath | None = None
    """The system that is installed on them."""
    host_key: str = ""
    """The public host key on them."""
    at_work: bool = False
    """Whether the disko script or nixos-install runs: that of a controller that was killed goes on."""
    disks: tuple[str, ...] = ()
    """The stable names of its disks, without their partitions."""
    missing: tuple[str, ...] = ()
    """Of the disks that the inventory names, those that are not there."""

    @property
    def in_installer(self) -> bool:
        """Whether it is a NixOS installer."""
        return self.variant == INSTALLER


async def look_at(shell: Shell, host: Host) -> Progress:
    """One round trip, over a new connection: the machine may be another system than a moment ago.

    Raises:
        TaskError: what ``Shell`` raises.
    """
    await shell.forget(host)
    disks = (host.bootstrap or BootstrapSettings()).disks
    asked = tuple(Question(name=f"disk.{disk}", command=f"test -e '{disk}' && echo yes") for disk in disks)
    return _progress(await ask(shell, host, (*_QUESTIONS, *asked)), disks)


async def look_if_there(shell: Shell, host: Host) -> Progress | None:
    """The same; None where nothing answers, or not to us."""
    try:
        return await look_at(shell, host)
    except TaskError:
        return None


def _progress(found: Mapping[str, str], disks: tuple[str, ...]) -> Progress:
    release, key = found.get("release", ""), found.get("host_key", "").split()
    return Progress(
        os_id=probe.os_release("ID")(release),
        variant=probe.os_release("VARIANT_ID")(release),
        boot_id=probe.boot_id(found.get("boot_id", "")),
        serial=found.get("serial", ""),
        current=probe.system_path(found.get("current", "")),
        mounted=_MOUNTED.search(found.get("mounts", "")) is not None,
        prepared=probe.system_path(found.get("prepared", "")),
        host_key=" ".join(key[:_KEY_FIELDS]) if len(key) >= _KEY_FIELDS else "",
        at_work=bool(found.get("at_work", "")),
        disks=tuple(f"{_DISKS}/{name}" for name in found.get("disks", "").split() if "-part" not in name),
        missing=tuple(disk for disk in disks if found.get(f"disk.{disk}") != "yes"),
    )


def as_installer(host: Host) -> Host:
    """How the machine is reached while the installer runs: as root, with whatever host key it has."""
    port = (host.bootstrap or BootstrapSettings()).installer_port or host.ssh.port
    ssh = replace(host.ssh, user="root", port=port, host_key=None, host_key_policy=HostKeyPolicy.ANY)
    return replace(host, ssh=ssh, privilege=Privilege.NONE)


def as_installed(host: Host, key: str) -> Host:
    """How it is reached from its first boot on: with the key that was sent along, and no other."""
    return replace(host, ssh=replace(host.ssh, host_key=key, host_key_policy=HostKeyPolicy.VERIFY))
