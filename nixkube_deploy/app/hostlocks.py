"""One lock per host for as long as this run works on it. Locks die with the run: each is a held SSH channel.

A lock whose channel is lost in mid-run is only forgotten here; whoever needs it next takes it anew.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup, TaskStatus

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.event import Record, TaskReported, TaskSettled
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, RunId
from nixkube_deploy.model.task import TaskGraph
from nixkube_deploy.ports.shell import Shell
from nixkube_deploy.protocols.hostlock import lock_host


class HostLocks:
    """Locks taken on first use and kept until ``release`` or the end of the block.

    Raises:
        TaskError: LOCKED, naming the holder.
    """

    def __init__(self, shell: Shell, run: RunId, is_over: Callable[[str], bool] = lambda _run: False) -> None:
        self._shell, self._run, self._is_over = shell, run, is_over
        self._held: dict[HostName, anyio.CancelScope] = {}
        self._group: TaskGroup

    async def __aenter__(self) -> Self:
        self._group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._group.cancel_scope.cancel()
        return await self._group.__aexit__(kind, error, trace)

    async def ensure(self, host: Host) -> None:
        """Hold this host's lock from now on."""
        if host.name not in self._held:
            await self._group.start(self._hold, host)

    def release(self, host: HostName) -> None:
        """Let go: the host is done with, or a reboot takes the channel away anyway."""
        if scope := self._held.pop(host, None):
            scope.cancel()

    async def _hold(self, host: Host, *, task_status: TaskStatus[None]) -> None:
        """Hold until released. Before it is held a failure is the caller's; after that there is nobody to fail."""
        was_held = False
        with anyio.CancelScope() as scope:
            try:
                async with lock_host(self._shell, host, self._run, self._is_over):
                    self._held[host.name], was_held = scope, True
                    task_status.started()
                    await anyio.sleep_forever()
            except TaskError:
                if not was_held:
                    raise
        if self._held.get(host.name) is scope:
            del self._held[host.name]


class ReleaseWhenDone:
    """A sink that gives each host's lock back with the host's last task.

    A held lock keeps a connection open, and a large fleet has more hosts than a controller has connections.
    """

    def __init__(self, locks: HostLocks, graph: TaskGraph, past: Iterable[Record]) -> None:
        self._locks, self._graph = locks, graph
        self._left = Counter(task.host for task in graph.values())
        for record in past:
            self.saw(record)

    def saw(self, record: Record) -> None:
        """Count down."""
        if not isinstance(record.event, TaskSettled):
            return
        host = self._graph[record.event.task].host
        self._left[host] -= 1
        if host is not None and not self._left[host]:
            self._locks.release(host)

    def heard(self, report: TaskReported) -> None:
        """Progress changes nothing."""
