"""One look at a host for the health gate: over SSH, at its Node, inside it, and by the user's own gates.

Every trouble on the way becomes a text in the observation, because a host that is coming back answers badly in many
ways. It deliberately draws no conclusions: ``verdict`` does.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import quote

import anyio

from nixkube_deploy.model.cluster import Node, Pod
from nixkube_deploy.model.error import OutcomeUnknown, TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Distribution, Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.strategy import CommandGate, Gates, HttpGate, PrometheusGate, SelectedPods
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.cluster import Cluster
from nixkube_deploy.ports.shell import Command, Shell
from nixkube_deploy.ports.web import Web
from nixkube_deploy.protocols import script
from nixkube_deploy.protocols.etcd import hear
from nixkube_deploy.protocols.script import Question
from nixkube_deploy.protocols.verdict import (
    Conjunct,
    Expectation,
    HostSeen,
    InsideSeen,
    NodeSeen,
    Observation,
    Renewals,
    all_ready,
    count_renewals,
    epoch_of,
    verdict,
)

T = TypeVar("T")

NODE_LEASES = "kube-node-lease"
API_PATIENCE = 20.0
"""Seconds one stage may take at the API before the look goes on without it."""
HOST_PATIENCE = 20.0
NOT_FOUND = 127

_LOOK = (
    Question(name="boot", command="cat /proc/sys/kernel/random/boot_id"),
    Question(name="kernel", command="cat /proc/sys/kernel/osrelease"),
    Question(name="machine", command="cat /etc/machine-id"),
)
_LOOK_AT_KUBELET = "echo @kubelet; curl -fsS --max-time 5 http://127.0.0.1:10248/healthz"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateWorld:
    """What the gate needs of the world. ``resolve`` turns a command gate's selector into hosts."""

    shell: Shell
    cluster: Cluster | None
    web: Web
    clock: Clock
    node_of: Callable[[HostName], str | None]
    hosts: Mapping[HostName, Host]
    resolve: Callable[[str], frozenset[HostName]]
    distribution: Distribution = Distribution.K3S
    """Tells which unit's log to quote when the kubelet does not come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One observation's conjuncts, and what the next look has to know of it."""

    conjuncts: tuple[Conjunct, ...]
    renewals: Renewals
    epoch: str


async def look(world: GateWorld, host: Host, expect: Expectation, renewals: Renewals, gates: Gates | None) -> Look:
    """Look stage by stage, no further than the first stage with something closed.

    Raises:
        TaskError: HOST_KEY; waiting cannot mend that.
    """
    seen = Observation(at=world.clock.monotonic(), host=await see_host(world, host, expect))
    found = verdict(expect, seen, renewals)
    if expect.node and isinstance(seen.host, HostSeen) and world.cluster is not None:
        # The Lease is counted from the start, so the Node is looked at even while the kubelet does not answer.
        seen = replace(seen, node=await _see_node(world.cluster, world.node_of(host.name), seen.host))
        renewals = count_renewals(renewals, seen)
        found = verdict(expect, seen, renewals)
        # While the Lease is still being counted its pods are already worth a look: both take their time.
        settled = all(conjunct.holds or conjunct.name == "lease" for conjunct in found)
        if settled and isinstance(seen.node, NodeSeen) and seen.node.node is not None:
            seen = replace(seen, inside=await _see_inside(world.cluster, seen.node.node, expect))
            found = verdict(expect, seen, renewals)
    if gates is not None and all(conjunct.holds for conjunct in found):
        seen = replace(seen, users=await ask_users(world, host, gates))
        found = verdict(expect, seen, renewals)
    return Look(conjuncts=found, renewals=renewals, epoch=epoch_of(seen))


async def see_host(world: GateWorld, host: Host, expect: Expectation) -> HostSeen | str:
    """What the host says of itself, in one round trip, and what its etcd says; a text when it does not answer."""
    asked = script.script(_LOOK)
    asked += f"\n{_LOOK_AT_KUBELET}" if expect.node else ""  # The last, because its exit code counts.
    try:
        result = await world.shell.run(host, Command(argv=("sh", "-c", asked), timeout=HOST_PATIENCE))
    except TaskError as error:
        if error.failure.kind is FailureKind.HOST_KEY:
            raise
        if isinstance(error, OutcomeUnknown):
            await world.shell.forget(host)
        return error.failure.message
    said = script.read(result.stdout, _LOOK, ("kubelet",))
    if not said.get("boot"):
        return f"it answers, but not with its boot_id (exit code {result.exit_code}): {' '.join(result.tail(1))}"
    answer: str | None = said.get("kubelet", "")
    if not result.ok:
        answer = None if result.exit_code == NOT_FOUND else (answer or " ".join(result.stderr.split()))
        answer = answer if answer != "" else f"curl ended with exit code {result.exit_code}"
    heard = await hear(world.shell, host, world.distribution) if expect.etcd else None
    return HostSeen(
        boot_id=said["boot"],
        kernel=said.get("kernel", ""),
        machine_id=said.get("machine", ""),
        kubelet=answer if expect.node else None,
        etcd=heard.voice if heard is not None else None,
    )


async def _see_node(cluster: Cluster, name: str | None, host: HostSeen) -> NodeSeen | str:
    async def ask() -> NodeSeen:
        node = await (cluster.node(name) if name is not None else _registered(cluster, host.machine_id))
        lease = await cluster.lease(NODE_LEASES, node.name) if node is not None else None
        return NodeSeen(node=node, renew_time=lease.renew_time if lease is not None else "")

    return await _of_api(ask)


