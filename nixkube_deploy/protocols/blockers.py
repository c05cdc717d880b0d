"""What keeps a host from rebooting: pods on its Node that must end by themselves, and alerts. It waits for them.

The host is not touched meanwhile, and it cordons nothing: that the pods may be evicted is decided when they are gone.
"""

from collections.abc import Callable

import anyio

from nixkube_deploy.model.action import AwaitBlockers
from nixkube_deploy.model.cluster import Pod
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.labels import label_selector
from nixkube_deploy.model.strategy import AlertBlocker, Gates, PodBlocker, PrometheusGate
from nixkube_deploy.protocols.gate import GateWorld
from nixkube_deploy.protocols.observe import ask_users

POLL = 5.0
"""Seconds between two looks: what blocks a reboot takes minutes."""
NAMED = 3
"""Pods that are named one by one."""

Report = Callable[[str], None]


async def await_blockers(world: GateWorld, host: Host, action: AwaitBlockers, report: Report) -> str:
    """Return when nothing blocks; says what was waited for.

    Raises:
        TaskError: GATE, naming what blocks and for how long it was waited for; what cannot be asked blocks, too.
    """
    began, told = world.clock.monotonic(), ""
    while True:
        blocking = await _blocking(world, host, action)
        waited = world.clock.monotonic() - began
        if not blocking:
            return f"waited {waited:.0f} s for {told}" if told else ""
        if waited >= action.blockers.timeout:
            raise task_error(
                FailureKind.GATE,
                f"{host.name} may not reboot: {blocking[0]}",
                expected=f"nothing that blocks its reboot, within {action.blockers.timeout:g} s",
                seen="; ".join(blocking),
                evidence=blocking,
                did="left the host untouched",
                next="strategy.reboot_blockers says what blocks a reboot; deploy reboot again when it is over",
            )
        now = "; ".join(blocking)
        if now != told:
            report(f"not rebooted yet: {now}")
        told = now
        await anyio.sleep(min(POLL, action.blockers.timeout - waited))


async def _blocking(world: GateWorld, host: Host, action: AwaitBlockers) -> tuple[str, ...]:
    """Everything that blocks now, in words."""
    return (*await _pods(world, host, action), *await _alerts(world, host, action.blockers.prometheus))


async def _pods(world: GateWorld, host: Host, action: AwaitBlockers) -> tuple[str, ...]:
    """A plain host has no pods; a Node whose pods cannot be listed may have any."""
    node = world.node_of(host.name)
    if not action.blockers.pods or not action.expect_node or world.cluster is None:
        return ()
    if node is None:
        return ("its pods cannot be listed: its Node is not known",)
    try:
        pods = await world.cluster.pods(node)
    except TaskError as error:
        return (f"its pods cannot be listed: {error.failure.message}",)
    return tuple(text for blocker in action.blockers.pods if (text := _told(blocker, pods)))


def _told(blocker: PodBlocker, pods: tuple[Pod, ...]) -> str:
    names = sorted(pod.key for pod in pods if _blocks(blocker, pod))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more} ({blocker.selector})" if names else ""


def _blocks(blocker: PodBlocker, pod: Pod) -> bool:
    selected = all(requirement.admits(pod.labels) for requirement in label_selector(blocker.selector))
    return selected and blocker.namespace in {None, pod.namespace} and not pod.is_finished


async def _alerts(world: GateWorld, host: Host, alerts: tuple[AlertBlocker, ...]) -> tuple[str, ...]:
    asked = tuple(PrometheusGate(url=each.url, query=each.query, timeout=each.timeout) for each in alerts)
    conjuncts = await ask_users(world, host, Gates(prometheus=asked))
    return tuple(f"{conjunct.seen} of {conjunct.name}" for conjunct in conjuncts if not conjunct.holds)
