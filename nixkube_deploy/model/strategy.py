"""How a rollout may proceed: parsed once from the inventory, printed by ``plan``, never consulted as text again."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Limit:
    """A number of hosts, or a percentage of a group (``25%``)."""

    value: int
    percent: bool = False

    def of(self, total: int) -> int:
        """How many of ``total`` hosts this is; a percentage rounds down (as Kubernetes' maxUnavailable)."""
        return total * self.value // 100 if self.percent else self.value

    def __str__(self) -> str:
        return f"{self.value}%" if self.percent else str(self.value)


class Mode(StrEnum):
    """When the next host may start."""

    ROLLING = "rolling"
    """As soon as the budget has room."""

    WAVES = "waves"
    """When the whole wave before it is done."""


class OnFailure(StrEnum):
    """What happens to a host that failed, and to the hosts that have not begun."""

    ROLLBACK = "rollback"
    HALT = "halt"
    CONTINUE = "continue"

    @property
    def rolls_back(self) -> bool:
        """Whether a failed host is taken back to its recorded system."""
        return self is OnFailure.ROLLBACK

    @property
    def keeps_going(self) -> bool:
        """Whether failures never stop the run."""
        return self is OnFailure.CONTINUE


class RebootPolicy(StrEnum):
    """Whether a change that needs a reboot gets one."""

    AUTO = "auto"
    NEVER = "never"
    ALWAYS = "always"


class RebootMethod(StrEnum):
    """How a host that is to reboot does."""

    REBOOT = "reboot"
    KEXEC = "kexec"
    """Straight into the new kernel, past firmware and boot loader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodBlocker:
    """Pods that must not be disturbed by a reboot of their Node: a label selector, in one namespace or in all."""

    selector: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertBlocker:
    """An instant query: while its result is not empty, no host reboots."""

    url: str
    query: str = 'ALERTS{alertstate="firing"}'
    timeout: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RebootBlockers:
    """What a reboot waits for, and for how long."""

    pods: tuple[PodBlocker, ...] = ()
    prometheus: tuple[AlertBlocker, ...] = ()
    timeout: float = 3600.0

    @property
    def any(self) -> bool:
        """Whether there is anything to wait for."""
        return bool(self.pods or self.prometheus)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOptions:
    """kubectl drain's knobs, in seconds. ``grace_period`` -1 means the pod's own."""

    enabled: bool = True
    timeout: float = 600.0
    grace_period: int = -1
    delete_emptydir_data: bool = True
    force: bool = False
    disable_eviction: bool = False
    live: bool = False
    """Drain also for a change that touches no node unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A weekly maintenance window in local time, in minutes after midnight; it may wrap midnight."""

    days: frozenset[int]
    """Days the window begins on, Monday is 0."""
    start: int
    end: int
    tz: str = "UTC"

    def contains(self, at: datetime) -> bool:
        """Whether ``at`` (aware) lies in the window; start is inside, end is not."""
        local = at.astimezone(ZoneInfo(self.tz))
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)

    def __str__(self) -> str:
        names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
        days = ",".join(names[d] for d in sorted(self.days))
        return f"{days} {self.start // 60:02}:{self.start % 60:02}-{self.end // 60:02}:{self.end % 60:02} {self.tz}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPolicy:
    """The part of the strategy that may differ from host to host (a group may override it)."""

    soak: float = 60.0
    drain: DrainOptions = DrainOptions()
    reboot: RebootPolicy = RebootPolicy.AUTO
    reboot_timeout: float = 600.0
    """Seconds a host may take to answer again with a new boot id."""
    reboot_method: RebootMethod = RebootMethod.REBOOT
    reboot_blockers: RebootBlockers = RebootBlockers()
    activation_timeout: float = 900.0
    """Seconds an activation may take before its outcome counts as unknown."""
    confirm_timeout: float = 300.0
    """Seconds beyond the slower of activation and gate in which a change is confirmed, or the host goes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """The fleet-wide rules of one rollout. ``max_unavailable`` of a group that sets its own is in ``Group``."""

    canary: int = 1
    max_unavailable: Limit = Limit(25, percent=True)
    mode: Mode = Mode.ROLLING
    spread: str | None = None
    """Label whose values (zones) are never disrupted two at once."""
    max_failures: Limit = Limit(0)
    on_failure: OnFailure = OnFailure.ROLLBACK
    windows: tuple[Window, ...] = ()
    host: HostPolicy = HostPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeletGate:
    """The node must be Ready for ``ready_for`` seconds without a break, within ``timeout`` seconds."""

    ready_for: float = 30.0
    timeout: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedPods:
    """Pods that must all be Ready wherever they run, and how many of them there must be at least."""

    selector: str
    namespace: str | None = None
    at_least: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PodsGate:
    """Which pods must be Ready again: of the node, and those of the whole cluster that the user names."""

    daemonsets: bool = True
    critical: bool = True
    selected: tuple[SelectedPods, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpGate:
    """``GET url`` from the controller must answer with status ``expect``."""

    url: str
    expect: int = 200
    timeout: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandGate:
    """A shell command that must exit 0; on the host itself unless ``on`` (a selector) names others."""

    run: str
    on: str | None = None
    timeout: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusGate:
    """An instant query whose result must be ``empty`` or ``nonempty``."""

    url: str
    query: str
    expect: str = "empty"
    timeout: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Everything that must hold before a host counts as back."""

    kubelet: KubeletGate = KubeletGate()
    pods: PodsGate = PodsGate()
    http: tuple[HttpGate, ...] = ()
    command: tuple[CommandGate, ...] = ()
    prometheus: tuple[PrometheusGate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Attempts with exponential back-off.

    Attempt n waits ``backoff * factor**(n-1)`` seconds, at most ``ceiling``, give or take the share ``jitter``.
    """

    attempts: int = 1
    backoff: float = 1.0
    factor: float = 2.0
    ceiling: float = 60.0
    jitter: float = 0.2

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait after failed ``attempt`` (from 1); ``chance`` in [0, 1) chooses within the jitter."""
        exponent = min(attempt - 1, 64)
        base = min(self.backoff * self.factor**exponent, self.ceiling)
        return base * (1 + self.jitter * (2 * chance - 1))
