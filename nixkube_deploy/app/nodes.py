"""Which Node a host is, found once and remembered. Hosts that were just installed are found when they register."""

from contextlib import suppress
from dataclasses import replace

import anyio

from nixkube_deploy.app.world import World
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, NodeName
from nixkube_deploy.protocols.nodes import match_nodes
from nixkube_deploy.protocols.probe import probe

REGISTRATION_POLL = 1.0
"""Seconds between looks for a Node that has yet to register."""


class NodeDirectory:
    """Host to Node name. ``known`` comes from the survey; the rest is looked up when first asked for."""

    def __init__(self, world: World, known: dict[HostName, NodeName] | None = None) -> None:
        self._world = world
        self._known = dict(known or {})

    def known(self, host: HostName) -> str | None:
        """The Node's name if it has been found."""
        return self._known.get(host)

    async def find(self, host: Host) -> NodeName:
        """The Node of ``host``.

        Raises:
            TaskError: CLUSTER, when no Node is this host.
        """
        if host.name not in self._known:
            await self._look(host)
        if node := self._known.get(host.name):
            return node
        raise task_error(
            FailureKind.CLUSTER,
            f"no Node of the cluster is {host.name}",
            expected=f"a Node with {host.name}'s machine-id or the address {host.address}",
            next="kubectl get nodes -o wide",
            transient=True,
        )

    async def wait_for(self, host: Host, timeout: float) -> None:
        """Wait until the host has registered. What is in the way meanwhile, the gate sees too, and reports it."""
        with anyio.move_on_after(timeout):
            while host.name not in self._known:
                with suppress(TaskError):
                    await self._look(host)
                if host.name not in self._known:
                    await anyio.sleep(REGISTRATION_POLL)

    async def _look(self, host: Host) -> None:
        if self._world.cluster is None:
            return
        facts = await probe(self._world.shell, host, self._world.fleet.cluster.distribution)
        nodes = await self._world.cluster.nodes()
        matched = match_nodes({host.name: replace(facts, node=None)}, self._world.fleet.hosts, nodes)
        if node := matched.get(host.name):
            self._known[host.name] = NodeName(node.name)
