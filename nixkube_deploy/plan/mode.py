"""What ``--mode`` and a specialisation make of a host's change: what stays of it, and what cannot be done that way.

Classes are ``classify``'s; here nothing is compared.
"""

from dataclasses import replace

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.change import Change, ChangeClass
from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Activator, Host
from nixkube_deploy.plan.difference import short
from nixkube_deploy.plan.intent import Intent, left_by

ONLY_NEXT_BOOT = "only the next boot starts it; what runs stays as it is"
ON_TRIAL = "on trial: the next boot starts what it would have started anyway"


def by_mode(change: Change, facts: HostFacts, closure: Closure, mode: SwitchMode) -> Change:
    """The change as far as the mode goes."""
    there = facts.current is not None and facts.current.path == closure.out
    match mode:
        case SwitchMode.BOOT if facts.profile == closure.profile:
            waits = () if there else (f"reboot pending: the next boot starts {short(closure.profile)} already",)
            return Change(kind=ChangeClass.UNCHANGED, reasons=waits)
        case SwitchMode.BOOT:
            return Change(kind=ChangeClass.LIVE, reasons=(ONLY_NEXT_BOOT, *change.reasons))
        case SwitchMode.TEST if there:
            return Change(kind=ChangeClass.UNCHANGED)
        case SwitchMode.TEST:
            return replace(change, reasons=(*change.reasons, ON_TRIAL))
        case SwitchMode.SWITCH if closure.toplevel is not None and there and facts.profile != closure.profile:
            drift = f"the profile is not {short(closure.profile)}, whose specialisation it runs"
            return change if change.kind.touches_host else Change(kind=ChangeClass.LIVE, reasons=(drift,))
        case _:
            return change


def in_mode(made: Intent, closure: Closure, mode: SwitchMode) -> Intent:
    """The intent as far as the mode goes. Preparing a boot empties no Node, and has nothing to wait for."""
    made = replace(made, mode=mode, profile=closure.toplevel)
    if mode is SwitchMode.SWITCH:
        drifted = closure.toplevel is not None and made.kind.touches_host
        return replace(made, activates=made.activates or drifted)
    if mode is SwitchMode.TEST:
        return replace(made, activates=made.kind.touches_host)
    uncordons = made.facts is not None and left_by(made.facts) is not None and made.finishes
    return replace(made, activates=made.kind.touches_host, drains=False, uncordons=uncordons)


def refused_mode(host: Host, closure: Closure, change: Change, mode: SwitchMode) -> Failure | None:
    """Why this host's change cannot be made in this way, and what to type instead."""
    if not change.kind.touches_host:
        return None
    apply = f"deploy apply INVENTORY --on {host.name}"
    if mode is SwitchMode.TEST and change.kind is ChangeClass.REBOOT:
        return _refused(
            f"{host.name} cannot try this system: it takes a reboot, and a reboot ends a trial",
            change,
            f"{apply} --mode test --reboot never  # to try it without the kernel; or without --mode test",
        )
    if mode is SwitchMode.SWITCH and closure.toplevel is not None and change.kind is ChangeClass.REBOOT:
        return _refused(
            f"{host.name} cannot be rebooted into a specialisation: a boot starts {short(closure.toplevel)} itself",
            change,
            f"{apply} --mode boot; deploy reboot INVENTORY --on {host.name}; {apply}",
        )
    if host.activation is Activator.NATIVE:
        return None
    if closure.toplevel is not None:
        return _refused(f"{host.activation} cannot run a specialisation of a built system", change, _native(host))
    if mode is SwitchMode.TEST and host.activation is Activator.DEPLOY_RS:
        return _refused("deploy-rs cannot activate a system on trial", change, _native(host))
    return None


def _native(host: Host) -> str:
    return f"hosts.{host.name}.activation: native"


def _refused(message: str, change: Change, then: str) -> Failure:
    return Failure(kind=FailureKind.PREFLIGHT, message=message, evidence=change.reasons, next=then)
