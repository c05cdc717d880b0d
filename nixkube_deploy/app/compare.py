"""What changes inside the closures, found out only when somebody asks: one query here, one round trip a host.

A host or a store that cannot say leaves a gap in the answer, never a plan that could not be made.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from nixkube_deploy.app.survey import PROBES_AT_ONCE, OnStep
from nixkube_deploy.app.world import World
from nixkube_deploy.model.building import BuildOn
from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.model.packages import ClosureSizes, HostDifference, Sizes, StoredPath
from nixkube_deploy.plan.packages import closure_of, host_difference
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.protocols.together import together


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """What one host runs, and what it is to run. The old one is None where it runs no NixOS and will be wiped."""

    old: StorePath | None
    new: StorePath


@dataclass(slots=True)
class _Found:
    """What was found out so far."""

    differences: dict[HostName, HostDifference] = field(default_factory=dict)
    asked: int = 0


async def differences(world: World, prepared: Prepared, say: OnStep) -> Mapping[HostName, HostDifference]:
    """How each host's closures differ, and what of the new one it lacks."""
    pairs = {
        name: _pair(prepared.facts[name], closure)
        for name, closure in prepared.closures.items()
        if name in prepared.facts and name not in prepared.problems
    }
    known, problem = await _stored(world, pairs.values())
    found = _Found()

    async def compare(name: HostName) -> None:
        found.differences[name] = await _compare(world, name, pairs[name], known, problem, found)

    await together(compare, pairs, PROBES_AT_ONCE)
    say(f"compared closures; asked {found.asked} of {len(pairs)} hosts what they lack")
    return {name: found.differences[name] for name in pairs}


def _pair(facts: HostFacts, closure: Closure) -> _Pair:
    """Like with like: the closure of a specialisation is part of its system's, which is what travels."""
    if not facts.runs_nixos or facts.current is None:
        return _Pair(old=None, new=closure.profile)
    profile = facts.profile if facts.runs_specialisation else None
    return _Pair(old=profile or facts.current.path, new=closure.profile)


async def _stored(world: World, pairs: Collection[_Pair]) -> tuple[Mapping[StorePath, StoredPath], str]:
    """All systems in one query. An old one may be half gone from this store, which must not hide the new ones."""
    new = {pair.new for pair in pairs}
    try:
        return await world.closures.stored(new | {pair.old for pair in pairs if pair.old is not None}), ""
    except TaskError:
        pass
    try:
        return await world.closures.stored(new), ""
    except TaskError as error:
        return {}, error.failure.message


async def _compare(
    world: World, name: HostName, pair: _Pair, known: Mapping[StorePath, StoredPath], problem: str, found: _Found
) -> HostDifference:
    new = closure_of(pair.new, known)
    if new is None:
        if world.fleet.hosts[name].build_on is BuildOn.TARGET:
            return HostDifference(sizes=ClosureSizes(paths=0, travels=0, unknown="built on the host itself"))
        why = problem or "the new closure is not in the store of this machine"
        return HostDifference(sizes=ClosureSizes(unknown=f"sizes are not known: {why}"))
    if pair.old is None:
        return host_difference(None, new, new)
    if pair.old == pair.new:
        return host_difference(new, new, ())
    old = closure_of(pair.old, known)
    candidates = new.keys() - (old or {}).keys()
    if not candidates:
        return host_difference(old, new, ())
    found.asked += 1
    return await _ask(world, name, pair.old, old, new, candidates)


def _why(failure: Failure) -> str:
    said = failure.evidence[-1:]
    return f"{failure.message} ({said[0].strip()})" if said else failure.message


async def _ask(
    world: World, name: HostName, running: StorePath, old: Sizes | None, new: Sizes, candidates: Iterable[StorePath]
) -> HostDifference:
    """What a host runs it has, so only the rest is asked about; its closure is asked for where nobody here has it."""
    try:
        told = await world.closures.on_host(
            world.fleet.hosts[name], tuple(candidates), running if old is None else None
        )
    except TaskError as error:
        return host_difference(old, new, None, f"what must travel is not known: {_why(error.failure)}")
    before = old if old is not None else told.running
    return host_difference(before, new, told.missing, "" if before is not None else "what it runs now is not known")
