"""Which systems hosts are to go back to: those before a run, or a generation of each host's own profile.

It asks hosts and journals; what is done about the answers is ``plan.rollback``'s.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nixkube_deploy.app.request import Target
from nixkube_deploy.app.survey import PROBES_AT_ONCE
from nixkube_deploy.app.world import World
from nixkube_deploy.journal.history import read, runs
from nixkube_deploy.model.action import SwitchConfiguration
from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.error import TaskError, UsageError
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.plan.rollback import Earlier
from nixkube_deploy.protocols.probe import PROFILE, generation_link, system_contents, system_path
from nixkube_deploy.protocols.script import Question, ask
from nixkube_deploy.protocols.together import together


@dataclass(slots=True)
class Found:
    """What hosts are to go back to, what those systems are made of, and why some cannot go."""

    targets: dict[HostName, Earlier] = field(default_factory=dict)
    closures: dict[HostName, Closure] = field(default_factory=dict)
    problems: dict[HostName, Failure] = field(default_factory=dict)


def before_run(state: Path, target: Target, to_run: str | None) -> dict[HostName, Earlier]:
    """What each host ran before a run of this inventory, or before the last one.

    Raises:
        UsageError: no such run is known.
    """
    mine = [r for r in runs(state) if r.inventory == target.fleet.source and (to_run is None or r.run == to_run)]
    if not mine:
        what = f"run {to_run} of this inventory is unknown" if to_run else "no run of this inventory is known"
        raise UsageError(what, hint="deploy runs")
    plan = read(state, mine[0].run).plan
    backs = {a.host: a.way_back for t in plan.graph.values() if isinstance(a := t.action, SwitchConfiguration)}
    found: dict[HostName, Earlier] = {}
    for host in plan.hosts:
        if host.current is None or host.wave is None:
            continue
        back = backs.get(host.host)
        generation = back.generation if back is not None and back.system == host.current else None
        found[host.host] = Earlier(system=host.current, profile=host.profile, generation=generation)
    return found


async def recorded(world: World, facts: Mapping[HostName, HostFacts], wanted: Mapping[HostName, Earlier]) -> Found:
    """Recorded systems, and what they are made of, read on the hosts. One that is gone is a problem."""
    found = Found(targets=dict(wanted))

    async def look(host: Host) -> None:
        await _read(world, host, wanted[host.name], found)

    await _everywhere(world, (name for name in wanted if _differs(facts.get(name), wanted[name])), look)
    return found


async def generation(world: World, facts: Mapping[HostName, HostFacts], number: int) -> Found:
    """Generation ``number`` of each host that was surveyed."""
    found = Found()

    async def look(host: Host) -> None:
        link = generation_link(number)
        questions = (
            Question(name="system", command=f"test -e {link} && readlink -f {link}"),
            Question(name="known", command=f"ls {PROFILE.rpartition('/')[0]}"),
        )
        answered = await ask(world.shell, host, questions)
        system = system_path(answered.get("system", ""))
        if system is None:
            found.problems[host.name] = _no_generation(host, number, answered.get("known", ""))
            return
        found.targets[host.name] = Earlier(system=system, generation=number)
        if _differs(facts.get(host.name), found.targets[host.name]):
            await _read(world, host, found.targets[host.name], found)

    async def safely(host: Host) -> None:
        try:
            await look(host)
        except TaskError as error:
            found.problems[host.name] = error.failure

    await _everywhere(world, (name for name, each in facts.items() if each.runs_nixos), safely)
    return found


def _differs(facts: HostFacts | None, earlier: Earlier) -> bool:
    """Whether something must be read: what runs or was booted is known from the survey."""
    known = (facts.current, facts.booted) if facts is not None else ()
    return facts is not None and all(each is None or each.path != earlier.system for each in known)


async def _everywhere(world: World, names: Iterable[HostName], look: Callable[[Host], Awaitable[None]]) -> None:
    hosts = world.fleet.hosts
    await together(look, (hosts[name] for name in names if name in hosts), PROBES_AT_ONCE)


async def _read(world: World, host: Host, earlier: Earlier, found: Found) -> None:
    try:
        contents = await system_contents(world.shell, host, earlier.system, world.fleet.cluster.distribution)
    except TaskError as error:
        found.problems[host.name] = await _why(world, host, earlier, error.failure)
        return
    found.closures[host.name] = Closure(host=host.name, drv="", contents=contents, system=host.system)


async def _why(world: World, host: Host, earlier: Earlier, failure: Failure) -> Failure:
    """Why a system could not be read, which may be that it is gone."""
    if failure.kind is not FailureKind.COMMAND:
        return failure
    try:
        return await _gone(world, host, earlier)
    except TaskError as error:
        return error.failure


async def _gone(world: World, host: Host, earlier: Earlier) -> Failure:
    listed = await ask(world.shell, host, (Question(name="known", command=f"ls {PROFILE.rpartition('/')[0]}"),))
    return Failure(
        kind=FailureKind.PREFLIGHT,
        message=f"{host.name} no longer has the system it is to go back to",
        expected=f"{earlier.system} in its store",
        seen=_generations(listed.get("known", "")),
        next=f"deploy rollback INVENTORY --on {host.name} --to-generation N, with one of those that are left",
    )


def _no_generation(host: Host, number: int, listing: str) -> Failure:
    gone = f"system-{number}-link" in listing.split()
    return Failure(
        kind=FailureKind.PREFLIGHT,
        message=f"generation {number} of {host.name} is there, but its system is gone"
        if gone
        else f"{host.name} has no generation {number}",
        expected=f"{generation_link(number)} and the system it points to",
        seen=_generations(listing),
        next=f"{host.login} nix-env -p {PROFILE} --list-generations",
    )


def _generations(listing: str) -> str:
    numbers = sorted(int(found) for found in re.findall(r"^system-(\d{1,9})-link$", listing, re.MULTILINE))
    return f"generations {', '.join(map(str, numbers))}" if numbers else "no generations at all"
