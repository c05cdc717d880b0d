"""The plan of ``reboot``: a rolling reboot of hosts into the system they already run. No closure is built or copied."""

from dataclasses import replace

from nixkube_deploy.model.change import Change, ChangeClass
from nixkube_deploy.model.fleet import Fleet, Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.assemble import assemble
from nixkube_deploy.plan.classify import never_booted, profile_drifted
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
    change = Change(kind=ChangeClass.UNCHANGED)
    if asked:
        change = Change(kind=ChangeClass.REBOOT, reasons=never_booted(facts) or ("a reboot was asked for",))
    made = intend(host, facts, change, facts.current, fleet.cluster.distribution)
    if asked and profile_drifted(facts):
        drift = f"{short(facts.profile or '')} was to be booted next; this reboot keeps the running system instead"
        return replace(made, risks=(drift,))
    return made
