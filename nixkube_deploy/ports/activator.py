"""Activating a closure on a host: native, nixos-rebuild and deploy-rs are three of these."""

from dataclasses import dataclass
from typing import Protocol

from nixkube_deploy.model.action import SwitchMode, WayBack
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import RunId, StorePath
from nixkube_deploy.ports.shell import OnLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One activation. ``run`` and the host make its transient unit unique and findable again after a crash."""

    run: RunId
    host: Host
    closure: StorePath
    mode: SwitchMode
    way_back: WayBack
    flake: str
    node_units: frozenset[str] = frozenset()
    """Units whose failure is fatal (exit code 4)."""
    dead_man: float = 900.0
    """Seconds after it last heard from us until the host takes itself back unless confirmed."""
    profile: StorePath | None = None
    """What the profile is set to where that is not ``closure``: the toplevel whose specialisation it is."""
    generation: int | None = None
    """The generation that already is that."""
    anew: bool = True
    """Whether a host that went back by itself is changed again. Not by a controller that lived to see it go back: then
    the change itself may be what cut the host off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """How it went well. ``changed`` is False when the host already was there."""

    changed: bool
    needs_reboot: bool = False
    """An inhibitor or a changed init interface turned the switch into ``boot``."""
    warnings: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    """What the host said about it, when it needs a reboot."""
    failed: tuple[str, ...] | None = None
    """Units that had failed when the host was last heard of, which then ran the closure; None: it must be asked."""


class Activator(Protocol):
    """Sets the profile and activates. Idempotent: what a killed controller began is found and finished, never repeated.

    Raises:
        TaskError: ACTIVATION, UNIT, LOCKED, INHIBITED with evidence; OutcomeUnknown is resolved here by probing.
    """

    async def activate(self, activation: Activation, on_line: OnLine | None = None) -> Activated:
        """Bring the host to the closure (SWITCH; for a trial, TEST) or make it boot there (BOOT)."""
        ...

    async def refuse(self, host: Host) -> Failure | None:
        """Why it cannot change this host at all, asked before any host is touched; None when it can."""
        ...

    async def confirm(self, activation: Activation) -> None:
        """Make it permanent, over a new connection."""
        ...
