"""One function a command that only looks: status, check, exec, runs, show."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio

from nixkube_deploy.app.check import Finding, check_fleet
from nixkube_deploy.app.console import Console
from nixkube_deploy.app.everywhere import HostOutput, run_everywhere
from nixkube_deploy.app.request import Request, read_target
from nixkube_deploy.app.state import state_directory
from nixkube_deploy.app.status import HostStatus, fleet_status
from nixkube_deploy.app.unchecked import is_example
from nixkube_deploy.app.wiring import open_world
from nixkube_deploy.inventory.explain import explain
from nixkube_deploy.inventory.load import load_fleet
from nixkube_deploy.journal.history import RunSummary, Stored, read, runs
from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.names import HostName, RunId
from nixkube_deploy.ports.shell import Command


async def status(request: Request, console: Console, evaluate: bool) -> tuple[HostStatus, ...]:
    """One row a host."""
    async with open_world(read_target(request)) as world:
        return await fleet_status(world, console.say, evaluate=evaluate)


async def watch_status(
    request: Request, evaluate: bool, interval: float, show: Callable[[tuple[HostStatus, ...]], None]
) -> None:
    """``status`` again and again over the same connections, until interrupted."""
    async with open_world(read_target(request)) as world:
        while True:
            show(await fleet_status(world, evaluate=evaluate))
            await anyio.sleep(interval)


async def check(request: Request, console: Console) -> tuple[Finding, ...]:
    """The live preflight."""
    target = read_target(request)
    real = frozenset(name for name, host in target.whole.hosts.items() if not is_example(host))
    async with open_world(replace(target, whole=target.whole.only(real))) as world:
        return await check_fleet(world, console.say)


def check_static(request: Request) -> str:
    """Read the inventory and say what it holds."""
    fleet = read_target(request).fleet
    groups = ", ".join(f"{name} ({len(group.members)})" for name, group in fleet.groups.items())
    return f"{fleet.source}: {len(fleet.hosts)} hosts in {groups}; cluster {fleet.cluster.name}, flake {fleet.flake}"


def explain_host(inventory: Path, host: str) -> str:
    """Each effective setting of a host and where it comes from."""
    return explain(load_fleet(inventory), HostName(host))


async def run_command(
    request: Request, command: Command, on_output: Callable[[HostOutput], None]
) -> tuple[HostOutput, ...]:
    """One command on every selected host."""
    async with open_world(read_target(request)) as world:
        return await run_everywhere(world, command, on_output)


def list_runs() -> tuple[RunSummary, ...]:
    """Every run on disk, newest first."""
    return tuple(runs(state_directory()))


def read_run(run: str | None) -> Stored:
    """One run, the latest when None.

    Raises:
        UsageError: there is no such run.
    """
    state = state_directory()
    if run is not None:
        return read(state, RunId(run))
    known = runs(state)
    if not known:
        raise UsageError("no runs are known here", hint=f"journals are looked for in {state}")
    return read(state, known[0].run)
