"""``systemd-run``: transient services and timers of a simulated host."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from nixkube_deploy.lab.host import Call
from nixkube_deploy.lab.units import Timer, Unit

_SWITCHES = (
    "--collect", "-G", "--no-ask-password", "--no-block", "--pipe", "-P", "--quiet", "-q", "--remain-after-exit", "-r",
    "--same-dir", "-d", "--system", "--wait",
)  # fmt: skip
_VALUES = (
    "--unit", "-u", "--property", "-p", "--service-type", "--description", "--on-active", "--setenv", "-E", "--uid",
    "--timer-property",
)  # fmt: skip
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|sec|m|min|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(slots=True)
class _Request:
    """A parsed command line."""

    switches: set[str] = field(default_factory=set)
    values: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()

    def has(self, *names: str) -> bool:
        return any(name in self.switches for name in names)


async def systemd_run(call: Call) -> int:
    """Start a command as a unit of its own, now or later."""
    request = _parsed(call)
    if isinstance(request, str):
        return call.fail(request)
    if not request.argv:
        return call.fail("Command line to execute required.")
    if not call.is_root:
        call.err("Failed to start transient service unit: Interactive authentication required.\n")
        return 1
    name = request.values.get("--unit") or f"run-u{uuid.uuid4().hex[:6]}"
    service = name if name.endswith((".service", ".timer")) else name + ".service"
    machine = call.host.machine
    timer_name = service.removesuffix(".service") + ".timer"
    if service in machine.units or ("--on-active" in request.values and timer_name in machine.timers):
        kind = "timer" if "--on-active" in request.values else "service"
        call.err(f"Failed to start transient {kind} unit: Unit {service} was already loaded or has a fragment file.\n")
        return 1
    if "--on-active" in request.values:
        return _start_timer(call, request, timer_name, service)
    return await _start_service(call, request, service)


def _parsed(call: Call) -> _Request | str:
    request = _Request()
    words = list(call.args)
    while words:
        word = words.pop(0)
        if word == "--":
            break
        if not word.startswith("-"):
            words.insert(0, word)
            break
        name, equals, value = word.partition("=")
        if word in _SWITCHES:
            request.switches.add(word)
        elif name in _VALUES:
            if not equals:
                if not words:
                    return f"option '{name}' requires an argument"
                value = words.pop(0)
            _note(request, name, value)
        else:
            return f"unrecognized option '{word}'"
    request.argv = tuple(words)
    return request


def _note(request: _Request, name: str, value: str) -> None:
    name = {"-u": "--unit", "-p": "--property", "-E": "--setenv"}.get(name, name)
    if name == "--setenv":
        variable, _, text = value.partition("=")
        request.env[variable] = text
    elif name == "--property":
        key, _, text = value.partition("=")
        request.values[key] = text
    else:
        request.values[name] = value


def _start_timer(call: Call, request: _Request, timer_name: str, service: str) -> int:
    match = _SPAN.fullmatch(request.values["--on-active"])
    if match is None:
        return call.fail(f"Failed to parse timer value: {request.values['--on-active']}")
    after = float(match[1]) * _SECONDS[match[2] or "s"]
    timer = Timer(name=timer_name, due=call.host.setting.now() + after, argv=request.argv, service=service, after=after)
    call.host.machine.timers[timer_name] = timer
    if not request.has("--quiet", "-q"):
        call.err(f"Running timer as unit: {timer_name}\nWill run service as unit: {service}\n")
    call.host.setting.changed()
    return 0


async def _start_service(call: Call, request: _Request, service: str) -> int:
    values: Mapping[str, str] = request.values
    unit = Unit(
        name=service,
        description=values.get("--description") or " ".join(request.argv),
        kind=values.get("--service-type", values.get("Type", "simple")),
        remain=request.has("--remain-after-exit", "-r") or values.get("RemainAfterExit") in ("yes", "true"),
        collect=request.has("--collect", "-G"),
    )
    pipe, wait = request.has("--pipe", "-P"), request.has("--wait")
    if not request.has("--quiet", "-q"):
        call.err(f"Running as unit: {service}\n")
    streams = call.streams if pipe else None
    task = call.host.start_transient(unit, request.argv, streams, env=request.env)
    call.host.setting.changed()
    if pipe or wait:
        return await task
    if unit.kind != "oneshot" or request.has("--no-block"):
        return 0
    if await task:
        call.err(f"Job for {service} failed because the control process exited with error code.\n")
        return 1
    return 0
