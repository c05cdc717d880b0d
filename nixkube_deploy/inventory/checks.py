"""What only the whole inventory can show: addresses used twice, labels that spread lacks, selectors that find nobody.

It judges a fleet that is already built and changes nothing.
"""

import ipaddress
from collections.abc import Mapping

from nixkube_deploy.inventory.error import did_you_mean, quote
from nixkube_deploy.inventory.jumps import check_jumps
from nixkube_deploy.inventory.sections import Section
from nixkube_deploy.inventory.select import select
from nixkube_deploy.inventory.source import Source
from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.fleet import CopyVia, Fleet, Host
from nixkube_deploy.model.names import HostName

_SSH_PORT = 22


def check_fleet(fleet: Fleet, inventory: Section, source: Source) -> None:
    """Every check of the whole.

    Raises:
        InventoryError: the first thing that is wrong.
    """
    hosts = inventory.section("hosts")
    _check_addresses(fleet.hosts, hosts, source)
    check_jumps(fleet.hosts, hosts, source)
    _check_kubeconfig(fleet, inventory, source)
    _check_spread(fleet, inventory, source)
    _check_windows(inventory.section("strategy"), source)
    _check_gates(fleet, inventory.section("gates"), source)


def check_copy(host: Host, merged: Section, source: Source) -> None:
    """A host that pulls must know from where.

    Raises:
        InventoryError: it does not.
    """
    if host.copy.via is CopyVia.CACHE and host.copy.cache is None:
        problem = f"{quote(host.name)} copies via a cache, but no `cache` is named"
        mark = merged.section("copy").mark_of("via")
        raise source.error(mark, problem, hint="copy: {via: cache, cache: https://cache.example}")


def _check_addresses(hosts: Mapping[HostName, Host], sections: Section, source: Source) -> None:
    seen: dict[tuple[str, int, str | None], HostName] = {}
    for name, host in hosts.items():
        place = (_canonical(host.address), host.ssh.port or _SSH_PORT, host.ssh.jump)
        other = seen.setdefault(place, name)
        if other != name:
            first = sections.section(other).mark_of("address")
            mark = sections.section(name).mark_of("address")
            address = f"{host.address}:{place[1]}"
            problem = f"{quote(name)} has the same address {quote(address)} as {quote(other)} on line {first.line + 1}"
            hint = "a machine is one host, in all of its groups"
            raise source.error(mark, problem, hint=hint)


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address.lower().rstrip(".")


def _check_kubeconfig(fleet: Fleet, inventory: Section, source: Source) -> None:
    if not fleet.cluster.distribution.has_kubelet or fleet.cluster.kubeconfig is not None:
        return
    if not any(host.role.is_control_plane for host in fleet.hosts.values()):
        problem = "no host has the role `control-plane` to fetch a kubeconfig from, and `cluster.kubeconfig` names none"
        hint = "groups: {control-plane: {role: control-plane}}, or cluster: {kubeconfig: PATH}, or distribution: none"
        raise source.error(inventory.section("cluster").mark, problem, hint=hint)


def _check_spread(fleet: Fleet, inventory: Section, source: Source) -> None:
    label = fleet.strategy.spread
    if label is None:
        return
    mark = inventory.section("strategy").mark_of("spread")
    lacking = [name for name, host in fleet.hosts.items() if label not in host.labels]
    if len(lacking) == len(fleet.hosts):
        known = {key for host in fleet.hosts.values() for key in host.labels}
        hint = did_you_mean(label, known) or f"labels: {{{label}: a}} on hosts or groups"
        raise source.error(mark, f"no host has the label {quote(label)} that `strategy.spread` names", hint=hint)
    if lacking:
        where = f"line {inventory.section('hosts').section(lacking[0]).mark.line + 1}"
        problem = (
            f"{quote(lacking[0])} ({where}) has no label {quote(label)}, so `strategy.spread` would not protect it"
        )
        raise source.error(mark, problem, hint=f"labels: {{{label}: ...}} on every host")


def _check_windows(strategy: Section, source: Source) -> None:
    for window in strategy.items("windows"):
        if window.value("from") == window.value("to"):
            hint = "the whole day is from 00:00 to 24:00"
            raise source.error(window.mark_of("to"), "the window ends when it begins", hint=hint)


def _check_gates(fleet: Fleet, gates: Section, source: Source) -> None:
    kubelet, written = fleet.gates.kubelet, gates.section("kubelet")
    if kubelet.ready_for >= kubelet.timeout:
        mark = written.mark_of("timeout" if written.value("ready_for") is None else "ready_for")
        problem = f"no host can hold for {kubelet.ready_for:g}s within {kubelet.timeout:g}s: none would ever be back"
        raise source.error(mark, problem, hint="`ready_for` must be shorter than `timeout`")
    for gate in gates.items("command"):
        on = gate.value("on")
        if on is not None:
            try:
                select(on, fleet)
            except UsageError as error:
                raise source.error(gate.mark_of("on"), error.message, hint=error.hint) from None
