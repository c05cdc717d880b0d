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
    toplevel: StorePath | None = None
    """Where ``contents`` is a specialisation: the system it belongs to, which is copied and which the profile holds."""

    @property
    def out(self) -> StorePath:
        """The store path of what is to run."""
        return self.contents.path

    @property
    def profile(self) -> StorePath:
        """The store path of what is copied, and booted."""
        return self.toplevel or self.out


@dataclass(frozen=True, slots=True, kw_only=True)
class FlakeState:
    """Which flake was evaluated. ``revision`` changes whenever its content does."""

    url: str
    revision: str
    dirty: bool = False
