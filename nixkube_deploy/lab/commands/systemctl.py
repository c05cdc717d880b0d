"""``systemctl`` and ``journalctl`` of a simulated host."""

import asyncio
import fnmatch

from nixkube_deploy.lab.host import Call
from nixkube_deploy.lab.units import Unit, missing_properties

_QUIET = (
    "--quiet",
    "-q",
    "--no-pager",
    "--plain",
    "--no-legend",
    "--full",
    "-l",
    "--no-ask-password",
    "--now",
    "--no-block",
)
_NEEDS_ROOT = (
    "start",
    "stop",
    "restart",
    "reset-failed",
    "reboot",
    "poweroff",
    "daemon-reload",
    "kexec",
    "try-restart",
)
_NOT_ACTIVE = 3
_NO_SUCH_UNIT = 4
_NOT_LOADED = 5
_AUTHENTICATION = "Interactive authentication required."


async def systemctl(call: Call) -> int:
    """One verb and its units."""
    words = [word for word in call.args if not word.startswith("-")]
    verb = words.pop(0) if words else "list-units"
    if verb in _NEEDS_ROOT and not call.is_root:
        unit = f" {words[0]}" if words else ""
        call.err(f"Failed to {verb}{unit}: {_AUTHENTICATION}\n")
        return 1
    match verb:
        case "show":
            return _show(call, words)
        case "is-active" | "is-failed":
            return _is(call, verb, words)
        case "is-system-running":
            return _is_system_running(call)
        case "list-units" | "list-timers":
            return _list(call, verb, words)
        case "status":
            return _status(call, words)
        case "start" | "stop" | "restart" | "try-restart":
            return await _change(call, verb, words)
        case "reset-failed":
            return _reset_failed(call, words)
        case "daemon-reload" | "daemon-reexec":
            return 0
        case "reboot" | "kexec":
            call.host.request_reboot(kexec=verb == "kexec")
            return 0
        case _:
            return call.fail(f"Unknown command verb {verb}.")


def _units(call: Call) -> dict[str, Unit]:
    """Services, and timers as units of their own."""
    machine = call.host.machine
    timers = {
        timer.name: Unit(name=timer.name, description=" ".join(timer.argv), sub="waiting", kind="timer")
        for timer in machine.timers.values()
    }
    return {**machine.units, **timers}


def _full(name: str) -> str:
    return name if "." in name or "*" in name else name + ".service"


def _show(call: Call, names: list[str]) -> int:
    wanted: list[str] = []
    value_only = "--value" in call.args
    skip = False
    for index, word in enumerate(call.args):
        if word.startswith("--property="):
            wanted += word.partition("=")[2].split(",")
        elif word in ("-p", "--property") and index + 1 < len(call.args):
            wanted += call.args[index + 1].split(",")
            skip = True
    if skip:
        names = [name for name in names if name.split(",")[0] not in wanted]
    blocks = []
    for name in map(_full, names):
        unit = _units(call).get(name)
        properties = unit.properties() if unit else missing_properties(name)
        shown = {key: properties[key] for key in wanted if key in properties} if wanted else properties
        blocks.append("".join(f"{value}\n" if value_only else f"{key}={value}\n" for key, value in shown.items()))
    call.out("\n".join(blocks))
    return 0


def _is(call: Call, verb: str, names: list[str]) -> int:
    states = []
    for name in map(_full, names):
        unit = _units(call).get(name)
        states.append(unit.active if unit else "inactive")
    if "--quiet" not in call.args and "-q" not in call.args:
        call.out("".join(state + "\n" for state in states))
    if verb == "is-failed":
        return 0 if "failed" in states else 1
    return 0 if any(state in ("active", "reloading") for state in states) else _NOT_ACTIVE


def _is_system_running(call: Call) -> int:
    degraded = any(unit.active == "failed" for unit in call.host.machine.units.values())
    call.out("degraded\n" if degraded else "running\n")
    return 1 if degraded else 0


def _list(call: Call, verb: str, patterns: list[str]) -> int:
    failed_only = "--failed" in call.args or "--state=failed" in call.args
    everything = "--all" in call.args or "-a" in call.args
    kinds = [word.partition("=")[2] for word in call.args if word.startswith("--type=")]
    rows = []
    for name, unit in sorted(_units(call).items()):
        if failed_only and unit.active != "failed":
            continue
        if not (everything or failed_only) and unit.active == "inactive":
            continue
        if patterns and not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        if (kinds and name.rpartition(".")[2] not in kinds) or (verb == "list-timers" and not name.endswith(".timer")):
            continue
        bullet = "" if "--plain" in call.args else "● " if unit.active == "failed" else "  "
        rows.append(f"{bullet}{name} loaded {unit.active} {unit.sub} {unit.description or name}\n")
    call.out("".join(rows))
    if "--no-legend" not in call.args and "--legend=false" not in call.args:
        call.out(f"\n{len(rows)} loaded units listed.\n")
    return 0


