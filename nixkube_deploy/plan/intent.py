"""What is to be done with one host: the bridge from facts and closures to tasks.

It holds the decisions about a single host and deliberately none about order or budgets.
"""

from dataclasses import dataclass, replace

from nixkube_deploy.model.action import SwitchMode, WayBack
from nixkube_deploy.model.change import Change, ChangeClass
from nixkube_deploy.model.facts import HostFacts, SystemContents
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Distribution, Host
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.plan.classify import pending_reboot, profile_drifted
from nixkube_deploy.plan.difference import unit_differences
from nixkube_deploy.plan.prepared import Choices

ONE_SHOT_LOADER = "systemd-boot"
"""The one boot loader that can start an entry once, and the default the next time."""

DEAD_MAN = "deadman"
"""In the name of a transient unit that will take the host back unless it is confirmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One host, and everything its tasks are made from."""

    host: Host
    facts: HostFacts | None = None
    change: Change | None = None
    target: StorePath | None = None
    mode: SwitchMode = SwitchMode.SWITCH
    profile: StorePath | None = None
    """What is copied and booted where that is not ``target``: the system whose specialisation it is."""
    generation: int | None = None
    """The generation of the host's profile that is the target already."""
    disko: StorePath | None = None
    copies: bool = False
    activates: bool = False
    drains: bool = False
    uncordons: bool = False
    expect_node: bool = False
    finishes: bool = False
    """Nothing changes, but a run that died left something to finish here."""
    kubernetes: str = ""
    """The version its kubelet will be of, where it changes now and can be read beforehand."""
    back: WayBack | None = None
    stays: str = ""
    """Why the host is never taken back by itself; set whenever it changes and ``back`` is None."""
    risks: tuple[str, ...] = ()
    skipped: str = ""
    problem: Failure | None = None

    @property
    def kind(self) -> ChangeClass:
        """The class of the change; only asked of hosts that could be planned."""
        assert self.change is not None
        return self.change.kind

    @property
    def fallback(self) -> tuple[StorePath, ...]:
        """What the boot loader falls back to when the reboot into ``target`` fails, best first; empty: a plain boot."""
        return self.stand_ins if self.kind is ChangeClass.REBOOT else ()

    @property
    def stand_ins(self) -> tuple[StorePath, ...]:
        """The same of a reboot that nobody planned, and that a switch may turn out to need.

        A running system whose kernel has never booted here is not better than the one that did.
        """
        facts = self.facts
        if facts is None or facts.loader != ONE_SHOT_LOADER:
            return ()
        booted = facts.booted.path if facts.booted is not None else None
        origin = (self.back.profile or self.back.system) if self.back is not None else None
        ordered = (booted, origin) if pending_reboot(facts) else (origin, booted)
        return tuple(dict.fromkeys(path for path in ordered if path is not None and path != self.target))

    @property
    def disrupts(self) -> bool:
        """Whether anything that runs changes: preparing the next boot disturbs nobody."""
        return self.mode.runs_now or self.kind is ChangeClass.REBOOT

    @property
    def takes_voter(self) -> bool:
        """Whether a member of etcd may be away, or restart, with the change."""
        voter = self.facts is not None and self.facts.etcd is not None
        return voter and self.acts and self.disrupts and not self.finishes

    @property
    def acts(self) -> bool:
        """Whether the host gets tasks."""
        if self.change is None or self.problem is not None or self.skipped:
            return False
        return self.finishes or self.kind.touches_host

    @property
    def installs(self) -> bool:
        """Whether the host is wiped and installed."""
        return self.acts and self.kind is ChangeClass.INSTALL

    @property
    def is_bare(self) -> bool:
        """Whether the machine is no member of the fleet yet: it neither serves nor can be missed."""
        return self.facts is not None and not self.facts.runs_nixos and self.facts.node is None

    @property
    def is_available(self) -> bool:
        """Whether the cluster can count on the host now. A bare machine is not missed; a silent one is."""
        if self.facts is None or (self.problem is not None and self.problem.kind is FailureKind.UNREACHABLE):
            return False
        return self.facts.is_healthy and left_by(self.facts) is None


def left_by(facts: HostFacts) -> str | None:
    """The run that cordoned this host and never gave it back."""
    return facts.node.cordoned_by if facts.node is not None else None


def needs_finishing(facts: HostFacts) -> bool:
    """Whether a run that died left the node cordoned or a dead-man timer armed."""
    return left_by(facts) is not None or any(DEAD_MAN in unit for unit in facts.activations)


def intend(host: Host, facts: HostFacts, change: Change, wanted: SystemContents, distribution: Distribution) -> Intent:
    """A change of one host, as far as the host alone decides it."""
    finishes = change.kind is ChangeClass.UNCHANGED and needs_finishing(facts)
    switches = change.kind.touches_host and change.kind is not ChangeClass.INSTALL
    running = facts.current.path if facts.current is not None else None
    drains = _drains(host, facts, change)
    back, stays = _way_back(facts, change, wanted.path, distribution) if switches else (None, "")
    return Intent(
        host=host,
        facts=facts,
        change=replace(change, reasons=(*change.reasons, *_finishing(facts))) if finishes else change,
        target=wanted.path,
        activates=switches and (running != wanted.path or profile_drifted(facts)),
        drains=drains,
        uncordons=drains or left_by(facts) is not None,
        expect_node=_expects_node(facts, wanted, distribution),
        finishes=finishes,
        back=back,
        stays=stays,
    )


def _finishing(facts: HostFacts) -> tuple[str, ...]:
    run = left_by(facts)
    return (f"cordoned by run {run}, which died" if run else "a dead-man timer of a run that died is still armed",)


def _drains(host: Host, facts: HostFacts, change: Change) -> bool:
    drain = host.policy.drain
    if not drain.enabled or facts.node is None or not change.kind.touches_host:
        return False
    return drain.live or change.kind is not ChangeClass.LIVE


def _expects_node(facts: HostFacts, wanted: SystemContents, distribution: Distribution) -> bool:
    """Whether the host is, or is about to become, a Node. A plain machine in a Kubernetes fleet is not."""
    if not distribution.has_kubelet:
        return False
    if facts.node is not None or not facts.runs_nixos:
        return True
    units = {**(facts.current.units if facts.current else {}), **wanted.units}
    return any(units.get(unit) for unit in distribution.node_units)


def _way_back(
    facts: HostFacts, change: Change, target: StorePath, distribution: Distribution
) -> tuple[WayBack | None, str]:
    """What worked, or why there is nothing to go back to.

    That is the running system; when it is the target itself, the booted one, if only boot-time parts tell them apart.
    """
    current, booted = facts.current, facts.booted
    assert current is not None
    origin = current
    if current.path == target:
        if change.kind is not ChangeClass.REBOOT or booted is None or booted.path == target:
            return None, "the system stays what it is, there is no other to go back to"
        if unit_differences(booted, current, distribution.node_units):
            return None, "the system it last booted has other node units"
        origin = booted
    booted_path = booted.path if booted is not None else None
    back = WayBack(
        system=origin.path,
        booted=booted_path,
        generation=facts.generation,
        boot_id=facts.boot_id,
        profile=facts.profile if facts.runs_specialisation and origin is current else None,
    )
    return back, ""


def without_drain(host: Host, choices: Choices) -> Host:
    """The host with the command line's ``--no-drain`` applied."""
    if not choices.no_drain:
        return host
    drain = replace(host.policy.drain, enabled=False)
    return replace(host, policy=replace(host.policy, drain=drain))
