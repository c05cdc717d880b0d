"""Runs that were cut off: found, checked against what the flake says now, finished or closed."""

from dataclasses import dataclass
from pathlib import Path

from nixkube_deploy.app.clock import SystemClock
from nixkube_deploy.app.console import Console
from nixkube_deploy.app.deploy import Planned, Report, run_plan
from nixkube_deploy.app.request import Target
from nixkube_deploy.app.survey import survey
from nixkube_deploy.app.world import World
from nixkube_deploy.journal.file import open_journal
from nixkube_deploy.journal.history import RunSummary, Stored, read, runs, unfinished
from nixkube_deploy.model.action import RollBack, SwitchConfiguration
from nixkube_deploy.model.error import Refused, UsageError
from nixkube_deploy.model.event import Outcome, RunFinished, TaskSettled, TaskStarted
from nixkube_deploy.model.names import HostName, NodeName, RunId
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

    @property
    def busy(self) -> tuple[HostName, ...]:
        """The hosts it works on."""
        return tuple(host.host for host in self.plan.hosts if host.wave is not None)

    @property
    def touched(self) -> tuple[HostName, ...]:
        """The hosts it may have left half changed."""
        begun = {r.event.task for r in self.stored.records if isinstance(r.event, TaskStarted)}
        settled = {r.event.task for r in self.stored.records if isinstance(r.event, TaskSettled)}
        sections = self.plan.graph.sections
        half = ((host, set(self.plan.graph.members(host))) for host in sections)
        return tuple(host for host, tasks in half if tasks & begun and tasks - settled)

    @property
    def nodes(self) -> dict[HostName, NodeName]:
        """The Nodes its hosts were when it was planned: a host that reboots just now cannot be asked."""
        return {host.host: host.node for host in self.plan.hosts if host.node is not None}


def find_run(state: Path, run: str | None) -> CutOff:
    """What ``deploy resume RUN`` means: that run, or the latest of all that was cut off.

    Raises:
        UsageError: there is none, it is finished, or a later run of its inventory has made it obsolete.
    """
    known = runs(state)
    latest = {summary.inventory: summary for summary in reversed(known)}
    if run is None:
        open_ones = [each for each in known if each.is_unfinished and latest[each.inventory] == each]
        if not open_ones:
            raise UsageError("no run was cut off", hint="deploy runs")
        return CutOff(summary=open_ones[0], stored=read(state, open_ones[0].run))
    stored = read(state, RunId(run))
    summary = next(each for each in known if each.run == stored.run)
    if not summary.is_unfinished:
        raise UsageError(f"run {run} is finished", hint=f"deploy show {run}")
    if (later := latest[summary.inventory]) != summary:
        raise UsageError(
            f"run {run} is no longer worth finishing: {later.run} came after it",
            hint=f"deploy apply {summary.inventory}",
        )
    return CutOff(summary=summary, stored=stored)


def refuse_narrower(cut_off: CutOff, target: Target) -> None:
    """A run is finished on all of its hosts or not at all.

    Raises:
        Refused: ``--on`` leaves some of them out.
    """
    outside = [n for n in cut_off.busy if n in target.whole.hosts and n not in target.fleet.hosts]
    if outside:
        run = cut_off.summary.run
        raise Refused(
            f"run {run} was cut off, and it works on hosts that --on leaves out: {', '.join(outside)}",
            hint=f"deploy resume {run} finishes it; --fresh plans anew without it",
        )


def find_cut_off(state: Path, inventory: str) -> CutOff | None:
    """The latest unfinished run of this inventory."""
    summary = unfinished(state, inventory)
    return None if summary is None else CutOff(summary=summary, stored=read(state, summary.run))


