"""``switch-to-configuration`` of a simulated system: the verbs, the order of steps and the exit codes of the real one.

It decides nothing about reboots or rollbacks; it only does what it is told and says how that ended.
"""

import asyncio
from collections.abc import Mapping

from nixkube_deploy.lab.host import Call
from nixkube_deploy.lab.recipe import Recipe

VERBS = ("switch", "boot", "test", "dry-activate", "check")
CHECK_FAILED, ACTIVATION_FAILED, UNITS_FAILED, REBOOT_NEEDED, LOCK_HELD = 1, 2, 4, 100, 11
_USAGE = "Usage: switch-to-configuration [check|switch|boot|test|dry-activate]\n"


async def switch_to_configuration(call: Call) -> int:
    """The program in every system's ``bin``."""
    if len(call.args) != 1 or call.args[0] not in VERBS:
        call.err(_USAGE)
        return 1
    if not call.is_root:
        call.err("switch-to-configuration must be run as the root user\n")
        return 1
    system = call.files.canonical(call.argv[0]).removesuffix("/bin/switch-to-configuration")
    recipe = call.host.setting.store.system(system)
    if recipe is None:
        return call.fail(f"{system}: not a NixOS system")
    if call.args[0] == "dry-activate":
        return _dry_activate(call, recipe)
    host = call.host
    if host.switching or host.fault("lock-held"):
        call.err("Could not acquire lock\n")
        return LOCK_HELD
    host.switching = True
    try:
        await host.perhaps_hang(call.argv)
        return await _activate(call, recipe, call.args[0])
    finally:
        host.switching = False
        host.setting.changed()


async def _activate(call: Call, recipe: Recipe, verb: str) -> int:
    host, system = call.host, recipe.toplevel
    if verb in ("check", "switch", "test") and call.env.get("NIXOS_NO_CHECK") != "1" and _inhibited(call, recipe):
        return CHECK_FAILED
    if verb == "check":
        return 0
    host.machine.record_activation(system, verb)
    await asyncio.sleep(_seconds(system) * host.setting.pace + _slowness(call))
    scripted = _scripted_code(call, system, verb)
    if scripted == CHECK_FAILED:
        call.err("Failed to install bootloader\n")
        return CHECK_FAILED
    if verb in ("switch", "boot") and not _install_loader(call, system):
        return CHECK_FAILED
    if verb == "boot":
        return 0
    if scripted == REBOOT_NEEDED:
        call.err("Warning: the new NixOS configuration has an 'init' that is incompatible with the current one.\n")
        call.err("The new configuration won't take effect until you reboot the system.\n")
        return REBOOT_NEEDED
    call.err("activating the configuration...\nsetting up /etc...\n")
    if scripted == ACTIVATION_FAILED:
        call.err("Activation script snippet 'etc' failed (1)\nFailed to run activate script\n")
        return ACTIVATION_FAILED
    return await _switch_units(call, recipe, scripted)


def _inhibited(call: Call, recipe: Recipe) -> bool:
    current = call.host.setting.store.system(call.host.machine.current or "")
    before = current.configuration.inhibitors if current else ""
    after = recipe.configuration.inhibitors
    scripted = call.host.setting.faults.peek(call.host.name, "switch", system=recipe.toplevel)
    if scripted is not None and scripted.argument == "inhibitor":
        call.host.fault("switch", system=recipe.toplevel)
        before, after = "dbus-implementation : dbus\n", "dbus-implementation : broker\n"
    if before == after:
        return False
    call.err("There are changes to critical components of the system:\n\n")
    call.err(f"{before.strip() or '(none)'} -> {after.strip() or '(none)'}\n\n")
    call.err("Switching into this system is not recommended.\n")
    call.err("You probably want to run 'nixos-rebuild boot' and reboot your system instead.\n\n")
    call.err("Pre-switch check 'switchInhibitors' failed\nPre-switch checks failed\n")
    return True


