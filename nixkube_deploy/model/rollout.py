"""The plan as people and files know it: per host what will change and why, and the graph that does it."""

from dataclasses import dataclass

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.change import Change
from nixkube_deploy.model.closure import FlakeState
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName, NodeName, StorePath
from nixkube_deploy.model.packages import ClosureSizes, SharedChanges
from nixkube_deploy.model.strategy import Strategy
from nixkube_deploy.model.task import TaskGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """One host's line in the plan."""

    host: HostName
    change: Change | None
    """None when the host could not be planned; ``problem`` says why."""
    wave: int | None = None
    """1 is the first; None when nothing is done."""
    current: StorePath | None = None
    target: StorePath | None = None
    boot_id: str = ""
    profile: StorePath | None = None
    """What the profile held where ``current`` was a specialisation of it; a rollback restores both."""
    node: NodeName | None = None
    """The Node it was when the plan was made; whoever resumes the run may find the host down, in mid-reboot."""
    risks: tuple[str, ...] = ()
    skipped: str = ""
    """Why nothing will be done although something could be."""
    problem: Failure | None = None
    sizes: ClosureSizes | None = None
    """How big its closures are and what must travel; only when that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A reviewed rollout: exactly these store paths in exactly this order, or a refusal."""

    inventory: str
    """Absolute path of the inventory."""
    digest: str
    """SHA-256 of the inventory's text; a changed inventory is refused."""
    flake: FlakeState
    hosts: tuple[HostPlan, ...]
    graph: TaskGraph
    notes: tuple[str, ...] = ()
    """What holds for the whole run: budgets, windows, what an activator cannot promise."""
    mode: SwitchMode = SwitchMode.SWITCH
    """Whether it is for now and for the next boot, for one of them, or only a trial."""
    strategy: Strategy | None = None
    """What it was planned by, the command line's options included; None in plans of before this was recorded."""
    differences: tuple[SharedChanges, ...] = ()
    """What changes in the closures, package by package, for hosts that change alike; only when that was asked for."""

    @property
    def changes_anything(self) -> bool:
        """Whether ``apply`` would act at all."""
        return len(self.graph) > 0
