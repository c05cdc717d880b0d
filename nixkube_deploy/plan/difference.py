"""Two systems compared, in words a person can check: ``kernel: linux-6.12.7 -> linux-6.12.8``.

It says what differs; what that means for the host is ``classify``'s business.
"""

import json
from collections.abc import Iterator, Mapping

from nixkube_deploy.model.facts import SystemContents

HASH_LENGTH = 32
SHORT_HASH = 8
SHOWN = 5
"""Words of a text difference shown before ``and N more``."""
UNIT = "unit "
"""Begins the reason that a node unit changes."""
DROP_IN = "overrides.conf"
"""What NixOS calls the file with which it changes a unit that a package brings, in ``<unit>.d``."""


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
    """What a switch changes badly (systemd, the D-Bus implementation) or refuses to change."""
    return (*_bad_to_switch(running, wanted), *switch_refusals(running, wanted))


def _bad_to_switch(running: SystemContents, wanted: SystemContents) -> Iterator[str]:
    """A newer D-Bus of the same implementation is not restarted by a switch; another one cannot take over its bus."""
    if running.systemd != wanted.systemd:
        yield f"systemd: {step(running.systemd, wanted.systemd)}"
    old, new = _file_name(running.dbus), _file_name(wanted.dbus)
    if old and new and old != new:
        yield f"D-Bus implementation: {old} -> {new}"


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]


def switch_refusals(running: SystemContents, wanted: SystemContents) -> tuple[str, ...]:
    """What makes ``switch`` refuse, or leave the new system to the next boot; the way out is ``boot`` and a reboot."""
    return tuple(_switch_refusals(running, wanted))


def _switch_refusals(running: SystemContents, wanted: SystemContents) -> Iterator[str]:
    if wanted.init_interface and running.init_interface != wanted.init_interface:
        yield f"init interface: {running.init_interface or 'none'} -> {wanted.init_interface}"
    if running.inhibitors == wanted.inhibitors:
        return
    before, after = _inhibitors(running.inhibitors), _inhibitors(wanted.inhibitors)
    if before is None or after is None:
        yield f"switch inhibitors: {words(running.inhibitors, wanted.inhibitors)}"
        return
    differing = sorted(key for key in before.keys() & after.keys() if before[key] != after[key])
    yield from (f"switch inhibitor {key}: {before[key]} -> {after[key]}" for key in differing)


def _inhibitors(text: str) -> Mapping[str, object] | None:
    """NixOS writes an object, and refuses where a key that both systems have has another value. None: not an object."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def unit_differences(running: SystemContents, wanted: SystemContents, units: frozenset[str]) -> tuple[str, ...]:
    """Which of ``units`` the switch starts, stops or restarts."""
    return tuple(_unit_differences(running, wanted, units))


def _unit_differences(running: SystemContents, wanted: SystemContents, units: frozenset[str]) -> Iterator[str]:
    for unit in sorted(units):
        drop_in = f"{unit}.d/{DROP_IN}"
        if change := _file_change(running.units.get(unit), wanted.units.get(unit)):
            yield f"{UNIT}{unit} {change}"
        elif change := _file_change(running.units.get(drop_in), wanted.units.get(drop_in)):
            yield f"{UNIT}{unit}: drop-in {change}"


def _file_change(old: str | None, new: str | None) -> str:
    """The same path is the same text: what a unit names (its program, its restart triggers) stands in the text."""
    if old == new:
        return ""
    return "added" if not old else "removed" if not new else "changed"