async def _registered(cluster: Cluster, machine_id: str) -> Node | None:
    """The Node of a machine that had none when the run began."""
    found = [node for node in await cluster.nodes() if machine_id and node.machine_id == machine_id]
    return found[0] if len(found) == 1 else None


async def _see_inside(cluster: Cluster, node: Node, expect: Expectation) -> InsideSeen | str:
    async def ask() -> InsideSeen:
        proxy = await cluster.node_healthz(node.name)
        pods = await cluster.pods(node.name)
        drivers = await cluster.csi_drivers(node.name) if expect.csi_drivers else frozenset[str]()
        return InsideSeen(proxy=proxy if proxy is None else proxy.strip(), pods=pods, csi_drivers=drivers)

    return await _of_api(ask)


async def _of_api(ask: Callable[[], Awaitable[T]]) -> T | str:
    """An answer, or why there is none. A refusal too is only told: API servers that start refuse what they allow."""
    with anyio.move_on_after(API_PATIENCE):
        try:
            return await ask()
        except TaskError as error:
            return error.failure.message
    return f"no answer within {API_PATIENCE:g} s"


# The user's gates.


async def ask_users(world: GateWorld, host: Host, gates: Gates) -> tuple[Conjunct, ...]:
    """Every gate of the inventory, asked at the same time, in the inventory's order."""
    asks: list[Callable[[], Awaitable[Conjunct]]] = []
    asks += [lambda gate=gate: _ask_http(world.web, gate) for gate in gates.http]  # type: ignore[misc]
    asks += [lambda gate=gate: _ask_command(world, host, gate) for gate in gates.command]  # type: ignore[misc]
    asks += [lambda gate=gate: _ask_prometheus(world.web, gate) for gate in gates.prometheus]  # type: ignore[misc]
    asks += [lambda gate=gate: _ask_pods(world.cluster, gate) for gate in gates.pods.selected]  # type: ignore[misc]
    found: dict[int, Conjunct] = {}

    async def ask(place: int) -> None:
        found[place] = await asks[place]()

    async with anyio.create_task_group() as group:
        for place in range(len(asks)):
            group.start_soon(ask, place)
    return tuple(found[place] for place in range(len(asks)))


async def _ask_http(web: Web, gate: HttpGate) -> Conjunct:
    answer = await web.get(gate.url, gate.timeout)
    return Conjunct(
        name=f"http {gate.url}",
        holds=not answer.error and answer.status == gate.expect,
        expected=f"status {gate.expect} from {gate.url}",
        seen=answer.error or f"status {answer.status}",
    )


async def _ask_command(world: GateWorld, host: Host, gate: CommandGate) -> Conjunct:
    """The command on every host it names, one after the other; the first that fails is told."""
    names = sorted(world.resolve(gate.on)) if gate.on is not None else [host.name]
    seen = "exit code 0" if names else f"no host matches {gate.on}"
    holds = bool(names)
    for name in names:
        trouble = await _trouble_with(world, world.hosts[name], gate)
        if trouble:
            holds, seen = False, f"{name}: {trouble}"
            break
    return Conjunct(name=f"command {gate.run}", holds=holds, expected=f"exit code 0 of: {gate.run}", seen=seen)


async def _trouble_with(world: GateWorld, host: Host, gate: CommandGate) -> str:
    try:
        result = await world.shell.run(host, Command(argv=("sh", "-c", gate.run), timeout=gate.timeout))
    except TaskError as error:
        return error.failure.message
    return "" if result.ok else ": ".join((f"exit code {result.exit_code}", *result.tail(1)))


async def _ask_prometheus(web: Web, gate: PrometheusGate) -> Conjunct:
    base = gate.url.rstrip("/")
    base = base if base.endswith("/api/v1/query") else f"{base}/api/v1/query"
    answer = await web.get(f"{base}?query={quote(gate.query, safe='')}", gate.timeout)
    count, trouble = (0, answer.error) if answer.error else _series(answer.body, answer.status)
    return Conjunct(
        name=f"prometheus {gate.query}",
        holds=not trouble and (count == 0) == (gate.expect == "empty"),
        expected=f"an {gate.expect} result" if gate.expect == "empty" else f"a {gate.expect} result",
        seen=trouble or f"{count} series",
    )


async def _ask_pods(cluster: Cluster | None, gate: SelectedPods) -> Conjunct:
    """Pods that are done or on their way out count neither for nor against: what comes in their place does."""
    where = f" in {gate.namespace}" if gate.namespace is not None else ""
    name = f"pods {gate.selector}{where}"
    if cluster is None:
        seen = "there is no Kubernetes API to ask"
        return Conjunct(name=name, holds=False, expected=f"at least {gate.at_least} Ready", seen=seen)
    asked = cluster

    async def ask() -> tuple[Pod, ...]:
        return await asked.selected_pods(gate.selector, gate.namespace)

    answer = await _of_api(ask)
    if isinstance(answer, str):
        return Conjunct(name="api", holds=False, expected="an answer of the Kubernetes API", seen=answer)
    counted = [pod for pod in answer if pod.deleting_since is None]
    return all_ready(name, f"pods {gate.selector}{where}", counted, gate.at_least)


def _series(body: str, status: int) -> tuple[int, str]:
    """How many series an instant query returned, or what is wrong with the answer."""
    try:
        answer = json.loads(body)
        if answer["status"] != "success":
            return 0, f"Prometheus says: {answer.get('error', 'no reason given')}"
        return len(answer["data"]["result"]), ""
    except (ValueError, KeyError, TypeError):
        return 0, f"status {status}, and no Prometheus answer in the body"