async def finish(cut_off: CutOff, world: World, state: Path, console: Console) -> Report:
    """Take the run up where it stopped. Nodes are found anew, those of hosts that are down are remembered.

    Raises:
        Refused: the inventory no longer has all of its hosts.
    """
    console.say(f"taking up run {cut_off.summary.run}, which was cut off")
    if gone := [name for name in cut_off.busy if name not in world.fleet.hosts]:
        raise Refused(
            f"the inventory no longer has hosts that the run works on: {', '.join(gone)}",
            hint=f"deploy apply {cut_off.summary.inventory} plans anew",
        )
    hosts = [world.fleet.hosts[name] for name in cut_off.busy]
    found = await survey(world, hosts, console.say)
    if world.cluster is None and world.cluster_problem is not None:
        raise Refused(
            f"run {cut_off.summary.run} needs the cluster, and there is no way to it; nothing more was touched",
            hint=f"deploy resume {cut_off.summary.run}, once there is",
            failures=(("cluster", world.cluster_problem),),
        )
    nodes = cut_off.nodes | {n: f.node.name for n, f in found.facts.items() if f.node is not None}
    return await run_plan(cut_off.plan, cut_off.summary.run, nodes, world, state, console)


def aims_at_the_same(cut_off: CutOff, target: Target, planned: Planned) -> bool:
    """Whether inventory, flake and command line still say what the unfinished run was bringing about, and how."""
    if not all(name in target.fleet.hosts for name in cut_off.busy):
        return False
    if cut_off.plan.digest != target.loaded.digest or cut_off.plan.strategy not in {None, planned.plan.strategy}:
        return False
    if cut_off.plan.mode is not planned.plan.mode:
        return False
    if any(host.skipped for host in planned.plan.hosts if host.host in cut_off.busy):  # --bootstrap was not repeated.
        return False
    wanted = {name: closure.out for name, closure in planned.prepared.closures.items()}
    targets = {h.host: h.target for h in cut_off.plan.hosts if h.wave is not None}
    return all(wanted.get(host, target) == target for host, target in targets.items())


def leaves_out(cut_off: CutOff, planned: Planned) -> bool:
    """Whether there is work on hosts the unfinished run knows nothing of: it was narrower, or they answer only now."""
    return any(host.wave is not None and host.host not in cut_off.busy for host in planned.plan.hosts)


def went_back(cut_off: CutOff, planned: Planned) -> tuple[HostName, ...]:
    """Hosts the run had switched, and that no longer run what it switched them to.

    Nobody confirmed the change while there was no controller, so their own timers have undone it. Finishing the run
    would count that as a failure of theirs.
    """
    graph, events = cut_off.plan.graph, [record.event for record in cut_off.stored.records]
    begun = [graph[e.task].action for e in events if isinstance(e, TaskStarted)]
    done = [graph[e.task].action for e in events if isinstance(e, TaskSettled) and e.verdict.went_well]
    taken_back = {action.host for action in begun if isinstance(action, RollBack)}
    switched = {a.host: a.closure for a in done if isinstance(a, SwitchConfiguration) and a.mode.runs_now}
    runs = {name: f.current.path for name, f in planned.prepared.facts.items() if f.current is not None}
    left = (host for host in cut_off.touched if host in switched and host not in taken_back)
    return tuple(host for host in left if runs.get(host, switched[host]) != switched[host])


def supersede(
    cut_off: CutOff, target: Target, state: Path, console: Console, why: str = "something else is wanted now"
) -> None:
    """Close a run that is not to be finished; the new plan deals with what it left on hosts and Nodes."""
    run = cut_off.summary.run
    console.say(f"run {run} was cut off, and {why}: planning anew")
    if gone := [name for name in cut_off.touched if name not in target.whole.hosts]:
        console.say(
            f"warning: run {run} was changing hosts that are no longer in the inventory, so nobody finishes them: "
            f"{', '.join(gone)}; kubectl get nodes -o yaml | grep {run} shows what it left cordoned"
        )
    with open_journal(state, run, cut_off.plan, SystemClock()) as ledger:
        ledger.append(RunFinished(outcome=Outcome.HALTED))