def _status(call: Call, names: list[str]) -> int:
    if not names:
        call.out(f"● {call.host.machine.hostname}\n    Units: {len(_units(call))} loaded\n")
        return 0
    code = 0
    for name in map(_full, names):
        unit = _units(call).get(name)
        if unit is None:
            call.err(f"Unit {name} could not be found.\n")
            code = _NO_SUCH_UNIT
            continue
        call.out(f"● {name} - {unit.description}\n     Loaded: loaded ({unit.fragment or 'transient'})\n")
        call.out(f"     Active: {unit.active} ({unit.sub})\n   Main PID: {unit.pid}\n")
        call.out("".join(f"{line}\n" for line in call.host.machine.journal.get(name, [])[-10:]))
        code = code or (0 if unit.is_active else _NOT_ACTIVE)
    return code


async def _change(call: Call, verb: str, names: list[str]) -> int:
    """Each unit in turn; one that is missing is told, and does not keep the others from their turn."""
    host, code = call.host, 0
    for name in (each for given in map(_full, names) for each in _matching(call, given)):
        timer = host.machine.timers.get(name)
        if timer is not None:
            if verb == "stop":
                del host.machine.timers[name]
            else:
                timer.restart(host.setting.now())
            continue
        unit = host.machine.units.get(name)
        if unit is None:
            if verb != "try-restart":
                call.err(f"Failed to {verb} {name}: Unit {name} not {'loaded' if verb == 'stop' else 'found'}.\n")
                code = _NOT_LOADED
            continue
        await asyncio.sleep(0.02)
        if verb == "stop":
            _stop(call, unit)
        else:
            host.started(name)
    host.setting.changed()
    return code


def _matching(call: Call, name: str) -> list[str]:
    """The loaded units a pattern fits, of which there may be none; a plain name is itself."""
    return sorted(fnmatch.filter(_units(call), name)) if _is_pattern(name) else [name]


def _is_pattern(name: str) -> bool:
    """As systemd has it: a glob is expanded to the units that are loaded."""
    return any(sign in name for sign in "*?[")


def _stop(call: Call, unit: Unit) -> None:
    call.host.stopped(unit.name)
    if unit.is_transient:
        del call.host.machine.units[unit.name]


def _reset_failed(call: Call, names: list[str]) -> int:
    units = call.host.machine.units
    chosen = [_full(name) for name in names] or [name for name, unit in units.items() if unit.active == "failed"]
    code = 0
    for name in chosen:
        matching = fnmatch.filter(units, name)
        if not matching and "*" not in name:
            call.err(f"Failed to reset failed state of unit {name}: Unit {name} not loaded.\n")
            code = 1
        for each in matching:
            if units[each].active != "failed":
                continue
            if units[each].is_transient:
                del units[each]
            else:
                units[each].stop(call.host.setting.now())
    call.host.setting.changed()
    return code


async def journalctl(call: Call) -> int:
    """``journalctl -u UNIT [-o cat] [-n N]``: lines of one unit, or of all."""
    if "--list-boots" in call.args:  # Journals do not outlive a boot here.
        call.out(f"  0 {call.host.machine.boot_id.replace('-', '')} -\n")
        return 0
    names: list[str] = []
    count: int | None = None
    words = list(call.args)
    while words:
        word = words.pop(0)
        if word in ("-u", "--unit") and words:
            names.append(_full(words.pop(0)))
        elif word.startswith("--unit="):
            names.append(_full(word.partition("=")[2]))
        elif word in ("-n", "--lines") and words:
            count = int(words.pop(0)) if words[0].isdigit() else None
        elif word in ("-o", "--output", "--since", "-b") and words and not words[0].startswith("-"):
            words.pop(0)
    journal = call.host.machine.journal
    lines = [line for unit in (names or sorted(journal)) for line in journal.get(unit, [])]
    if not lines:
        call.out("-- No entries --\n")
        return 0
    call.out(
        "".join(line + "\n" for line in (lines if count is None else lines[len(lines) - min(count, len(lines)) :]))
    )
    return 0
