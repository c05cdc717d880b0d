"""Scripted faults: what goes wrong, where, how often. Asked by the parts of the world that misbehave.

A fault spec is ``HOST:KIND[=ARGUMENT][*TIMES]``; HOST may be ``fleet``. Without TIMES it holds until it is cleared.
"""

import difflib
import re
from dataclasses import asdict, dataclass, field
from typing import Any

FLEET = "fleet"
_SPEC = re.compile(r"(?P<host>[^:=*]+):(?P<kind>[a-z-]+)(?:=(?P<argument>.*?))?(?:\*(?P<times>\d+))?", re.DOTALL)


class FaultError(Exception):
    """A spec cannot be understood; ``hint`` says what could have been meant."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way to fail."""

    name: str
    summary: str
    argument: str = ""
    """What the argument means; empty when there is none."""
    default: str = ""
    required: bool = False
    spares: bool = False
    """Bound to the new system: the system that ran when the fault was set is not affected, so that going back works."""
    fleet: bool = False
    """Belongs to the whole fleet, not to a host."""


_ALL = (
    Kind(name="unreachable", summary="nothing answers on the SSH port", argument="refused|silent", default="refused"),
    Kind(name="slow", summary="every command takes longer", argument="seconds", default="0.5"),
    Kind(name="disconnect-during", summary="the connection drops while a command with this text runs on",
         argument="text", required=True),
    Kind(name="wrong-host-key", summary="the host presents another key"),
    Kind(name="other-host-key", summary="once installed, the host presents another key than the one sent along"),
    Kind(name="auth-refused", summary="the host refuses the key"),
    Kind(name="sudo-password-wrong", summary="sudo, doas and run0 refuse"),
    Kind(name="disk-full", summary="no space left", argument="store|boot", default="store"),
    Kind(name="eval-fails", summary="the host's configuration does not evaluate", argument="message", default=""),
    Kind(name="build-fails", summary="the host's system does not build", argument="message", default=""),
    Kind(name="copy-fails", summary="copying to the host breaks off"),
    Kind(name="copy-unsigned", summary="the host refuses unsigned paths"),
    Kind(name="switch", summary="switch-to-configuration of the new system ends badly",
         argument="1|2|4|100|inhibitor", required=True, spares=True),
    Kind(name="rollback-fails", summary="switch-to-configuration of the old system ends badly", argument="code",
         default="2"),
    Kind(name="unit-fails", summary="a unit fails on the new system", argument="unit", default="nginx.service",
         spares=True),
    Kind(name="activation-slow", summary="activation takes longer", argument="seconds", default="3"),
    Kind(name="lock-held", summary="somebody else holds the switch lock"),
    Kind(name="host-lock-held", summary="somebody else holds the host's deployment lock", argument="holder",
         default="another-run"),
    Kind(name="hang", summary="a program whose command line contains this text never ends", argument="text",
         required=True),
    Kind(name="reboot-never-returns", summary="the host stays down after a reboot, until cleared"),
    Kind(name="reboot-old-kernel", summary="the host comes back on the system it booted before"),
    Kind(name="boot-fails", summary="the new system's kernel panics and reboots, or hangs until cleared (power cycle)",
         argument="panic|hang", default="panic", spares=True),
    Kind(name="efi-read-only", summary="the firmware's variables cannot be written"),
    Kind(name="kexec-refused", summary="the kernel loads no other kernel"),
    Kind(name="kubelet-never-ready", summary="the new system's kubelet runs but the node never becomes Ready",
         spares=True),
    Kind(name="kubelet-dies", summary="the new system's kubelet crashes in a loop", spares=True),
    Kind(name="ready-flaps", summary="on the new system Ready comes and goes", argument="seconds", default="600",
         spares=True),
    Kind(name="lease-stale", summary="on the new system the kubelet posts once, then renews nothing", spares=True),
    Kind(name="lease-frozen", summary="the kubelet runs on, but neither its lease nor its status reaches the API"),
    Kind(name="other-address", summary="the kubelet registers under another address when it starts", argument="address",
         default="10.99.0.99"),
    Kind(name="node-missing", summary="the Node object is gone, and the kubelet cannot make it again until cleared"),
    Kind(name="pods-never-ready", summary="pods that start on this node never become Ready"),
    Kind(name="pods-stuck", summary="pods on this node never finish terminating"),
    Kind(name="pdb-blocks", summary="a budget on this node's pods allows no disruption"),
    Kind(name="etcd-member-down", summary="this host's etcd member does not answer"),
    Kind(name="etcd-learner", summary="this host's etcd member is a learner: it does not vote and serves no reads"),
    Kind(name="etcd-alarm", summary="this host's etcd member raised an alarm, which every member reports",
         argument="NOSPACE|CORRUPT", default="NOSPACE"),
    Kind(name="api-down", summary="the API goes away for a while once a node is cordoned", argument="seconds",
         default="5", fleet=True),
    Kind(name="api-silent", summary="the API takes requests and answers none for a while, once a node is cordoned",
         argument="seconds", default="5", fleet=True),
    Kind(name="api-throttled", summary="flow control answers requests with 429", fleet=True),
    Kind(name="eviction-throttled", summary="flow control answers evictions with 429", fleet=True),
    Kind(name="eviction-fails", summary="evictions fail with 500, as when an admission webhook is away", fleet=True),
)  # fmt: skip
KINDS = {kind.name: kind for kind in _ALL}


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault that was set."""

    host: str
    kind: str
    argument: str = ""
    remaining: int | None = None
    """None: no limit."""
    spared: str | None = None
    """The system that ran when the fault was set."""

    def __str__(self) -> str:
        argument = f"={self.argument}" if self.argument else ""
        return f"{self.host}:{self.kind}{argument}" + (f"*{self.remaining}" if self.remaining is not None else "")

    @property
    def seconds(self) -> float:
        """The argument as a duration."""
        return seconds_of(self.argument)


def seconds_of(text: str) -> float:
    """``5``, ``5s``, ``1.5s``, ``2m``; raises FaultError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|)", text)
    if match is None:
        raise FaultError(f"{text!r} is not a duration", "write 5s, 0.5s or 2m")
    return float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}[match[2]]


