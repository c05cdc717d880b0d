"""One command on many hosts at once (``deploy exec``)."""

from collections.abc import Callable
from dataclasses import dataclass

from nixkube_deploy.app.world import World
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import Command, CommandResult
from nixkube_deploy.protocols.together import together

HOSTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOutput:
    """What one host answered: a result, or why there is none."""

    host: HostName
    result: CommandResult | None = None
    failure: Failure | None = None

    @property
    def ok(self) -> bool:
        """The command ran and exited with 0."""
        return self.result is not None and self.result.ok


async def run_everywhere(
    world: World, command: Command, on_output: Callable[[HostOutput], None]
) -> tuple[HostOutput, ...]:
    """Run ``command`` on every selected host; outputs are handed over as they come, returned in inventory order."""
    outputs: dict[HostName, HostOutput] = {}

    async def run_on(host: Host) -> None:
        try:
            output = HostOutput(host=host.name, result=await world.shell.run(host, command))
        except TaskError as error:
            output = HostOutput(host=host.name, failure=error.failure)
        outputs[host.name] = output
        on_output(output)

    await together(run_on, world.fleet.hosts.values(), HOSTS_AT_ONCE)
    return tuple(outputs[name] for name in world.fleet.hosts)
