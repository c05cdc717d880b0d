"""Runs that were cut off: found, checked against what the flake says now, finished or closed."""

from dataclasses import dataclass
from pathlib import Path

from nixkube_deploy.app.clock import SystemClock
from nixkube_deploy.app.console import Console
from nixkube_deploy.app.deploy import Planned, Report, run_plan
from nixkube_deploy.app.survey import survey
from nixkube_deploy.app.world import World
from nixkube_deploy.journal.file import open_journal
from nixkube_deploy.journal.history import RunSummary, Stored, read, unfinished
from nixkube_deploy.model.event import Outcome, RunFinished
from nixkube_deploy.model.names import HostName, NodeName
from nixkube_deploy.model.rollout import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff:
    """An unfinished run and what is on disk about it."""

    summary: RunSummary
    stored: Stored

    @property
    def plan(self) -> Plan:
        """The plan it was executing."""
        return self.stored.plan


def find_cut_off(state: Path, inventory: str) -> CutOff | None:
    """The latest unfinished run of this inventory."""
    summary = unfinished(state, inventory)
    return None if summary is None else CutOff(summary=summary, stored=read(state, summary.run))


async def finish(cut_off: CutOff, world: World, state: Path, console: Console) -> Report:
    """Take the run up where it stopped; Nodes are found anew."""
    console.say(f"taking up run {cut_off.summary.run}, which was cut off")
    busy = {h.host for h in cut_off.plan.hosts if h.wave is not None}
    hosts = [host for name, host in world.fleet.hosts.items() if name in busy]
    found = await survey(world, hosts, console.say)
    nodes: dict[HostName, NodeName] = {n: f.node.name for n, f in found.facts.items() if f.node is not None}
    return await run_plan(cut_off.plan, cut_off.summary.run, nodes, world, state, console)


def aims_at_the_same(cut_off: CutOff, planned: Planned) -> bool:
    """Whether the flake still says what the unfinished run was bringing about."""
    wanted = {name: closure.out for name, closure in planned.prepared.closures.items()}
    targets = {h.host: h.target for h in cut_off.plan.hosts if h.wave is not None}
    return all(wanted.get(host, target) == target for host, target in targets.items())


def supersede(cut_off: CutOff, state: Path, console: Console) -> None:
    """Close a run whose goal is no longer wanted; the new plan deals with what it left on hosts and Nodes."""
    console.say(f"run {cut_off.summary.run} was cut off, and the flake has changed since: planning anew")
    with open_journal(state, cut_off.summary.run, cut_off.plan, SystemClock()) as ledger:
        ledger.append(RunFinished(outcome=Outcome.HALTED))
