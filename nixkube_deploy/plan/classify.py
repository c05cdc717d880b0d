"""What a host's change is, decided from what it runs, what it booted and what it should run.

Boot-time parts (kernel, initrd, modules, parameters) are compared with the *booted* system, everything else with the
*running* one: a kernel that was switched to but never booted is not there yet. It deliberately knows no other host.
"""

from nixkube_deploy.model.change import Change, ChangeClass
from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.facts import HostFacts, SystemContents
from nixkube_deploy.model.fleet import Distribution
from nixkube_deploy.model.strategy import HostPolicy, RebootPolicy
from nixkube_deploy.plan.difference import UNIT, boot_differences, in_short, short, switch_obstacles, unit_differences

WAITS = "(not booted: the strategy says reboot: never)"
"""Ends a reason that takes effect only at the next boot."""

INSTALLER = "installer"
"""``VARIANT_ID`` of NixOS installers."""


def classify(facts: HostFacts, closure: Closure, distribution: Distribution, policy: HostPolicy) -> Change:
    """The class of the change from ``facts`` to ``closure``, and the reasons for it."""
    if not facts.runs_nixos:
        return foreign(facts)
    assert facts.current is not None
    return classify_contents(facts, closure.contents, distribution, policy)


def classify_contents(
    facts: HostFacts, wanted: SystemContents, distribution: Distribution, policy: HostPolicy
) -> Change:
    """The same for a host that runs NixOS and a system that no flake speaks of (a recorded one)."""
    current = facts.current
    assert current is not None
    if current.path == wanted.path:
        return _already_there(facts, policy)
    units = unit_differences(current, wanted, distribution.node_units)
    needs_boot = boot_differences(facts.booted or current, wanted) + switch_obstacles(current, wanted)
    if needs_boot and policy.reboot is not RebootPolicy.NEVER:
        return Change(kind=ChangeClass.REBOOT, reasons=needs_boot + units)
    if policy.reboot is RebootPolicy.ALWAYS:
        return Change(kind=ChangeClass.REBOOT, reasons=("the strategy says reboot: always", *units))
    waiting = tuple(f"{reason} {WAITS}" for reason in in_short(needs_boot))
    if units:
        return Change(kind=ChangeClass.NODE_RESTART, reasons=units + waiting)
    same = "no node unit changes" if waiting else "no kernel, systemd or node unit changes"
    return Change(kind=ChangeClass.LIVE, reasons=(same, *waiting))


def _already_there(facts: HostFacts, policy: HostPolicy) -> Change:
    reasons = never_booted(facts)
    drift = (f"the next boot would start {short(facts.profile or '')} instead",) if profile_drifted(facts) else ()
    if reasons and policy.reboot is not RebootPolicy.NEVER:
        return Change(kind=ChangeClass.REBOOT, reasons=reasons + drift)
    waiting = tuple(f"{reason} {WAITS}" for reason in reasons)
    if drift:
        return Change(kind=ChangeClass.LIVE, reasons=drift + waiting)
    return Change(kind=ChangeClass.UNCHANGED, reasons=waiting)


def pending_reboot(facts: HostFacts) -> tuple[str, ...]:
    """Which boot-time parts of the running system have not been booted; empty when no reboot is pending."""
    if facts.current is None or facts.booted is None:
        return ()
    return boot_differences(facts.booted, facts.current)


def never_booted(facts: HostFacts) -> tuple[str, ...]:
    """A pending reboot as a reason."""
    return tuple(f"running system was never booted: {reason}" for reason in in_short(pending_reboot(facts)))


def profile_drifted(facts: HostFacts) -> bool:
    """Whether the system profile, and with it the next boot, is another system than the running one."""
    return facts.boots_another


def foreign(facts: HostFacts) -> Change:
    """The change of a machine that is to be installed."""
    if facts.runs_nixos:
        reason = "runs NixOS, and is wiped because --yes-wipe names it"
    elif facts.variant == INSTALLER:
        reason = "runs a NixOS installer"
    else:
        reason = f"does not run NixOS ({facts.os_id})"
    return Change(kind=ChangeClass.INSTALL, reasons=(reason,))


def waits_for_boot(change: Change) -> bool:
    """Whether something of the change takes effect only when somebody reboots the host."""
    return any(reason.endswith(WAITS) for reason in change.reasons)


def changes_node_units(change: Change) -> bool:
    """Whether the kubelet, the container runtime or, on the control plane, an API server is restarted anew."""
    return any(reason.startswith(UNIT) for reason in change.reasons)
