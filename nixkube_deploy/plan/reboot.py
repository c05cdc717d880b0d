"""The plan of ``reboot``: a rolling reboot of hosts into what their next boot starts. No closure is built or copied."""

from dataclasses import replace

from nixkube_deploy.model.change import Change, ChangeClass
from nixkube_deploy.model.facts import HostFacts, SystemContents
from nixkube_deploy.model.fleet import Fleet, Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.assemble import assemble
from nixkube_deploy.plan.classify import never_booted
from nixkube_deploy.plan.difference import short
from nixkube_deploy.plan.guard import missing
from nixkube_deploy.plan.intent import Intent, intend, without_drain
from nixkube_deploy.plan.prepared import Choices, Prepared


def reboot(fleet: Fleet, prepared: Prepared, hosts: frozenset[HostName], choices: Choices) -> Plan:
    """Reboot ``hosts``; the others of the fleet are listed as unchanged."""
    intents = [
        _intend(fleet, without_drain(host, choices), prepared, asked=host.name in hosts)
        for host in fleet.hosts.values()
    ]
    return assemble(fleet, intents, prepared, choices)


def _intend(fleet: Fleet, host: Host, prepared: Prepared, *, asked: bool) -> Intent:
    facts = prepared.facts.get(host.name)
    known = Intent(host=host, facts=facts)
    problem = missing(host.name, prepared)
    if problem is not None or facts is None:
        return replace(known, problem=problem)
    if facts.current is None:
        return replace(known, change=Change(kind=ChangeClass.UNCHANGED), skipped="does not run NixOS")
    if not asked:
        return intend(host, facts, Change(kind=ChangeClass.UNCHANGED), facts.current, fleet.cluster.distribution)
    return _rebooted(fleet, host, facts, facts.current)


def _rebooted(fleet: Fleet, host: Host, facts: HostFacts, current: SystemContents) -> Intent:
    """Into what a reboot by hand would start: the profile's system, also where another one runs until then."""
    inner, ahead = facts.runs_specialisation, facts.boots_another
    wanted = SystemContents(path=facts.profile) if facts.profile is not None and (inner or ahead) else current
    reasons = (f"{short(wanted.path)} is the next boot's system",) if ahead else never_booted(facts)
    change = Change(kind=ChangeClass.REBOOT, reasons=reasons or ("a reboot was asked for",))
    made = intend(host, facts, change, wanted, fleet.cluster.distribution)
    if not inner:
        return made
    stops = "it runs a specialisation, which no boot starts by itself: deploy apply brings it back"
    return replace(made, activates=True, risks=(stops,))
