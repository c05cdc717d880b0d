"""The ports one run speaks to, in one value. Made by ``wiring``; tests make it of fakes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nixkube_deploy.app.lastseen import LastSeen
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.fleet import Activator as ActivatorName
from nixkube_deploy.model.fleet import Fleet
from nixkube_deploy.ports.activator import Activator
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.closures import Closures
from nixkube_deploy.ports.cluster import Cluster
from nixkube_deploy.ports.installer import Installer, Pins
from nixkube_deploy.ports.nix import Evaluator, Store
from nixkube_deploy.ports.shell import Shell
from nixkube_deploy.ports.web import Web


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything outside that a run may touch. ``cluster`` is None for plain hosts or with a ``cluster_problem``."""

    fleet: Fleet
    """The hosts that were asked for."""
    whole: Fleet
    """Every host of the inventory: one that is not to be touched may be the way to another, or may answer a gate."""
    clock: Clock
    shell: Shell
    evaluator: Evaluator
    store: Store
    closures: Closures
    activators: Mapping[ActivatorName, Activator]
    installer: Installer
    pins: Pins
    web: Web
    last_seen: LastSeen = field(default_factory=LastSeen)
    cluster: Cluster | None = None
    cluster_problem: Failure | None = None
