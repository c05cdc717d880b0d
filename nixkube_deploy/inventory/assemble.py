"""Sections to a Fleet: layers are merged, values become the model, and what only the whole can show is checked.

Precedence, lowest first: built in, ``defaults`` (and the top-level ``strategy``), groups in the host's order, the host.
It reads no text; shapes have done that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nixkube_deploy.inventory.bootstrap import settings as bootstrap_settings
from nixkube_deploy.inventory.checks import check_copy, check_fleet
from nixkube_deploy.inventory.groups import Lineage, gather, lineages, references
from nixkube_deploy.inventory.jumps import own_jump
from nixkube_deploy.inventory.rules import DAYS, HOST_STRATEGY
from nixkube_deploy.inventory.sections import Layer, Section, merge
from nixkube_deploy.inventory.source import Source
from nixkube_deploy.model.building import BuildSettings, EvaluationSettings
from nixkube_deploy.model.fleet import Cluster, CopySettings, Fleet, Group, Host, SshSettings
from nixkube_deploy.model.names import GroupName, HostName
from nixkube_deploy.model.strategy import (
    AlertBlocker,
    CommandGate,
    DrainOptions,
    Gates,
    HostPolicy,
    HttpGate,
    KubeletGate,
    PodBlocker,
    PodsGate,
    PrometheusGate,
    RebootBlockers,
    SelectedPods,
    Strategy,
    Window,
)

Layers = Mapping[HostName, tuple[Layer, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """The fleet, and every host's layers for ``explain``."""

    fleet: Fleet
    layers: Layers


def assemble(inventory: Section, source: Source, name: str) -> Assembled:
    """The fleet that ``inventory`` describes.

    Raises:
        InventoryError: the parts do not fit together.
    """
    lineage = lineages(inventory.section("groups"), source)
    layering = _Layering(inventory, lineage, source)
    hosts: dict[HostName, Host] = {}
    layers: dict[HostName, tuple[Layer, ...]] = {}
    for key in inventory.section("hosts").entries:
        host = HostName(key)
        groups, stack, merged = layering.of(host)
        layers[host] = stack
        hosts[host] = _host(host, groups, merged)
        check_copy(hosts[host], merged, source)
    fleet = Fleet(
        cluster=Cluster(**inventory.section("cluster").values()),
        flake=inventory.value("flake"),
        hosts=hosts,
        groups=_groups(inventory.section("groups"), hosts),
        strategy=_strategy(inventory.section("strategy")),
        gates=_gates(inventory.section("gates")),
        evaluation=EvaluationSettings(**inventory.section("evaluation").values()),
        build=BuildSettings(**inventory.section("build").values()),
        deploy_rs=inventory.value("deploy_rs"),
        source=name,
    )
    check_fleet(fleet, inventory, source)
    return Assembled(fleet=fleet, layers=layers)


class _Layering:
    """Stacks the layers of each host; what hosts of the same groups share is merged once."""

    def __init__(self, inventory: Section, lineage: Lineage, source: Source) -> None:
        self._hosts = inventory.section("hosts")
        self._groups = inventory.section("groups")
        self._lineage = lineage
        self._source = source
        strategy = inventory.section("strategy")
        policy = {name: found for name, found in strategy.entries.items() if name in HOST_STRATEGY.fields}
        self._base = (
            Layer("defaults", inventory.section("defaults")),
            Layer("strategy", Section({"strategy": Section(policy, strategy.mark)}, strategy.mark)),
        )
        self._shared: dict[tuple[GroupName, ...], tuple[tuple[Layer, ...], Section]] = {}

    def of(self, host: HostName) -> tuple[tuple[GroupName, ...], tuple[Layer, ...], Section]:
        """The host's groups, its layers, and the layers merged."""
        section = self._hosts.section(host)
        groups = gather(references(section, self._groups, self._source), self._lineage)
        shared, below = self._below(groups)
        layers, merged = (*shared, Layer("host", section)), merge(below, section)
        if (jump := own_jump(host, merged, section, self._source)) is not None:
            layers, merged = (*layers, jump), merge(merged, jump.section)
        return groups, layers, merged

    def _below(self, groups: tuple[GroupName, ...]) -> tuple[tuple[Layer, ...], Section]:
        if groups not in self._shared:
            layers = (*self._base, *(Layer(f"group {name}", self._settings(name)) for name in groups))
            merged = Section()
            for layer in layers:
                merged = merge(merged, layer.section)
            self._shared[groups] = (layers, merged)
        return self._shared[groups]

    def _settings(self, group: GroupName) -> Section:
        section = self._groups.section(group)
        return Section({name: found for name, found in section.entries.items() if name != "groups"}, section.mark)


def _host(name: HostName, groups: tuple[GroupName, ...], merged: Section) -> Host:
    written = merged.values()
    programs = ("activation", "specialisation", "build_on")
    plain = ("role", "system", "attr", "node", "privilege", "privilege_password", "labels", *programs)
    bootstrap = written.get("bootstrap")
    return Host(
        name=name,
        address=written.get("address", name),
        groups=groups,
        ssh=SshSettings(**written.get("ssh", {})),
        copy=CopySettings(**written.get("copy", {})),
        policy=_policy(written.get("strategy", {})),
        bootstrap=bootstrap_settings(bootstrap) if bootstrap is not None else None,
        **{key: written[key] for key in plain if key in written},
    )


def _policy(written: Mapping[str, Any]) -> HostPolicy:
    own = {name: value for name, value in written.items() if name in HOST_STRATEGY.fields}
    blockers = own.get("reboot_blockers", {})
    parts = {
        "drain": DrainOptions(**own.get("drain", {})),
        "reboot_blockers": RebootBlockers(
            **blockers
            | {
                "pods": tuple(PodBlocker(**pods) for pods in blockers.get("pods", ())),
                "prometheus": tuple(AlertBlocker(**alerts) for alerts in blockers.get("prometheus", ())),
            }
        ),
    }
    return HostPolicy(**own | parts)


def _groups(groups: Section, hosts: Mapping[HostName, Host]) -> dict[GroupName, Group]:
    members: dict[GroupName, list[HostName]] = {GroupName(name): [] for name in groups.entries}
    for host in hosts.values():
        for group in host.groups:
            members[group].append(host.name)
    return {
        name: Group(
            name=name,
            members=tuple(names),
            max_unavailable=groups.section(name).section("strategy").value("max_unavailable"),
        )
        for name, names in members.items()
    }


def _strategy(section: Section) -> Strategy:
    written = section.values()
    windows = tuple(
        Window(
            days=frozenset(window.get("days", range(len(DAYS)))),
            start=window["from"],
            end=window["to"],
            tz=window.get("tz", "UTC"),
        )
        for window in written.pop("windows", ())
    )
    rules = {name: value for name, value in written.items() if name not in HOST_STRATEGY.fields}
    return Strategy(windows=windows, host=_policy(written), **rules)


def _gates(section: Section) -> Gates:
    written = section.values()
    return Gates(
        kubelet=KubeletGate(**written.get("kubelet", {})),
        pods=_pods(written.get("pods", {})),
        http=tuple(HttpGate(**gate) for gate in written.get("http", ())),
        command=tuple(CommandGate(**gate) for gate in written.get("command", ())),
        prometheus=tuple(PrometheusGate(**gate) for gate in written.get("prometheus", ())),
    )


def _pods(written: Mapping[str, Any]) -> PodsGate:
    selected = tuple(SelectedPods(**pods) for pods in written.get("selected", ()))
    return PodsGate(**{**written, "selected": selected})
