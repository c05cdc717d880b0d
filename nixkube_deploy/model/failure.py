"""Expected failure as a value: what happened, where, the evidence, what was done, what to type next."""

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    """What went wrong, for programs; the message is for people."""

    UNREACHABLE = "unreachable"
    HOST_KEY = "host-key"
    AUTHENTICATION = "authentication"
    PRIVILEGE = "privilege"
    OUTCOME_UNKNOWN = "outcome-unknown"
    TIMEOUT = "timeout"
    COMMAND = "command"
    NOT_INSTALLED = "not-installed"
    """A program that the controller does not have."""
    EVALUATION = "evaluation"
    BUILD = "build"
    COPY = "copy"
    DISK_FULL = "disk-full"
    ACTIVATION = "activation"
    UNIT = "unit"
    INHIBITED = "inhibited"
    LOCKED = "locked"
    REBOOT = "reboot"
    FELL_BACK = "fell-back"
    """The host came back on the old system."""
    DRAIN = "drain"
    CLUSTER = "cluster"
    ETCD = "etcd"
    """A voter must not be taken away now."""
    GATE = "gate"
    INSTALL = "install"
    WIPE_GUARD = "wipe-guard"
    PREFLIGHT = "preflight"
    BUG = "bug"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One expected failure. ``evidence`` holds the last lines seen, oldest first, already sanitised by the backend."""

    kind: FailureKind
    message: str
    expected: str = ""
    seen: str = ""
    evidence: tuple[str, ...] = ()
    did: str = ""
    """What the tool did about it."""
    next: str = ""
    """The command or line to type next."""
    command: str = ""
    exit_code: int | None = None
    transient: bool = False
    """Whether another attempt may help; the engine retries only these."""
