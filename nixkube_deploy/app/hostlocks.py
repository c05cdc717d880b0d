"""One lock per host for as long as this run works on it. Locks die with the run: each is a held SSH channel."""

from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup, TaskStatus

from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, RunId
from nixkube_deploy.ports.shell import Shell
from nixkube_deploy.protocols.hostlock import lock_host


class HostLocks:
    """Locks taken on first use and kept until ``release`` or the end of the block.

    Raises:
        TaskError: LOCKED, naming the holder.
    """

    def __init__(self, shell: Shell, run: RunId) -> None:
        self._shell, self._run = shell, run
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

    def release(self, host: Host) -> None:
        """Let go, before a reboot takes the channel away anyway."""
        if scope := self._held.pop(host.name, None):
            scope.cancel()

    async def _hold(self, host: Host, *, task_status: TaskStatus[None]) -> None:
        with anyio.CancelScope() as scope:
            async with lock_host(self._shell, host, self._run):
                self._held[host.name] = scope
                task_status.started()
                await anyio.sleep_forever()
