"""Two systems compared, in words a person can check: ``kernel: linux-6.12.7 -> linux-6.12.8``.

It says what differs; what that means for the host is ``classify``'s business.
"""

from collections.abc import Iterator

from nixkube_deploy.model.facts import SystemContents

HASH_LENGTH = 32
SHORT_HASH = 8
SHOWN = 5
"""Words of a text difference shown before ``and N more``."""
UNIT = "unit "
"""Begins the reason that a node unit changes."""


def store_name(path: str) -> tuple[str, str]:
    """Hash and name of the store object a path lies in; the hash is empty outside the store.

    ``/nix/store/<hash>-linux-6.12.7/bzImage`` lies in ``linux-6.12.7``.
    """
    parts = path.split("/")
    base = parts[3] if path.startswith("/nix/store/") else parts[-1]
    digest, dash, name = base.partition("-")
    return (digest, name) if dash and len(digest) == HASH_LENGTH else ("", base)


def short(path: str) -> str:
    """A path as people say it: eight characters of the hash, and the name."""
    digest, name = store_name(path)
    return f"{digest[:SHORT_HASH]}-{name}" if digest else name


def step(old: str, new: str) -> str:
    """``old -> new``: names alone when they differ, else with as much of the hash as tells them apart."""
    if not old or not new:
        return f"{_or_none(old)} -> {_or_none(new)}"
    old_name, new_name = store_name(old)[1], store_name(new)[1]
    if old_name != new_name:
        return f"{old_name} -> {new_name}"
    return f"{short(old)} -> {short(new)}" if short(old) != short(new) else f"{old} -> {new}"


def _or_none(path: str) -> str:
    return store_name(path)[1] if path else "none"


def words(old: str, new: str) -> str:
    """``-gone +added`` of two texts, word by word."""
    before, after = old.split(), new.split()
    gone = [f"-{word}" for word in before if word not in set(after)]
    added = [f"+{word}" for word in after if word not in set(before)]
    changes = gone + added
    if not changes:
        return "the same words in another order"
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return " ".join(changes[:SHOWN]) + more


def in_short(differences: tuple[str, ...]) -> tuple[str, ...]:
    """One line for several differences: the first in full, the others by name."""
    if len(differences) <= 1:
        return differences
    return (f"{differences[0]}; also {', '.join(each.partition(':')[0] for each in differences[1:])}",)


def boot_differences(running: SystemContents, wanted: SystemContents) -> tuple[str, ...]:
    """What only a boot can change: kernel, initrd, modules, parameters."""
    return tuple(_boot_differences(running, wanted))


def _boot_differences(running: SystemContents, wanted: SystemContents) -> Iterator[str]:
    if running.kernel != wanted.kernel:
        yield f"kernel: {step(running.kernel, wanted.kernel)}"
    if running.initrd != wanted.initrd:
        yield f"initrd: {step(running.initrd, wanted.initrd)}"
    if running.kernel_modules != wanted.kernel_modules:
        yield f"kernel modules: {step(running.kernel_modules, wanted.kernel_modules)}"
    if running.kernel_params != wanted.kernel_params:
        yield f"kernel parameters: {words(running.kernel_params, wanted.kernel_params)}"


def switch_obstacles(running: SystemContents, wanted: SystemContents) -> tuple[str, ...]:
    """What a switch changes badly (systemd) or refuses to change (inhibitors)."""
    systemd = (f"systemd: {step(running.systemd, wanted.systemd)}",) if running.systemd != wanted.systemd else ()
    return (*systemd, *inhibitor_differences(running, wanted))


def inhibitor_differences(running: SystemContents, wanted: SystemContents) -> tuple[str, ...]:
    """What makes ``switch`` refuse; the way out is ``boot`` and a reboot."""
    if running.inhibitors == wanted.inhibitors:
        return ()
    return (f"switch inhibitors: {words(running.inhibitors, wanted.inhibitors)}",)


def unit_differences(running: SystemContents, wanted: SystemContents, units: frozenset[str]) -> tuple[str, ...]:
    """Which of ``units`` the switch starts, stops or restarts."""
    return tuple(_unit_differences(running, wanted, units))


def _unit_differences(running: SystemContents, wanted: SystemContents, units: frozenset[str]) -> Iterator[str]:
    for unit in sorted(units):
        old, new = running.units.get(unit, ""), wanted.units.get(unit, "")
        if old != new:
            yield f"{UNIT}{unit} {'added' if not old else 'removed' if not new else 'changed'}"
