"""One function a command that changes things: open the world, call the rooms in order, say how it ended."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from nixkube_deploy.app.begin import Begun
from nixkube_deploy.app.clock import SystemClock
from nixkube_deploy.app.console import Console
from nixkube_deploy.app.deploy import Planned, Report, carry_out, plan_rollout
from nixkube_deploy.app.earlier import before_run, generation, recorded
from nixkube_deploy.app.foresee import refuse_undrainable, with_outlook
from nixkube_deploy.app.privilege import with_rights
from nixkube_deploy.app.request import Request, Target, read_target
from nixkube_deploy.app.saved import read_plan, refuse_moved
from nixkube_deploy.app.state import state_directory
from nixkube_deploy.app.survey import Survey, add_drivers, refuse_without_cluster, survey
from nixkube_deploy.app.unfinished import (
    CutOff,
    aims_at_the_same,
    find_cut_off,
    find_run,
    finish,
    leaves_out,
    refuse_narrower,
    supersede,
    went_back,
)
from nixkube_deploy.app.wiring import open_world
from nixkube_deploy.app.world import World
from nixkube_deploy.journal.file import lock_inventory
from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.names import name_some
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.reboot import reboot as plan_reboot
from nixkube_deploy.plan.rollback import rollback as plan_rollback
from nixkube_deploy.plan.rollout import Choices


@asynccontextmanager
async def _at_work(request: Request, begun: Begun | None = None) -> AsyncIterator[tuple[Target, World, Path]]:
    """The inventory read, locked for this controller, and its world open."""
    target, state = begun.target if begun else read_target(request), state_directory()
    with lock_inventory(state, target.fleet.source, SystemClock()):
        async with open_world(target, begun.tools if begun else None) as world:
            yield target, world, state


async def plan(request: Request, console: Console, begun: Begun) -> Plan:
    """What ``apply`` would do. Takes no lock: it touches nothing."""
    target = begun.target
    async with open_world(target, begun.tools) as world:
        return (await plan_rollout(request, target, world, console)).plan


async def apply(request: Request, console: Console, begun: Begun | None = None) -> Report:
    """The main job. A run of this inventory that was cut off is finished first (docs/decisions/0006)."""
    async with _at_work(request, begun) as (target, world, state):
        cut_off = None if request.fresh else find_cut_off(state, target.fleet.source)
        if cut_off is not None:
            return await _take_up(cut_off, request, target, world, state, console)
        planned = await plan_rollout(request, target, world, console)
        return await carry_out(planned, request, world, state, console)


async def _take_up(
    cut_off: CutOff, request: Request, target: Target, world: World, state: Path, console: Console
) -> Report:
    refuse_narrower(cut_off, target)
    planned = await plan_rollout(request, target, world, console)
    if back := went_back(cut_off, planned):
        supersede(cut_off, target, state, console, f"{name_some(back)} went back by itself, unconfirmed")
        return await carry_out(planned, request, world, state, console)
    if not aims_at_the_same(cut_off, target, planned):
        supersede(cut_off, target, state, console)
        return await carry_out(planned, request, world, state, console)
    report = await finish(cut_off, world, state, console)
    if report.exit_code != 0 or not leaves_out(cut_off, planned):
        return report
    console.say(f"run {cut_off.summary.run} is finished; now the hosts it left out")
    planned = await plan_rollout(request, target, world, console)
    return await carry_out(planned, request, world, state, console)


async def apply_saved(path: Path, skip_unreachable: bool, console: Console) -> Report:
    """Exactly a saved plan, or a refusal.

    Raises:
        Refused: the inventory, the flake or a host is no longer what was reviewed.
    """
    reviewed = read_plan(path)
    request = Request(inventory=Path(reviewed.inventory), skip_unreachable=skip_unreachable)
    async with _at_work(request) as (target, world, state):
        cut_off = find_cut_off(state, target.fleet.source)
        if cut_off is not None and cut_off.plan.graph.fingerprint == reviewed.graph.fingerprint:
            return await finish(cut_off, world, state, console)
        there = [world.fleet.hosts[host.host] for host in reviewed.hosts if host.host in world.fleet.hosts]
        found = await survey(world, there, console.say)
        flake = await world.evaluator.state(world.fleet.flake)
        refuse_without_cluster(found)
        refuse_moved(reviewed, target.loaded, flake, found.facts, world)
        prepared = Prepared(facts=found.facts, problems=found.problems, flake=flake, etcd=found.voices)
        planned = Planned(plan=reviewed, prepared=prepared)
        await refuse_undrainable(world, reviewed, planned.nodes, console.say)
        return await carry_out(planned, request, world, state, console)


async def resume_only(request: Request, console: Console) -> Report:
    """``apply --resume``: finish the inventory's unfinished run, or say that there is none."""
    async with _at_work(request) as (target, world, state):
        cut_off = find_cut_off(state, target.fleet.source)
        if cut_off is None:
            raise UsageError(f"no run of {target.fleet.source} was cut off", hint=f"deploy apply {request.inventory}")
        refuse_narrower(cut_off, target)
        return await finish(cut_off, world, state, console)


async def resume(run: str | None, console: Console) -> Report:
    """Finish ``run``, or the latest one that was cut off."""
    cut_off = find_run(state_directory(), run)
    async with _at_work(Request(inventory=Path(cut_off.summary.inventory))) as (_, world, state):
        return await finish(cut_off, world, state, console)


async def reboot(request: Request, needed: bool, console: Console) -> Report:
    """Rolling reboots without a configuration change."""
    async with _at_work(request) as (target, world, state):
        found = await survey(world, world.fleet.hosts.values(), console.say)
        prepared = await _surveyed(world, found)
        hosts = frozenset(n for n, f in found.facts.items() if f.runs_nixos and (f.reboot_pending or not needed))
        choices = Choices(digest=target.loaded.digest)
        made, prepared = await with_outlook(
            world, prepared, lambda p: plan_reboot(world.fleet, p, hosts, choices), console.say
        )
        return await carry_out(Planned(plan=made, prepared=prepared), request, world, state, console)


async def rollback(request: Request, to_run: str | None, to_generation: int | None, console: Console) -> Report:
    """Back to what each host ran before a run, or to a generation of its own."""
    async with _at_work(request) as (target, world, state):
        wanted = before_run(state, target, to_run) if to_generation is None else {}
        found = await survey(world, world.fleet.hosts.values(), console.say)
        back = (
            await recorded(world, found.facts, wanted)
            if to_generation is None
            else await generation(world, found.facts, to_generation)
        )
        prepared = await _surveyed(world, found)
        prepared = replace(prepared, closures=back.closures, problems={**back.problems, **prepared.problems})
        choices = Choices(digest=target.loaded.digest)
        made, prepared = await with_outlook(
            world, prepared, lambda p: plan_rollback(world.fleet, p, back.targets, choices), console.say
        )
        return await carry_out(Planned(plan=made, prepared=prepared), request, world, state, console)


async def _surveyed(world: World, found: Survey) -> Prepared:
    """What a plan without new closures is made from."""
    refuse_without_cluster(found)
    await add_drivers(world, found)
    flake = await world.evaluator.state(world.fleet.flake)
    known = Prepared(
        facts=found.facts,
        problems=found.problems,
        without_drivers=found.without_drivers,
        flake=flake,
        etcd=found.voices,
    )
    return await with_rights(world, known)
