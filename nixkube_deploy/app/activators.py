"""Whether the programs that are to change hosts can do that, asked before any host is touched. It changes nothing."""

from dataclasses import replace

from nixkube_deploy.app.world import World
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName
from nixkube_deploy.plan.prepared import Prepared


async def with_activators(world: World, prepared: Prepared) -> Prepared:
    """The same, and hosts that are to change and whose activator cannot do that have a problem."""
    refused: dict[HostName, Failure] = {}
    for name, closure in prepared.closures.items():
        host, facts = world.fleet.hosts[name], prepared.facts.get(name)
        if name in prepared.problems or facts is None or facts.current is None or facts.current.path == closure.out:
            continue
        if (failure := await world.activators[host.activation].refuse(host)) is not None:
            refused[name] = failure
    return replace(prepared, problems={**refused, **prepared.problems}) if refused else prepared
