"""``apply --mode dry-activate``: every host's own word on what a switch would stop, restart and start.

The closures are staged, because only their own program can tell; nothing else is touched, and no journal is kept.
"""

import re
from dataclasses import dataclass
from typing import Final

from nixkube_deploy.app.console import Console
from nixkube_deploy.app.deploy import plan_rollout, refuse_on_problems
from nixkube_deploy.app.request import Request, read_target
from nixkube_deploy.app.wiring import open_world
from nixkube_deploy.app.world import World
from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import Command
from nixkube_deploy.protocols.together import together

AT_ONCE: Final = 8
_PATIENCE: Final = 300.0
_WOULD: Final = re.compile(
    r"^would (NOT )?(\w+) the following (?:changed )?units(?: in activation)?: (.+)$", re.MULTILINE
)

_VERBS: Final = ("stop", "restart", "reload", "start")


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a switch of one host would do; its own words in ``lines``."""

    host: HostName
    change: ChangeClass | None = None
    stop: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    reload: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    failure: Failure | None = None


async def dry_activate(request: Request, console: Console) -> tuple[DryRun, ...]:
    """Every host of the selection, in the inventory's order.

    Raises:
        Refused: more hosts have problems than ``max_failures`` allows, or nothing could be evaluated.
    """
    target = read_target(request)
    async with open_world(target) as world:
        planned = await plan_rollout(request, target, world, console)
        refuse_on_problems(planned.plan, world.fleet, request)
        found = {h.host: DryRun(host=h.host, failure=h.problem) for h in planned.plan.hosts}
        changes = {h.host: h.change.kind for h in planned.plan.hosts if h.change is not None and h.problem is None}
        found |= {name: DryRun(host=name, change=change) for name, change in changes.items()}

        async def look(name: HostName) -> None:
            host, closure = world.fleet.hosts[name], planned.prepared.closures[name]
            found[name] = await _dry_run(world, host, closure, changes[name], console)

        asked = (name for name, kind in changes.items() if kind.touches_host and kind is not ChangeClass.INSTALL)
        await together(look, asked, AT_ONCE)
        return tuple(found.values())


async def _dry_run(world: World, host: Host, closure: Closure, change: ChangeClass, console: Console) -> DryRun:
    try:
        await world.store.copy(closure.profile, host, lambda line: console.say(f"{host.name}: {line}"))
        lines = await _ask(world, host, closure)
    except TaskError as error:
        return DryRun(host=host.name, change=change, failure=error.failure)
    units: dict[str, tuple[str, ...]] = {}
    for spared, verb, names in _WOULD.findall("\n".join(lines)):
        if not spared and verb in _VERBS:
            units[verb] = (*units.get(verb, ()), *re.split(r",\s*", names.strip()))
    stop, restart, reload, start = (units.get(verb, ()) for verb in _VERBS)
    return DryRun(host=host.name, change=change, stop=stop, restart=restart, reload=reload, start=start, lines=lines)


async def _ask(world: World, host: Host, closure: Closure) -> tuple[str, ...]:
    argv = (f"{closure.out}/bin/switch-to-configuration", "dry-activate")
    result = await world.shell.run(host, Command(argv=argv, privileged=True, timeout=_PATIENCE))
    lines = tuple(line for line in (result.stdout + result.stderr).splitlines() if line.strip())
    if result.ok:
        return lines
    raise task_error(
        FailureKind.ACTIVATION,
        f"{host.name}: dry-activate failed",
        expected="switch-to-configuration dry-activate to exit with 0",
        seen=f"exit code {result.exit_code}",
        evidence=result.tail(),
        did="nothing: the system was not changed",
        command=" ".join(argv),
        exit_code=result.exit_code,
    )
