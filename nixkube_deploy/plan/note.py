"""What holds for the whole run, in sentences: who is missing, what that blocks, when and how the run stops.

Budgets are not repeated here; they carry their own names.
"""

from collections.abc import Iterator, Sequence

from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.fleet import Activator, Fleet
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.strategy import RebootBlockers, RebootMethod
from nixkube_deploy.model.task import Rules
from nixkube_deploy.plan.classify import changes_node_units
from nixkube_deploy.plan.intent import Intent
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.wording import host_list, hosts


def notes(fleet: Fleet, intents: Sequence[Intent], rules: Rules, prepared: Prepared) -> tuple[str, ...]:
    """Every note, in the order in which they matter."""
    acting = frozenset(intent.host.name for intent in intents if intent.acts)
    if not acting:
        return ()
    return (
        *_missing(fleet, intents, acting, rules),
        *_spread(fleet, acting, rules),
        *_canary_kubelets(intents, rules),
        *_rebooting(intents),
        *_unknown_drivers(intents, prepared),
        *_stopping(fleet, intents, rules),
        *(f"sections open only within {window}" for window in rules.windows),
    )


def _missing(fleet: Fleet, intents: Sequence[Intent], acting: frozenset[HostName], rules: Rules) -> Iterator[str]:
    away = [intent.host.name for intent in intents if intent.host.name in rules.unhealthy]
    first, rest = [name for name in away if name in acting], [name for name in away if name not in acting]
    if first:
        yield f"unavailable already, so they go first: {host_list(first)}"
    if rest:
        yield f"unavailable and not part of this run, counted in every budget: {host_list(rest)}"
    for budget in rules.budgets:
        lost, stay = [n for n in away if n in budget.members], [n for n in rest if n in budget.members]
        if len(lost) > budget.limit or len(stay) >= budget.limit:
            waiting = budget.members & acting
            blocked = host_list(name for name in fleet.hosts if name in waiting)
            yield f"no room in {budget.name.partition(':')[0]} for {blocked}: away already {host_list(lost)}"


def _spread(fleet: Fleet, acting: frozenset[HostName], rules: Rules) -> Iterator[str]:
    label = fleet.strategy.spread
    if label is None:
        return
    yield f"never two values of the label {label} at once"
    unlabelled = [name for name in rules.domains if name in acting and not fleet.hosts[name].labels.get(label)]
    if unlabelled:
        yield f"without the label {label}, so each goes alone: {host_list(unlabelled)}"
    away = sorted({rules.domains[name] for name in rules.unhealthy - acting if name in rules.domains})
    blocked = sorted(
        {rules.domains[name] for name in acting & rules.domains.keys()} - set(away if len(away) == 1 else ())
    )
    if away and blocked:
        yield f"hosts of {label} {', '.join(away)} are away: {', '.join(blocked)} wait for them"


def _canary_kubelets(intents: Sequence[Intent], rules: Rules) -> Iterator[str]:
    restarted = [i for i in intents if i.acts and i.change is not None and changes_node_units(i.change)]
    control = any(i.host.role.is_control_plane for i in restarted)
    ahead = [i.host.name for i in restarted if i.host.name in rules.canaries and not i.host.role.is_control_plane]
    if control and ahead:
        yield (
            f"canary {host_list(ahead)} gets its kubelet before the API servers get theirs: "
            "if the Kubernetes minor version goes up, use --canary 0"
        )


def _rebooting(intents: Sequence[Intent]) -> Iterator[str]:
    """How hosts reboot, where that is more than a reboot, and what that waits for."""
    reboots = [i for i in intents if i.acts and i.kind is ChangeClass.REBOOT]
    if once := [i.host.name for i in reboots if i.fallback]:
        yield (
            f"the new system is booted once, and is the default only behind its gate: {host_list(once)}; "
            "a power cycle before that boots the old one"
        )
    if kexec := [i.host.name for i in reboots if i.host.policy.reboot_method is RebootMethod.KEXEC]:
        yield f"reboots go by kexec, past firmware and boot loader, where the kernel can be loaded: {host_list(kexec)}"
    waits: dict[RebootBlockers, list[HostName]] = {}
    for intent in reboots:
        if intent.host.policy.reboot_blockers.any:
            waits.setdefault(intent.host.policy.reboot_blockers, []).append(intent.host.name)
    for blockers, names in waits.items():
        pods = [f"pods {each.selector}" + (f" in {each.namespace}" if each.namespace else "") for each in blockers.pods]
        alerts = [f"{each.query} at {each.url}" for each in blockers.prometheus]
        without = "; ".join((*pods, *alerts))
        yield f"reboots begin only without {without}, waiting {blockers.timeout:g} s: {host_list(names)}"


def _unknown_drivers(intents: Sequence[Intent], prepared: Prepared) -> Iterator[str]:
    """What was registered before cannot be missed by a gate that does not know it."""
    gated = [i.host.name for i in intents if i.acts and i.disrupts and i.host.name in prepared.without_drivers]
    if gated:
        why = prepared.without_drivers[gated[0]].message
        yield f"storage drivers are not known, so no gate waits for them to be back: {host_list(gated)}; {why}"


def _stopping(fleet: Fleet, intents: Sequence[Intent], rules: Rules) -> Iterator[str]:
    if rules.max_failures is None:
        yield "failures never stop this run (on_failure: continue)"
        return
    back = fleet.strategy.on_failure.rolls_back and any(i.acts and i.back is not None for i in intents)
    timed = any(i.acts and i.activates and i.back is not None and _has_timer(i) for i in intents)
    then = "a host that fails is taken back to what it ran before" if back else "a host that fails stays as it is"
    then += "; one that was switched goes back by its own timer all the same" if timed and not back else ""
    when = f"more than {hosts(rules.max_failures)} failed" if rules.max_failures else "the first failure"
    yield f"{then}; after {when} no other host begins"


def _has_timer(intent: Intent) -> bool:
    """Whether the host undoes its change by itself where nobody confirms it."""
    native = intent.host.activation is Activator.NATIVE
    return native and intent.mode.runs_now and intent.kind is not ChangeClass.REBOOT
