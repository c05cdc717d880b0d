"""What is: probe every host at once and match hosts to Nodes. Touches nothing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from nixkube_deploy.app.world import World
from nixkube_deploy.model.error import Refused, TaskError
from nixkube_deploy.model.etcd import Voice
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, NodeName
from nixkube_deploy.protocols.etcd import Heard, hear
from nixkube_deploy.protocols.installed import INSTALLER, as_installer, look_at
from nixkube_deploy.protocols.nodes import match_nodes, node_facts
from nixkube_deploy.protocols.probe import probe
from nixkube_deploy.protocols.quorum import hear_all
from nixkube_deploy.protocols.together import together

PROBES_AT_ONCE = 64
"""Key exchanges cost the controller CPU; more at once only makes each slower."""

OnStep = Callable[[str], None]
"""Receives one line of progress for people."""


def silent(_line: str) -> None:
    """Progress nobody wants."""


@dataclass(slots=True)
class Survey:
    """Facts of the hosts that answered, failures of those that did not."""

    facts: dict[HostName, HostFacts] = field(default_factory=dict)
    problems: dict[HostName, Failure] = field(default_factory=dict)
    without_drivers: dict[HostName, Failure] = field(default_factory=dict)
    """Why the storage drivers of a host's Node are not known."""
    voices: dict[str, Voice] = field(default_factory=dict)
    """What every etcd member says, also of hosts that were not asked for; by host, or by its own name elsewhere."""
    cluster_problem: Failure | None = None
    """Why the cluster could not be asked; None also for plain hosts."""


async def survey(world: World, hosts: Iterable[Host], say: OnStep = silent) -> Survey:
    """Probe ``hosts`` in parallel, and what etcd they have; then ask the cluster once."""
    found, hosts = Survey(cluster_problem=world.cluster_problem), tuple(hosts)
    distribution, heard = world.fleet.cluster.distribution, dict[HostName, tuple[Host, Heard]]()

    async def ask(host: Host) -> None:
        try:
            facts = await probe(world.shell, host, distribution)
            if facts.etcd is not None:
                told = await hear(world.shell, host, distribution)
                facts = replace(facts, etcd=told.voice if told is not None else None)
                heard.update({host.name: (host, told)} if told is not None else {})
            found.facts[host.name] = await _with_disks(world, host, facts)
        except TaskError as error:
            installer = await _installer(world, host)
            if installer is None:
                found.problems[host.name] = error.failure
            else:
                found.facts[host.name] = installer

    await together(ask, hosts, PROBES_AT_ONCE)
    say(f"probed {len(found.facts)} of {len(hosts)} hosts")
    await _hear_others(world, found, heard)
    try:
        await _add_nodes(world, found)
    except TaskError as error:
        found.cluster_problem = error.failure
    return found


async def _installer(world: World, host: Host) -> HostFacts | None:
    """A machine whose installation was cut off: it answers as another user, and maybe with another host key.

    Only an installer is taken for one, and only of a host that may be installed: it has nothing worth protecting, and
    the guards look at it as at any other.
    """
    if host.bootstrap is None:
        return None
    try:
        facts = await probe(world.shell, as_installer(host), world.fleet.cluster.distribution)
    except TaskError:
        return None
    return await _with_disks(world, as_installer(host), facts) if facts.variant == INSTALLER else None


async def _with_disks(world: World, host: Host, facts: HostFacts) -> HostFacts:
    """What a machine that may be installed says of its disks."""
    if host.bootstrap is None or facts.runs_nixos:
        return facts
    seen = await look_at(world.shell, host)
    return replace(facts, missing_disks=seen.missing, disks=seen.disks)


async def _hear_others(world: World, found: Survey, heard: dict[HostName, tuple[Host, Heard]]) -> None:
    """Members that were not asked for count as well: who is left when one of ours is away?"""
    if not heard:
        return
    known = {*found.facts, *found.problems}
    others = [h for h in world.whole.hosts.values() if h.role.is_control_plane and h.name not in known]
    try:
        found.voices = await hear_all(world.shell, heard, others, world.fleet.cluster.distribution)
    except TaskError as error:  # Another host's key is wrong: whoever is touched next is refused by that.
        found.voices = {name: each.voice for name, (_, each) in heard.items()}
        found.voices["the other members"] = Voice(trouble=error.failure.message)


async def _add_nodes(world: World, found: Survey) -> None:
    if world.cluster is None or not found.facts:
        return
    every = await world.cluster.nodes()
    nodes = match_nodes(found.facts, world.fleet.hosts, every)
    for name, node in nodes.items():
        found.facts[name] = replace(found.facts[name], node=node_facts(node))
    named = {node.name for node in every}
    for name, facts in found.facts.items():
        called = world.fleet.hosts[name].node or name
        if facts.node is None and not facts.runs_nixos and called in named:
            found.facts[name] = replace(facts, namesake=NodeName(called))


async def add_drivers(world: World, found: Survey) -> None:
    """Which storage drivers each Node has, so that a gate can miss one; where the API does not say, it is noted why."""
    cluster = world.cluster
    if cluster is None:
        return

    async def ask(facts: HostFacts) -> None:
        if facts.node is not None:
            try:
                node = replace(facts.node, csi_drivers=await cluster.csi_drivers(facts.node.name))
            except TaskError as error:
                found.without_drivers[facts.host] = error.failure
            else:
                found.facts[facts.host] = replace(facts, node=node)

    await together(ask, tuple(found.facts.values()), PROBES_AT_ONCE)


def refuse_without_cluster(found: Survey) -> None:
    """A Kubernetes fleet whose API does not answer is not touched, unless none of it runs NixOS yet.

    Raises:
        Refused: with what the API or the kubeconfig said.
    """
    if found.cluster_problem is None or not any(facts.runs_nixos for facts in found.facts.values()):
        return
    raise Refused(
        "the Kubernetes API does not answer, so nothing could be drained or gated; nothing was touched",
        hint="kubectl get nodes; or cluster.distribution: none for plain NixOS hosts",
        failures=(("cluster", found.cluster_problem),),
    )
