"""Whether what must come to a host fits there: /boot before anything is touched, the store as far as it is known.

The exact look at the store is the copy's business, just before it copies; here it is a warning.
"""

from nixkube_deploy.model.facts import HostFacts, SystemContents
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.packages import HostDifference
from nixkube_deploy.model.size import size_text
from nixkube_deploy.plan.difference import store_name


def no_room_to_boot(host: Host, facts: HostFacts, wanted: SystemContents) -> Failure | None:
    """/boot keeps a kernel and an initrd for each that differ among its entries; one more of each must fit."""
    free = facts.disk.boot
    there = {path for system in (facts.current, facts.booted) if system for path in (system.kernel, system.initrd)}
    come = {path: size for path, size in wanted.boot_sizes.items() if path not in there}
    needed = sum(come.values())
    if free is None or needed <= free:
        return None
    parts = ", ".join(f"{store_name(path)[1]} {size_text(size)}" for path, size in come.items())
    make_room = "nix-collect-garbage --delete-older-than 14d; /run/current-system/bin/switch-to-configuration boot"
    return Failure(
        kind=FailureKind.DISK_FULL,
        message=f"/boot of {host.name} has {size_text(free)} free, and the new system needs {size_text(needed)} there",
        expected=f"{size_text(needed)} free on /boot: {parts}",
        seen=f"{size_text(free)} free",
        next=f"on {host.name}, as root: {make_room}",
    )


def short_of_store(host: Host, facts: HostFacts | None, difference: HostDifference | None) -> tuple[str, ...]:
    """A copy that will probably be refused, with both numbers."""
    free = facts.disk.store if facts is not None else None
    travels = difference.sizes.travels if difference is not None else None
    if free is None or travels is None or free - travels >= host.copy.min_free:
        return ()
    kept = f" and {size_text(host.copy.min_free)} must stay free" if host.copy.min_free else ""
    room = f"the store has {size_text(free)} free, {size_text(travels)} must come{kept}: the copy may not fit"
    return (f"{room}; on {host.name}, as root: nix-collect-garbage --delete-older-than 14d",)
