"""Whether we become root on hosts that are to change, asked before any of them is touched. It changes nothing."""

from collections.abc import Iterable
from dataclasses import replace

from nixkube_deploy.app.world import World
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.plan.intent import needs_finishing
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.ports.shell import Command
from nixkube_deploy.protocols.together import together

_ASKED_AT_ONCE = 64


async def no_root(world: World, host: Host) -> Failure | None:
    """Why commands of ours do not become root on this host; None when they do."""
    try:
        result = await world.shell.run(host, Command(argv=("id", "-u"), privileged=True))
    except TaskError as error:
        return error.failure
    if result.stdout.strip() == "0":
        return None
    return Failure(
        kind=FailureKind.PRIVILEGE,
        message=f"{host.name} does not become root",
        expected="0 from id -u",
        seen=result.stdout.strip() or f"exit code {result.exit_code}",
        evidence=result.tail(5),
        next=f"set hosts.{host.name}.privilege: sudo (doas, run0), or ssh.user: root",
    )


async def without_root(world: World, hosts: Iterable[Host]) -> dict[HostName, Failure]:
    """Those of ``hosts`` on which we do not become root, and why."""
    found = dict[HostName, Failure]()

    async def ask(host: Host) -> None:
        if (failure := await no_root(world, host)) is not None:
            found[host.name] = failure

    await together(ask, hosts, _ASKED_AT_ONCE)
    return found


async def with_rights(world: World, prepared: Prepared) -> Prepared:
    """The same, and hosts that are to change and on which we do not become root have a problem.

    A login as root was seen by the probe. A host that runs what it should is not asked.
    """
    asked = [world.fleet.hosts[name] for name in prepared.facts if _is_to_ask(prepared, name)]
    refused = await without_root(world, asked)
    return replace(prepared, problems={**refused, **prepared.problems}) if refused else prepared


def _is_to_ask(prepared: Prepared, name: HostName) -> bool:
    facts, closure = prepared.facts[name], prepared.closures.get(name)
    if facts.uid == 0 or facts.current is None or name in prepared.problems:
        return False
    changes = closure is None or closure.out != facts.current.path or facts.reboot_pending or facts.boots_another
    return changes or needs_finishing(facts)
