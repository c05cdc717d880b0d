"""The plan of ``rollback``: hosts back to recorded systems, through the same waves and gates as forward.

The systems are on the hosts already, so nothing is copied; whether they still are is found when they are activated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nixkube_deploy.model.change import Change, ChangeClass
from nixkube_deploy.model.facts import HostFacts, SystemContents
from nixkube_deploy.model.fleet import Activator, Distribution, Fleet, Host
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.model.strategy import RebootPolicy
from nixkube_deploy.plan.assemble import assemble
from nixkube_deploy.plan.classify import classify_contents
from nixkube_deploy.plan.difference import step
from nixkube_deploy.plan.guard import missing
from nixkube_deploy.plan.intent import Intent, intend, without_drain
from nixkube_deploy.plan.prepared import Choices, Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A system that a host ran."""

    system: StorePath
    profile: StorePath | None = None
    """What the profile held where ``system`` was a specialisation of it."""
    generation: int | None = None
    """Which generation it was: while that still is this system, going back keeps its number."""


def rollback(fleet: Fleet, prepared: Prepared, targets: Mapping[HostName, Earlier], choices: Choices) -> Plan:
    """Each host in ``targets`` to its system there.

    What a target holds is known when it is the booted system or in ``prepared.closures``; else the worst is assumed,
    another kernel.
    """
    intents = [
        _intend(fleet, _by_ourselves(without_drain(host, choices)), prepared, targets.get(host.name))
        for host in fleet.hosts.values()
    ]
    return assemble(fleet, intents, prepared, choices)


def _by_ourselves(host: Host) -> Host:
    """deploy-rs brings a host to what the flake says now, and to nothing else."""
    return replace(host, activation=Activator.NATIVE) if host.activation is Activator.DEPLOY_RS else host


def _intend(fleet: Fleet, host: Host, prepared: Prepared, earlier: Earlier | None) -> Intent:
    facts, distribution = prepared.facts.get(host.name), fleet.cluster.distribution
    target = earlier.system if earlier is not None else None
    known = Intent(host=host, facts=facts, target=target)
    problem = missing(host.name, prepared)
    if problem is not None or facts is None:
        return replace(known, problem=problem)
    stays = Change(kind=ChangeClass.UNCHANGED)
    if earlier is None or target is None:
        return replace(known, change=stays, skipped="no system is recorded to go back to")
    if facts.current is None:
        return replace(known, change=stays, skipped="does not run NixOS")
    wanted = _contents(target, facts, prepared)
    if wanted is None:
        wanted, change = SystemContents(path=target), _assumed(facts.current, target, host, distribution)
    else:
        change = classify_contents(facts, wanted, distribution, host.policy)
    made = intend(host, facts, change, wanted, distribution)
    return replace(made, profile=earlier.profile, generation=earlier.generation)


def _contents(target: StorePath, facts: HostFacts, prepared: Prepared) -> SystemContents | None:
    closure = prepared.closures.get(facts.host)
    known = (facts.current, facts.booted, closure.contents if closure is not None else None)
    return next((contents for contents in known if contents is not None and contents.path == target), None)


def _assumed(current: SystemContents, target: StorePath, host: Host, distribution: Distribution) -> Change:
    system = f"system: {step(current.path, target)}".replace(f"nixos-system-{host.name}-", "nixos-")
    if host.policy.reboot is not RebootPolicy.NEVER:
        return Change(kind=ChangeClass.REBOOT, reasons=(system, "its kernel is not known here, so it may be another"))
    kind = ChangeClass.NODE_RESTART if distribution.has_kubelet else ChangeClass.LIVE
    return Change(kind=kind, reasons=(system, "its kernel is not known here, and the strategy says reboot: never"))
