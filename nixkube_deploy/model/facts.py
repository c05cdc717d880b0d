"""What is: one probe of a host, one look at its Node."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nixkube_deploy.model.etcd import Voice
from nixkube_deploy.model.names import HostName, NodeName, StorePath

DEPLOY_RS_WRAPPER = "activatable-"
"""deploy-rs sets the profile to a wrapper around the system, named so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemContents:
    """What distinguishes one NixOS system closure from another, read from the toplevel. Empty string: absent."""

    path: StorePath
    kernel: str = ""
    initrd: str = ""
    kernel_modules: str = ""
    kernel_params: str = ""
    systemd: str = ""
    inhibitors: str = ""
    """The text of ``switch-inhibitors``."""
    init_interface: str = ""
    """The text of ``init-interface-version``: ``switch`` ends with 100 where it is another one."""
    dbus: str = ""
    """What ``dbus.service`` resolves to: ``dbus-broker.service`` is another implementation than ``dbus.service``."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Unit name to the store path its file resolves to; on a host only the units that were asked for.

    A drop-in counts as a unit of its own, ``k3s.service.d/overrides.conf``.
    """
    boot_sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the kernel and the initrd by their paths; known only of systems in the controller's store."""
    kubernetes: str = ""
    """Version of the Kubernetes its node unit starts (``1.31.4``), where it can be read."""

    @property
    def boot_parts(self) -> tuple[str, str, str, str]:
        """What only a reboot can change: kernel, initrd, modules, parameters."""
        return self.kernel, self.initrd, self.kernel_modules, self.kernel_params


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpace:
    """Free bytes; None where the mount point does not exist."""

    store: int | None = None
    boot: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What the Kubernetes API says of the host's Node."""

    name: NodeName
    ready: bool
    unschedulable: bool = False
    cordoned_by: str | None = None
    """Run id in our owner annotation."""
    marked_by: str | None = None
    """The run whose taint says that the Node is still to come."""
    boot_id: str = ""
    kernel_version: str = ""
    kubelet_version: str = ""
    csi_drivers: frozenset[str] = frozenset()
    """Storage drivers registered on it; also empty where that was not asked, or not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """Everything one round trip tells. ``current`` is None on a machine that does not run NixOS."""

    host: HostName
    system: str
    boot_id: str
    machine_id: str
    kernel_release: str = ""
    os_id: str = "nixos"
    variant: str = ""
    """``VARIANT_ID`` of os-release; ``installer`` is a NixOS installer, which runs NixOS but is no installation."""
    hostname: str = ""
    serial: str = ""
    """DMI product serial, when readable."""
    current: SystemContents | None = None
    booted: SystemContents | None = None
    profile: StorePath | None = None
    generation: int | None = None
    specialisations: tuple[StorePath, ...] = ()
    """The systems that are specialisations of the profile's."""
    tested: StorePath | None = None
    """The system that was last activated with ``--mode test`` since the boot."""
    uid: int | None = None
    """Whom one logs in as; 0 is root."""
    loader: str = "unknown"
    """``systemd-boot``, ``grub``, ``generic-extlinux`` or ``unknown``."""
    disk: DiskSpace = DiskSpace()
    failed_units: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    """Our transient units still known to systemd (a run that was cut off)."""
    etcd: Voice | None = None
    """What the host's etcd member says of itself, or why it says nothing; None: the host has none."""
    node: NodeFacts | None = None
    namesake: NodeName | None = None
    """A Node with the host's name that is not this machine: another one that is away, or was."""
    missing_disks: tuple[str, ...] = ()
    """Of the disks the inventory lets be wiped, those it does not have; only asked where it may be installed."""
    disks: tuple[str, ...] = ()
    """The stable names of its disks; asked with them."""

    @property
    def runs_nixos(self) -> bool:
        """Whether the machine can be switched at all; an installer cannot."""
        return self.current is not None and self.variant != "installer"

    @property
    def is_healthy(self) -> bool:
        """Whether the cluster can count on the host now. A plain host (no Node) that answers is healthy."""
        return (self.etcd is None or self.etcd.serves) and (self.node is None or self.node.ready)

    @property
    def runs_specialisation(self) -> bool:
        """Whether what runs is a specialisation of what the profile holds: that is no drift."""
        return self.current is not None and self.current.path in self.specialisations

    @property
    def boots_another(self) -> bool:
        """Whether the profile, and with it the next boot, is another system than the running one."""
        if self.current is None or self.profile is None or self.deployed_by_deploy_rs:
            return False
        return self.profile != self.current.path and not self.runs_specialisation

    @property
    def deployed_by_deploy_rs(self) -> bool:
        """Whether the profile holds deploy-rs' wrapper, which alone it can activate again."""
        return self.profile is not None and DEPLOY_RS_WRAPPER in self.profile

    @property
    def on_trial(self) -> bool:
        """Whether the running system was only activated with ``--mode test``: a reboot is the way back, not ahead."""
        return self.boots_another and self.current is not None and self.current.path == self.tested

    @property
    def reboot_pending(self) -> bool:
        """Whether the running kernel is not the current system's, or the next boot brings a newer system."""
        if self.current is None:
            return False
        stale = self.booted is not None and self.current.boot_parts != self.booted.boot_parts
        return stale or (self.boots_another and not self.on_trial)
