"""How many hosts may be away at once: budgets, spread domains, and the hosts that are away already.

Only the rules are made here; that a section opens or waits is decided while the run goes on.
"""

from collections.abc import Iterator, Mapping, Sequence

from nixkube_deploy.model.fleet import Fleet
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.strategy import Limit
from nixkube_deploy.model.task import Budget, Rules
from nixkube_deploy.plan.intent import Intent
from nixkube_deploy.plan.order import Order


def control_plane(fleet: Fleet) -> frozenset[HostName]:
    """Every control-plane host, also those a selection left out: members of a group whose known members all are."""
    known = {name for name, host in fleet.hosts.items() if host.role.is_control_plane}
    for group in fleet.groups.values():
        selected = [name for name in group.members if name in fleet.hosts]
        if selected and known.issuperset(selected):
            known.update(group.members)
    return frozenset(known)


def budgets(fleet: Fleet, intents: Sequence[Intent], voters: frozenset[HostName]) -> tuple[Budget, ...]:
    """One budget a group that has changing hosts, and always one host of the control plane at a time.

    A group counts all its members, also those a selection left out, but not machines that are yet to be installed:
    they neither serve nor can be missed.
    """
    acting = frozenset(intent.host.name for intent in intents if intent.acts)
    bare = frozenset(intent.host.name for intent in intents if intent.is_bare)
    control = control_plane(fleet)
    made = (*_of_quorum(control, voters), *_of_groups(fleet, control, bare))
    return tuple(budget for budget in made if budget.members & acting)


def _of_quorum(control: frozenset[HostName], voters: frozenset[HostName]) -> Iterator[Budget]:
    if voters <= control:
        what = "control plane and etcd" if voters else "control plane"
        yield Budget(name=f"{what}: always one at a time, of {len(control)}", members=control, limit=1)
        return
    yield Budget(name=f"control plane: always one at a time, of {len(control)}", members=control, limit=1)
    yield Budget(name=f"etcd voters: always one at a time, of {len(voters)}", members=voters, limit=1)


def _of_groups(fleet: Fleet, control: frozenset[HostName], bare: frozenset[HostName]) -> Iterator[Budget]:
    grouped: set[HostName] = set()
    for group in fleet.groups.values():
        grouped.update(group.members)
        if not control.issuperset(group.members):
            limit = group.max_unavailable or fleet.strategy.max_unavailable
            yield _budget(group.name, limit, frozenset(group.members) - bare)
    yield _budget("hosts in no group", fleet.strategy.max_unavailable, frozenset(fleet.hosts) - grouped - bare)


def _budget(name: str, limit: Limit, members: frozenset[HostName]) -> Budget:
    allowed = limit.of(len(members))
    hosts = max(1, allowed)
    least = "" if allowed else ", at least 1"
    return Budget(
        name=f"{name}: max_unavailable {limit}{least} = {hosts} of {len(members)}", members=members, limit=hosts
    )


def domains(fleet: Fleet, intents: Sequence[Intent]) -> Mapping[HostName, str]:
    """Each host's spread domain, of those that can be missed.

    A host without the label is a domain of its own: who knows where it stands.
    """
    label = fleet.strategy.spread
    if label is None:
        return {}
    return {
        intent.host.name: intent.host.labels.get(label) or f"{intent.host.name} alone"
        for intent in intents
        if (intent.acts or not intent.is_available) and not intent.is_bare
    }


def rules(
    fleet: Fleet, intents: Sequence[Intent], made: tuple[Budget, ...], zones: Mapping[HostName, str], ordered: Order
) -> Rules:
    """Everything that decides when a section may open."""
    strategy = fleet.strategy
    return Rules(
        budgets=made,
        domains=zones,
        unhealthy=frozenset(intent.host.name for intent in intents if not intent.is_available),
        max_failures=None if strategy.on_failure.keeps_going else strategy.max_failures.of(len(ordered.waves)),
        canaries=ordered.canaries,
        windows=strategy.windows,
    )