def parse_fault(spec: str, hosts: frozenset[str]) -> Fault:
    """One spec; raises FaultError with a suggestion."""
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise FaultError(f"{spec!r} is not a fault", "write HOST:KIND[=ARGUMENT][*TIMES], for example w2:switch=4*1")
    host, name, argument, times = match["host"], match["kind"], match["argument"], match["times"]
    kind = KINDS.get(name)
    if kind is None:
        raise FaultError(f"there is no fault {name!r}", _did_you_mean(name, KINDS) or "see nixkube-lab fault list")
    host, argument = _placed(kind, host, argument, hosts)
    if kind.required and not argument:
        raise FaultError(f"{name} needs an argument: {kind.argument}", f"for example {host}:{name}=...")
    if argument and not kind.argument:
        raise FaultError(f"{name} takes no argument", f"write {host}:{name}")
    value = argument if argument is not None else kind.default
    _check_argument(kind, value)
    return Fault(host=host, kind=name, argument=value, remaining=int(times) if times else None)


def _placed(kind: Kind, host: str, argument: str | None, hosts: frozenset[str]) -> tuple[str, str | None]:
    """``fleet:build-fails=w2`` is another spelling of ``w2:build-fails``."""
    if host == FLEET and not kind.fleet:
        if argument in hosts:
            return str(argument), None
        raise FaultError(f"{kind.name} belongs to one host", f"write HOST:{kind.name}")
    if kind.fleet:
        return FLEET, argument
    if host not in hosts:
        raise FaultError(f"there is no host {host!r}", _did_you_mean(host, hosts))
    return host, argument


def _check_argument(kind: Kind, value: str) -> None:
    choices = kind.argument.split("|")
    if len(choices) > 1 and value not in choices:
        raise FaultError(f"{kind.name} cannot be {value!r}", f"one of {', '.join(choices)}")
    if kind.argument == "seconds":
        seconds_of(value)
    if kind.argument == "code" and not value.isdigit():
        raise FaultError(f"{kind.name} needs an exit code, not {value!r}")


def _did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


@dataclass(slots=True)
class FaultPlan:
    """All faults that are set now."""

    faults: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Set one more."""
        self.faults.append(fault)

    def clear(self, host: str | None = None, kind: str | None = None) -> list[Fault]:
        """Remove those of a host, of a kind, or all; returns what was removed."""
        gone = [f for f in self.faults if host in (None, f.host) and kind in (None, f.kind)]
        self.faults = [f for f in self.faults if f not in gone]
        return gone

    def peek(self, host: str, kind: str, *, system: str | None = None) -> Fault | None:
        """The fault that holds now, if any. ``system`` is the one about to misbehave."""
        return next((f for f in self._live(host, kind) if system is None or system != f.spared), None)

    def take(self, host: str, kind: str, *, system: str | None = None) -> Fault | None:
        """As ``peek``, and one of its times is used up."""
        return self._used(self.peek(host, kind, system=system))

    def take_text(self, host: str, kind: str, text: str) -> Fault | None:
        """The fault whose argument occurs in ``text``, used up once."""
        return self._used(next((f for f in self._live(host, kind) if f.argument in text), None))

    def _live(self, host: str, kind: str) -> list[Fault]:
        if not self.faults:
            return []
        return [f for f in self.faults if f.host == host and f.kind == kind and f.remaining != 0]

    def _used(self, fault: Fault | None) -> Fault | None:
        if fault is not None and fault.remaining is not None:
            fault.remaining -= 1
        return fault

    def to_plain(self) -> list[dict[str, Any]]:
        """JSON-ready."""
        return [asdict(fault) for fault in self.faults]


def faults_from_plain(plain: list[dict[str, Any]]) -> FaultPlan:
    """The inverse of ``to_plain``."""
    return FaultPlan([Fault(**each) for each in plain])
