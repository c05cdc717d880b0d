"""Jump hosts that are themselves in the inventory: no host may need itself to be reached.

It only looks at names; whether a jump host answers is found out later.
"""

import graphlib
from collections.abc import Mapping

from nixkube_deploy.inventory.error import listing, quote
from nixkube_deploy.inventory.sections import Layer, Located, Section
from nixkube_deploy.inventory.source import Source
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName


def hops(jump: str | None) -> tuple[str, ...]:
    """The host names in ``[user@]host[:port],...``, in the order they are passed."""
    return tuple(hop.rpartition("@")[2].partition(":")[0] for hop in jump.split(",")) if jump else ()


def own_jump(host: HostName, merged: Section, section: Section, source: Source) -> Layer | None:
    """For a host that inherits a jump through itself: a layer that ends the way in front of it.

    Raises:
        InventoryError: the host itself says to jump through itself.
    """
    jump = merged.section("ssh").value("jump")
    names = hops(jump)
    if host not in names:
        return None
    mark = merged.section("ssh").mark_of("jump")
    if "jump" in section.section("ssh").entries:
        raise source.error(mark, f"{quote(host)} cannot be its own jump host", hint="jump: null reaches it directly")
    before = jump.split(",")[: names.index(host)]
    ssh = Section({"jump": Located(",".join(before) or None, mark)}, mark)
    return Layer("the jump host itself", Section({"ssh": ssh}, mark))


def check_jumps(hosts: Mapping[HostName, Host], sections: Section, source: Source) -> None:
    """Refuse hosts that are reached through each other.

    Raises:
        InventoryError: naming the circle.
    """
    through = {name: [hop for hop in hops(host.ssh.jump) if hop in hosts] for name, host in hosts.items()}
    try:
        graphlib.TopologicalSorter({name: jumps for name, jumps in through.items() if jumps}).prepare()
    except graphlib.CycleError as error:
        cycle = list(reversed(error.args[1]))
        problem = f"hosts are reached through each other: {listing(cycle, 20).replace(', ', ' -> ')}"
        hint = "ssh: {jump: null} on one of them reaches it directly"
        raise source.error(sections.section(cycle[0]).mark, problem, hint=hint) from None
