"""What preparation found and what the command line chose: the input of every planner.

It deliberately decides nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.closure import Closure, FlakeState
from nixkube_deploy.model.etcd import Voice
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.packages import HostDifference


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is, what should be, and what could not be found out."""

    flake: FlakeState
    facts: Mapping[HostName, HostFacts] = field(default_factory=dict)
    closures: Mapping[HostName, Closure] = field(default_factory=dict)
    problems: Mapping[HostName, Failure] = field(default_factory=dict)
    """Hosts that could not be probed, evaluated or built."""
    without_drivers: Mapping[HostName, Failure] = field(default_factory=dict)
    """Why the storage drivers of a host's Node are not known."""
    voters: frozenset[HostName] = frozenset()
    """Hosts with an etcd voter, when that is known; control-plane hosts count as voters anyway."""
    etcd: Mapping[str, Voice] = field(default_factory=dict)
    """What every etcd member says, by host, or by its own name where it is on none of the inventory's."""
    differences: Mapping[HostName, HostDifference] = field(default_factory=dict)
    """How closures differ; only when that was asked for."""
    undrainable: Mapping[HostName, Failure] = field(default_factory=dict)
    """Hosts whose Node could not be drained, however long one waits."""
    drain_waits: Mapping[HostName, tuple[str, ...]] = field(default_factory=dict)
    """What draining a host would have to wait for, if it were drained now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the command line chose, beyond the strategy."""

    bootstrap: bool = False
    """Install NixOS on machines that have none."""
    only_install: bool = False
    """Do nothing else: a machine that runs another NixOS is refused, not switched."""
    yes_wipe: frozenset[HostName] = frozenset()
    """Hosts to wipe although a guard objects."""
    no_drain: bool = False
    mode: SwitchMode = SwitchMode.SWITCH
    """Now and from the next boot on, only one of the two, or a trial."""
    digest: str = ""
    """SHA-256 of the inventory's text."""
