"""One row a host: what it runs, what it should run, how the cluster sees it. Touches nothing."""

from dataclasses import dataclass

import anyio

from nixkube_deploy.app.survey import OnStep, Survey, silent, survey
from nixkube_deploy.app.world import World
from nixkube_deploy.model.closure import FlakeState
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.etcd import ailment
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.ports.nix import Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """What ``status`` says of one host."""

    host: HostName
    reachable: bool
    problem: Failure | None = None
    generation: int | None = None
    current: StorePath | None = None
    wanted: StorePath | None = None
    """What the flake says; None when it could not be evaluated."""
    reboot_pending: bool = False
    on_trial: bool = False
    """It was activated with ``--mode test``: the next boot starts another system."""
    kernel: str = ""
    kubelet_version: str = ""
    ready: bool | None = None
    """None for a host that is no Node."""
    cordoned: bool = False
    cordoned_by: str | None = None
    store_free: int | None = None
    failed_units: tuple[str, ...] = ()
    etcd: str = ""
    """What its etcd member says of itself; empty where it has none."""
    etcd_ok: bool = True
    """Whether no etcd member of the host is unwell."""

    @property
    def drifted(self) -> bool:
        """Whether the host runs something else than the flake says."""
        return self.wanted is not None and self.current != self.wanted


async def fleet_status(world: World, say: OnStep = silent, *, evaluate: bool = True) -> tuple[HostStatus, ...]:
    """Probe, and evaluate unless told not to; a flake that does not evaluate leaves ``wanted`` empty."""
    found, evaluation = Survey(), Evaluation(flake=FlakeState(url=world.fleet.flake, revision=""))

    async def look() -> None:
        nonlocal found
        found = await survey(world, world.fleet.hosts.values(), say)

    async def think() -> None:
        nonlocal evaluation
        try:
            evaluation = await world.evaluator.evaluate(world.fleet.flake, tuple(world.fleet.hosts.values()), say)
        except TaskError as error:
            say(f"the flake could not be evaluated: {error.failure.message}")

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        if evaluate:
            group.start_soon(think)
    return tuple(_row(name, h.specialisation, found, evaluation) for name, h in world.fleet.hosts.items())


def _running(facts: HostFacts, *, whole: bool) -> StorePath | None:
    """What runs; of a specialisation that is wanted, the system it belongs to, as the flake names it."""
    if whole and facts.runs_specialisation:
        return facts.profile
    return facts.current.path if facts.current else None


def _row(name: HostName, specialisation: str | None, found: Survey, evaluation: Evaluation) -> HostStatus:
    evaluated = evaluation.hosts.get(name)
    wanted = evaluated.out if evaluated else None
    facts = found.facts.get(name)
    if facts is None:
        return HostStatus(host=name, reachable=False, problem=found.problems.get(name), wanted=wanted)
    node = facts.node
    return HostStatus(
        host=name,
        reachable=True,
        generation=facts.generation,
        current=_running(facts, whole=specialisation is not None),
        wanted=wanted,
        reboot_pending=facts.reboot_pending,
        on_trial=facts.on_trial,
        kernel=facts.kernel_release,
        kubelet_version=node.kubelet_version if node else "",
        ready=node.ready if node else None,
        cordoned=node.unschedulable if node else False,
        cordoned_by=node.cordoned_by if node else None,
        store_free=facts.disk.store,
        failed_units=facts.failed_units,
        etcd=str(facts.etcd) if facts.etcd is not None else "",
        etcd_ok=facts.etcd is None or ailment(name, facts.etcd) is None,
    )
