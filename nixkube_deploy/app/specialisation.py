"""From built systems to the specialisations that the inventory wants of them. Reads stores; touches no host."""

from collections.abc import Mapping
from dataclasses import replace

from nixkube_deploy.app.world import World
from nixkube_deploy.model.building import BuildOn
from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.facts import SystemContents
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.ports.nix import Built
from nixkube_deploy.protocols.probe import specialisations, system_contents


async def specialised(world: World, built: Built) -> Built:
    """Each closure whose host runs a specialisation, as that; or why there is none."""
    closures, failures = dict(built.closures), dict(built.failures)
    for name, closure in built.closures.items():
        host = world.fleet.hosts[name]
        if host.specialisation is None:
            continue
        del closures[name]
        try:
            closures[name] = await _specialised(world, host, closure)
        except TaskError as error:
            failures[name] = error.failure
    return Built(closures={n: closures[n] for n in built.closures if n in closures}, failures=failures)


async def _specialised(world: World, host: Host, closure: Closure) -> Closure:
    on_host = host.build_on is BuildOn.TARGET
    known = await (
        specialisations(world.shell, host, closure.out) if on_host else world.store.specialisations(closure.out)
    )
    path = known.get(host.specialisation or "")
    if path is None:
        raise TaskError(_unknown(host, closure, known))
    contents: SystemContents | None = (
        await system_contents(world.shell, host, path, world.fleet.cluster.distribution)
        if on_host
        else await world.store.contents(path)
    )
    if contents is None:
        raise TaskError(_unknown(host, closure, known))
    return replace(closure, contents=contents, toplevel=closure.out)


def _unknown(host: Host, closure: Closure, known: Mapping[str, StorePath]) -> Failure:
    there = ", ".join(sorted(known)) or "none"
    return Failure(
        kind=FailureKind.PREFLIGHT,
        message=f"the system of {host.name} has no specialisation {host.specialisation}",
        expected=f"{closure.out}/specialisation/{host.specialisation}",
        seen=f"specialisations: {there}",
        next=f"hosts.{host.name}.specialisation: one of these"
        if known
        else f"specialisation.{host.specialisation}.configuration = {{ ... }}; in the configuration of {host.name}",
    )
