"""What should be: a host's system closure, evaluated and built."""

from dataclasses import dataclass

from nixkube_deploy.model.facts import SystemContents
from nixkube_deploy.model.names import HostName, StorePath


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One host's configuration after evaluation: the derivation and the path it will have."""

    host: HostName
    drv: str
    out: StorePath
    system: str
    attr: str = ""
    """The attribute path it was evaluated from, for what else that configuration can build (the disko script)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """A built system, with what classification needs."""

    host: HostName
    drv: str
    contents: SystemContents
    system: str
    disko: StorePath | None = None
    """The disko script, for hosts that are to be installed."""

    @property
    def out(self) -> StorePath:
        """The toplevel's store path."""
        return self.contents.path


@dataclass(frozen=True, slots=True, kw_only=True)
class FlakeState:
    """Which flake was evaluated. ``revision`` changes whenever its content does."""

    url: str
    revision: str
    dirty: bool = False
