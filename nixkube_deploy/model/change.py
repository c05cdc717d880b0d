"""What a host's change is, decided before the host is touched."""

from dataclasses import dataclass
from enum import StrEnum


class ChangeClass(StrEnum):
    """The five classes of change, from nothing to everything."""

    UNCHANGED = "unchanged"
    LIVE = "live"
    NODE_RESTART = "node-restart"
    REBOOT = "reboot"
    INSTALL = "install"

    @property
    def touches_host(self) -> bool:
        """Whether anything is done at all."""
        return self is not ChangeClass.UNCHANGED

    @property
    def takes_node_down(self) -> bool:
        """Whether pods must leave first."""
        return self in {ChangeClass.NODE_RESTART, ChangeClass.REBOOT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A class and the reasons for it, in words a person can check (``kernel: linux-6.12.7 -> linux-6.12.8``)."""

    kind: ChangeClass
    reasons: tuple[str, ...] = ()
