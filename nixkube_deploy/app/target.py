"""Hosts that build their own systems: which of them can, all side by side, and what their systems are made of.

It does nothing for hosts that share an architecture: each builds for itself, even where the other has built it already.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from nixkube_deploy.app.survey import OnStep
from nixkube_deploy.app.world import World
from nixkube_deploy.model.closure import Closure, Evaluated
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.facts import HostFacts, SystemContents
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Activator, Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.nix import Built
from nixkube_deploy.protocols.probe import system_contents
from nixkube_deploy.protocols.together import together

AT_ONCE: Final = 8
"""Hosts that build at once: each costs the controller a ``nix copy`` of its derivations."""


async def build_on_targets(
    world: World, wanted: Sequence[Evaluated], facts: Mapping[HostName, HostFacts], say: OnStep
) -> Built:
    """Every host's system in its own store. A host that fails, or cannot be reached, does not sink the others."""
    closures: dict[HostName, Closure] = {}
    failures: dict[HostName, Failure] = {}

    async def build(one: Evaluated) -> None:
        try:
            contents = await _build(world, one, facts[one.host], say)
        except TaskError as error:
            failures[one.host] = error.failure
            return
        closures[one.host] = Closure(host=one.host, drv=one.drv, contents=contents, system=one.system)

    await together(build, wanted, AT_ONCE)
    return Built(closures=closures, failures=failures)


async def _build(world: World, one: Evaluated, facts: HostFacts, say: OnStep) -> SystemContents:
    host = world.fleet.hosts[one.host]
    _refuse(host, facts)
    if facts.current is not None and facts.current.path == one.out:
        return facts.current
    await world.store.build_on(host, one, say)
    return await system_contents(world.shell, host, one.out, world.fleet.cluster.distribution)


def _refuse(host: Host, facts: HostFacts) -> None:
    """What cannot be combined with building there.

    Raises:
        TaskError: PREFLIGHT.
    """
    if not facts.runs_nixos:
        raise task_error(
            FailureKind.PREFLIGHT,
            f"{host.name} cannot build its own system: it does not run NixOS yet",
            expected="build_on: controller for a host that is to be installed",
            seen=f"build_on: target, and a host that runs {facts.variant or facts.os_id}",
            next=f"add --build-on controller to install {host.name}; later runs can build on it",
        )
    if host.activation is not Activator.NATIVE:
        raise task_error(
            FailureKind.PREFLIGHT,
            f"{host.name} cannot build its own system: {host.activation} copies it from the controller",
            expected="activation: native with build_on: target",
            seen=f"activation: {host.activation}",
            next=f"set activation: native or build_on: controller for {host.name}",
        )
