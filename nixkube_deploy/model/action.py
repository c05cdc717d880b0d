"""What a task does: a closed union of frozen values. Data, never callables, so that plans compare, print and travel."""

from dataclasses import dataclass
from enum import StrEnum

from nixkube_deploy.model.fleet import Activator
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.model.strategy import DrainOptions, Gates, RebootBlockers


class SwitchMode(StrEnum):
    """``switch-to-configuration``'s verb. ``dry-activate`` is none of a plan: it changes nothing (``app.trial``)."""

    SWITCH = "switch"
    """Run it now and boot it from now on."""
    BOOT = "boot"
    """Only boot it from now on."""
    TEST = "test"
    """Only run it now: a reboot goes back."""

    @property
    def runs_now(self) -> bool:
        """Whether the system that runs is another one afterwards."""
        return self in {SwitchMode.SWITCH, SwitchMode.TEST}

    @property
    def sets_profile(self) -> bool:
        """Whether the next boot is another one afterwards."""
        return self in {SwitchMode.SWITCH, SwitchMode.BOOT}


class InstallPhase(StrEnum):
    """nixos-anywhere's phases, in their order."""

    KEXEC = "kexec"
    REPORT = "report"
    """Ours: no phase of nixos-anywhere runs, it only writes the hardware report."""
    DISKO = "disko"
    INSTALL = "install"
    REBOOT = "reboot"


@dataclass(frozen=True, slots=True, kw_only=True)
class WayBack:
    """What a host was before its change, recorded so that going back never guesses "generation - 1"."""

    system: StorePath
    booted: StorePath | None
    generation: int | None
    boot_id: str
    profile: StorePath | None = None
    """What the profile is to be where that is not ``system``: the toplevel whose specialisation the host ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The barrier between staging and disruption. Does nothing itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyClosure:
    """Bring a closure into a host's store. Not a disruption."""

    host: HostName
    closure: StorePath


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallNixos:
    """One nixos-anywhere phase on a bare machine."""

    host: HostName
    phase: InstallPhase
    closure: StorePath
    disko: StorePath | None
    boot_id: str = ""
    """The machine's before anything was done to it."""
    serial: str = ""
    """The machine's, as it was seen when the plan was made; what is wiped must have it. Empty: it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitBlockers:
    """Wait until nothing of what the strategy names keeps this host from rebooting."""

    host: HostName
    blockers: RebootBlockers
    expect_node: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SpareVoter:
    """Make sure that etcd can spare this host's member now, and that another member leads."""

    host: HostName


@dataclass(frozen=True, slots=True, kw_only=True)
class CordonNode:
    """Own the node, then make it unschedulable."""

    host: HostName


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainNode:
    """Evict the node's pods as kubectl does."""

    host: HostName
    options: DrainOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchConfiguration:
    """Set the profile and activate a closure, with a recorded way back."""

    host: HostName
    closure: StorePath
    mode: SwitchMode
    activator: Activator
    way_back: WayBack
    profile: StorePath | None = None
    """What the profile is set to where that is not ``closure``: the toplevel whose specialisation it is."""
    generation: int | None = None
    """The generation that already is that; going back to it keeps its number."""
    fallback: tuple[StorePath, ...] = ()
    """As for ``RebootHost``, should it turn out that the host has to reboot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebootHost:
    """Reboot, unless the host already left ``boot_id`` behind and booted ``closure``."""

    host: HostName
    closure: StorePath
    boot_id: str
    fallback: tuple[StorePath, ...] = ()
    """With systemd-boot: the first of these that has a boot entry stays the default, and ``closure`` is booted once.
    Empty: a plain boot."""
    kexec: bool = False
    """Straight into the new kernel; through the firmware where that cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveHost:
    """Prove that the host runs (and, after a reboot, booted) the closure."""

    host: HostName
    closure: StorePath
    rebooted_from: str | None
    """The boot_id that must be gone; None when no reboot was asked for."""
    failed_before: tuple[str, ...] = ()
    """Units that were failed before the change; only new ones count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGate:
    """Wait until the host is back in every sense the inventory names."""

    host: HostName
    gates: Gates
    rebooted_from: str | None = None
    """The Node's bootID that must be gone."""
    expect_node: bool = True
    expect_etcd: bool = False
    """The host has an etcd member, which must vote and be healthy again."""
    kubernetes: str = ""
    """The version the Node's kubelet must be of, where that is known."""
    csi_drivers: tuple[str, ...] = ()
    """Storage drivers that were registered on the Node before the change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteEntry:
    """The boot entry of ``closure``, which was started once, becomes the default."""

    host: HostName
    closure: StorePath


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmActivation:
    """Disarm the dead-man timer over a new connection; the change is now permanent."""

    host: HostName
    closure: StorePath


@dataclass(frozen=True, slots=True, kw_only=True)
class UncordonNode:
    """Give the node back, unless it was cordoned before us."""

    host: HostName


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """Watch the host for ``seconds``; failing health ends the soak badly."""

    host: HostName
    seconds: float
    expect_node: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Take the host back to its recorded system, rebooting when the boot changed or must change."""

    host: HostName
    way_back: WayBack
    reboot: bool
    reboot_timeout: float = 600.0
    """Seconds until a host that was told to reboot counts as lost."""
    mode: SwitchMode = SwitchMode.SWITCH
    """TEST: the change left the profile alone, so going back does, too."""
    armed: bool = False
    """Whether the boot loader may have been told to boot the new system once, where no reboot was planned."""


Action = (
    Stage
    | CopyClosure
    | InstallNixos
    | AwaitBlockers
    | SpareVoter
    | CordonNode
    | DrainNode
    | SwitchConfiguration
    | RebootHost
    | ProveHost
    | OpenGate
    | PromoteEntry
    | ConfirmActivation
    | UncordonNode
    | Soak
    | RollBack
)
