"""Facts, closures and problems of a whole selection: probe, evaluate and build, with no disruption anywhere."""

from dataclasses import dataclass, field

import anyio

from nixkube_deploy.app.architecture import without_other_systems
from nixkube_deploy.app.specialisation import specialised
from nixkube_deploy.app.survey import OnStep, Survey, add_drivers, refuse_without_cluster, silent, survey
from nixkube_deploy.app.target import build_on_targets
from nixkube_deploy.app.world import World
from nixkube_deploy.model.building import BuildOn
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.ports.nix import Built, Evaluation


@dataclass(slots=True)
class _Halves:
    """What the two concurrent halves of the preparation leave behind."""

    survey: Survey | None = None
    evaluation: Evaluation | None = None
    early: Built = field(default_factory=Built)
    """What was built before every host had answered."""


async def prepare(world: World, say: OnStep = silent) -> Prepared:
    """Probe and evaluate at the same time, then build what is missing; what is sure to be, as soon as that is known.

    Raises:
        Refused: the cluster does not answer.
        TaskError: nothing at all could be evaluated.
    """
    hosts, halves = tuple(world.fleet.hosts.values()), _Halves()

    async def look() -> None:
        halves.survey = await survey(world, hosts, say)
        await add_drivers(world, halves.survey)

    async def think() -> None:
        evaluation = await world.evaluator.evaluate(world.fleet.flake, hosts, say)
        halves.evaluation = without_other_systems(evaluation, hosts)
        if halves.survey is None:
            halves.early = await _build_early(world, halves.evaluation, say)

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        group.start_soon(think)
    assert halves.survey is not None
    assert halves.evaluation is not None
    refuse_without_cluster(halves.survey)
    world.last_seen.note({n: f.current.path for n, f in halves.survey.facts.items() if f.current is not None})
    built = await specialised(world, await _build(world, halves, say))
    return Prepared(
        facts=halves.survey.facts,
        closures=built.closures,
        without_drivers=halves.survey.without_drivers,
        problems=_first_problem(hosts, halves.survey, halves.evaluation, built),
        flake=halves.evaluation.flake,
        voters=_voters(world, halves.survey),
        etcd=halves.survey.voices,
    )


def _voters(world: World, found: Survey) -> frozenset[HostName]:
    control = {host.name for host in world.fleet.hosts.values() if host.role.is_control_plane}
    return frozenset(control | {name for name in world.whole.hosts if name in found.voices})


async def _build_early(world: World, evaluation: Evaluation, say: OnStep) -> Built:
    """For hosts that ran something else when this controller last saw them: they need it, whatever they answer.

    Nothing is built for others yet: where the controller's store is a fresh one, the whole world would be, for hosts
    that run it already.
    """
    ran = world.last_seen.read()
    sure = [
        one
        for name, one in evaluation.hosts.items()
        if ran.get(name, one.out) != one.out and world.fleet.hosts[name].build_on is not BuildOn.TARGET
    ]
    return await world.store.build(world.fleet.flake, sure, frozenset(), say) if sure else Built()


async def _build(world: World, halves: _Halves, say: OnStep) -> Built:
    """The rest, here and on the hosts at the same time."""
    found, evaluation, early = halves.survey, halves.evaluation, halves.early
    assert found is not None
    assert evaluation is not None
    bare = frozenset(name for name, facts in found.facts.items() if not facts.runs_nixos)
    done = (early.closures.keys() | early.failures.keys()) - bare
    there: list[Evaluated] = []
    here: list[Evaluated] = []
    for name, one in evaluation.hosts.items():
        if name in found.facts and name not in done:
            on_target = world.fleet.hosts[name].build_on is BuildOn.TARGET
            (there if on_target else here).append(one)
    kept = done & found.facts.keys()
    parts = [
        Built(
            closures={name: closure for name, closure in early.closures.items() if name in kept},
            failures={name: failure for name, failure in early.failures.items() if name in kept},
        )
    ]

    async def on_controller() -> None:
        if here:
            parts.append(await world.store.build(world.fleet.flake, here, bare, say))

    async def on_hosts() -> None:
        parts.append(await build_on_targets(world, there, found.facts, say))

    async with anyio.create_task_group() as group:
        group.start_soon(on_controller)
        group.start_soon(on_hosts)
    closures = {name: closure for part in parts for name, closure in part.closures.items()}
    say(f"built {len(closures)} of {len(here) + len(there) + len(kept)} closures")
    return Built(
        closures={name: closures[name] for name in evaluation.hosts if name in closures},
        failures={name: failure for part in parts for name, failure in part.failures.items()},
    )


def _first_problem(
    hosts: tuple[Host, ...], found: Survey, evaluation: Evaluation, built: Built
) -> dict[HostName, Failure]:
    problems: dict[HostName, Failure] = {}
    for host in hosts:
        for source in (found.problems, evaluation.failures, built.failures):
            if host.name in source:
                problems[host.name] = source[host.name]
                break
    return problems
