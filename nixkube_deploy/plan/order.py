"""Which host goes when: waves, canaries, the control plane before the workers. How many at once is not said here.

The stages, each at least one wave of its own:

1. hosts that are already unavailable: trying them costs nothing, and no budget has room before they are back;
2. the canaries;
3. the control plane, so that in doubt no kubelet is newer than the API servers it talks to;
4. everybody else.

Canaries are workers when any worker is switched, although they then get their kubelet before the API servers get
theirs: losing a worker costs least, most changes do not raise the Kubernetes minor version, and where the versions are
known and would be wrong the control plane is asked first. A machine that is installed is no canary while anything is
switched: it says nothing about the switch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nixkube_deploy.model.fleet import Fleet
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.strategy import Mode
from nixkube_deploy.model.task import Budget
from nixkube_deploy.plan.intent import Intent


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Every acting host's wave, from 1, in the order in which the hosts would like to go."""

    waves: Mapping[HostName, int]
    canaries: frozenset[HostName]


def order(
    fleet: Fleet,
    intents: Sequence[Intent],
    budgets: Sequence[Budget],
    domains: Mapping[HostName, str],
    newer: frozenset[HostName],
) -> Order:
    """Waves for the hosts that act; ``newer`` are workers whose kubelet would overtake the API servers."""
    acting = _by_domain([intent for intent in intents if intent.acts], domains)
    repairs = [intent for intent in acting if not intent.is_available]
    sound = [intent for intent in acting if intent.is_available]
    canaries = _canaries(sound, fleet.strategy.canary, newer)
    chosen = frozenset(intent.host.name for intent in canaries)
    rest = [intent for intent in sound if intent.host.name not in chosen]
    control = [intent for intent in rest if intent.host.role.is_control_plane]
    workers = [intent for intent in rest if not intent.host.role.is_control_plane]
    cut = _Cut(budgets, domains, _missing(intents))
    waves: dict[HostName, int] = {}
    for stage in (repairs, canaries, control, workers):
        if fleet.strategy.mode is Mode.WAVES:
            waves |= cut.into_waves(stage, after=max(waves.values(), default=0))
        else:
            waves |= dict.fromkeys((i.host.name for i in stage), max(waves.values(), default=0) + 1)
    return Order(waves=waves, canaries=chosen)


def _by_domain(intents: list[Intent], domains: Mapping[HostName, str]) -> list[Intent]:
    """Hosts of one domain together, else two domains would wait for each other at every host."""
    seen = list(dict.fromkeys(domains.get(intent.host.name, "") for intent in intents))
    rank = {domain: number for number, domain in enumerate(seen)}
    return sorted(intents, key=lambda intent: rank[domains.get(intent.host.name, "")])


def _canaries(sound: list[Intent], count: int, newer: frozenset[HostName]) -> list[Intent]:
    control = [i for i in sound if i.host.role.is_control_plane]
    workers = [i for i in sound if not i.host.role.is_control_plane and i.host.name not in newer]
    for candidates in (
        [i for i in workers if not i.installs],
        [i for i in control if not i.installs],
        [i for i in control if i.installs],
        workers,
    ):
        if candidates:
            return candidates[:count]
    return []


def _missing(intents: Sequence[Intent]) -> frozenset[HostName]:
    """Hosts that are unavailable and stay so: this run does nothing about them."""
    return frozenset(intent.host.name for intent in intents if not intent.is_available and not intent.acts)


class _Cut:
    """Cuts stages into waves that fit every budget at once. Hosts of equal budgets never look back: linear in hosts."""

    def __init__(
        self, budgets: Sequence[Budget], domains: Mapping[HostName, str], missing: frozenset[HostName]
    ) -> None:
        self._domains = domains
        self._room = [max(1, budget.limit - len(budget.members & missing)) for budget in budgets]
        self._of: dict[HostName, tuple[int, ...]] = {}
        for number, budget in enumerate(budgets):
            for host in budget.members:
                self._of[host] = (*self._of.get(host, ()), number)

    def into_waves(self, stage: list[Intent], after: int) -> dict[HostName, int]:
        """The first wave each host fits into, behind wave ``after`` and, within a domain, behind the domain before."""
        waves: dict[HostName, int] = {}
        taken: dict[tuple[int, int], int] = {}
        reached: dict[tuple[int, ...], int] = {}
        floor, domain = after + 1, None
        for intent in stage:
            host = intent.host.name
            if self._domains.get(host) != domain:
                floor, domain = max(waves.values(), default=after) + 1, self._domains.get(host)
            budgets = self._of.get(host, ())
            wave = max(floor, reached.get(budgets, 0))
            while any(taken.get((wave, number), 0) >= self._room[number] for number in budgets):
                wave += 1
            for number in budgets:
                taken[wave, number] = taken.get((wave, number), 0) + 1
            waves[host] = reached[budgets] = wave
        return waves
