"""The plan of ``apply`` and ``bootstrap``: every host to the system its flake says, in waves, within budgets.

It refuses nothing as a whole: a host that cannot be planned is listed with its problem, never dropped.
"""

from dataclasses import replace

from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.fleet import Fleet, Host
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.assemble import assemble
from nixkube_deploy.plan.classify import classify, foreign
from nixkube_deploy.plan.guard import (
    how_to_install,
    installed_already,
    missing,
    refused_switch,
    unbuilt,
    wipe_guard,
    wrong_architecture,
)
from nixkube_deploy.plan.intent import Intent, intend, without_drain
from nixkube_deploy.plan.mode import by_mode, in_mode, refused_mode
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.room import no_room_to_boot
from nixkube_deploy.plan.skew import skew_notes, without_skew
from nixkube_deploy.plan.version import crossing

__all__ = ["Choices", "rollout"]


def rollout(fleet: Fleet, prepared: Prepared, choices: Choices) -> Plan:
    """Everything that is to be done, and why; ``fleet.strategy`` has the command line's overrides already."""
    intents = [_intend(fleet, without_drain(host, choices), prepared, choices) for host in fleet.hosts.values()]
    intents = without_skew(fleet, intents, prepared)
    plan = assemble(fleet, intents, prepared, choices)
    return replace(plan, notes=(*plan.notes, *skew_notes(fleet, intents, prepared)))


def _intend(fleet: Fleet, host: Host, prepared: Prepared, choices: Choices) -> Intent:
    facts, closure = prepared.facts.get(host.name), prepared.closures.get(host.name)
    known = Intent(host=host, facts=facts, target=closure.out if closure is not None else None)
    problem = missing(host.name, prepared)
    if problem is not None or facts is None:
        return replace(known, problem=problem)
    wipes = choices.bootstrap and (host.name in choices.yes_wipe or not facts.runs_nixos)
    if not facts.runs_nixos and not wipes:
        return replace(known, change=foreign(facts), skipped=how_to_install(fleet, facts))
    if closure is None:
        return replace(known, problem=unbuilt(host.name))
    if problem := wrong_architecture(facts, closure):
        return replace(known, problem=problem)
    if choices.only_install and facts.current is not None and not wipes and facts.current.path != closure.out:
        return replace(known, problem=installed_already(host, facts, fleet))
    make = _install if wipes else _switch
    return make(fleet, known, facts, closure, choices)


def _install(fleet: Fleet, known: Intent, facts: HostFacts, closure: Closure, choices: Choices) -> Intent:
    host = known.host
    if problem := wipe_guard(host, facts, closure, agreed=host.name in choices.yes_wipe):
        return replace(known, problem=problem)
    made = intend(host, facts, foreign(facts), closure.contents, fleet.cluster.distribution)
    return replace(made, disko=closure.disko, kubernetes=closure.contents.kubernetes)


def _switch(fleet: Fleet, known: Intent, facts: HostFacts, closure: Closure, choices: Choices) -> Intent:
    host, distribution = known.host, fleet.cluster.distribution
    if choices.mode.runs_now and (problem := refused_switch(host, facts, closure)):
        return replace(known, problem=problem)
    change = by_mode(classify(facts, closure, distribution, host.policy), facts, closure, choices.mode)
    if problem := refused_mode(host, closure, change, choices.mode):
        return replace(known, problem=problem)
    made = in_mode(intend(host, facts, change, closure.contents, distribution), closure, choices.mode)
    if made.activates and choices.mode.sets_profile and (problem := no_room_to_boot(host, facts, closure.contents)):
        return replace(known, problem=problem)
    there = facts.current is not None and closure.profile in {facts.current.path, facts.profile}
    starts = closure.contents.kubernetes if made.activates and made.disrupts else ""
    made = replace(made, copies=made.activates and not there, kubernetes=starts)
    crossed = crossing(facts, closure) if host.role.is_control_plane and made.disrupts else ""
    if not crossed or made.back is None:
        return made
    return replace(made, back=None, stays=f"Kubernetes {crossed} may cross a minor version of etcd")