def _scripted_code(call: Call, system: str, verb: str) -> int:
    """The exit code a fault wants, 0 for none. ``boot`` can only fail at the boot loader."""
    host = call.host
    for kind, fault in (
        ("switch", host.setting.faults.peek(host.name, "switch", system=system)),
        ("rollback-fails", host.setting.faults.peek(host.name, "rollback-fails")),
    ):
        if fault is None or not fault.argument.isdigit() or (kind == "rollback-fails" and fault.spared != system):
            continue
        if verb != "boot" or fault.argument == str(CHECK_FAILED):
            host.fault(kind, system=system if kind == "switch" else None)
            return int(fault.argument)
    return 0


def _install_loader(call: Call, system: str) -> bool:
    full = call.host.setting.faults.peek(call.host.name, "disk-full")
    if full is not None and full.argument == "boot":
        call.err("updating systemd-boot\nOSError: [Errno 28] No space left on device: '/boot/EFI/nixos/.initrd.tmp'\n")
        call.err("Failed to install bootloader\n")
        return False
    machine, store = call.host.machine, call.host.setting.store
    known = [generation.system for generation in machine.generations.values()]
    same = [each for each in known if (recipe := store.system(each)) is not None and recipe.toplevel == system]
    machine.install_loader(same)
    return True


async def _switch_units(call: Call, recipe: Recipe, scripted: int) -> int:
    host = call.host
    stopping, restarting, starting = _unit_changes(call, recipe)
    host.machine.current = recipe.toplevel
    for verb, names in (("stopping", stopping), ("restarting", restarting), ("starting", starting)):
        if names:
            call.err(f"{verb} the following units: {', '.join(names)}\n")
    for name in stopping:
        host.stopped(name)
        del host.machine.units[name]
    for name in (*restarting, *starting):
        host.replace_unit(name, recipe)
    await asyncio.sleep(0.05)
    failed = _failed_units(call, recipe, scripted)
    if not failed:
        return 0
    call.err(f"warning: the following units failed: {', '.join(failed)}\n")
    for name in failed:
        call.err(f"x {name} - {name.removesuffix('.service')}\n     Active: failed (Result: exit-code)\n")
    return UNITS_FAILED


def _failed_units(call: Call, recipe: Recipe, scripted: int) -> list[str]:
    """Units that a fault makes fail now; a unit it names need not be part of the configuration."""
    host = call.host
    names = ["logrotate-checkconf.service"] if scripted == UNITS_FAILED else []
    fault = host.fault("unit-fails", system=recipe.toplevel)
    if fault is not None:
        names.append(fault.argument)
    for name in names:
        if name not in host.machine.units:
            host.machine.units[name] = host.fresh_unit(name, "1", f"/etc/systemd/system/{name}")
        else:
            host.stopped(name)
        host.machine.units[name].end(1, host.setting.now())
        host.machine.log(name, f"{name}: Main process exited, code=exited, status=1/FAILURE")
    return names


def _unit_changes(call: Call, recipe: Recipe) -> tuple[list[str], list[str], list[str]]:
    """What is stopped, restarted and started, by comparing unit files."""
    running: Mapping[str, str] = {
        name: unit.fragment.rpartition("/")[0]
        for name, unit in call.host.machine.units.items()
        if not unit.is_transient
    }
    wanted = recipe.units
    stopping = sorted(name for name in running if name not in wanted)
    restarting = sorted(name for name, path in wanted.items() if name in running and running[name] != path)
    starting = sorted(name for name in wanted if name not in running)
    return stopping, restarting, starting


def _dry_activate(call: Call, recipe: Recipe) -> int:
    names = zip(("stop", "restart", "start"), _unit_changes(call, recipe), strict=True)
    for verb, changed in names:
        if changed:
            call.err(f"would {verb} the following units: {', '.join(changed)}\n")
    return 0


def _seconds(system: str) -> float:
    """Between 0.15 and 0.35 s, always the same for the same system."""
    return 0.15 + 0.2 * (sum(system.encode()) % 100) / 100


def _slowness(call: Call) -> float:
    fault = call.host.fault("activation-slow")
    return fault.seconds if fault else 0.0
