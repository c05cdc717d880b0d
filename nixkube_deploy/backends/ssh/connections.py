"""One kept connection a host, made once however many ask, shared jump hosts, bounded in number.

A connection that was lost is made anew for the next user; what ran over it is never repeated here.
"""

import resource
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, Self

import anyio
import anyio.to_thread

from nixkube_deploy.backends.ssh.dial import Via, dial
from nixkube_deploy.backends.ssh.libraries import asyncssh
from nixkube_deploy.backends.ssh.settings import Hop, route
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import Host, SshSettings
from nixkube_deploy.model.names import HostName

_CLOSING: Final = 2.0
"""Seconds for a polite goodbye; then the socket is closed."""

_OTHER_FILES: Final = 128
"""File descriptors left for everything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SshLimits:
    """What the controller may use at once."""

    handshakes: int = 16
    """Key exchanges cost CPU on both sides."""
    connections: int = 1000
    """Kept connections; the least recently used idle one makes room. Also kept below the limit of open files."""
    channels: int = 8
    """Commands at once on one host; sshd's MaxSessions is 10."""

    def fitted(self) -> "SshLimits":
        """The same, within this process's limit of open files."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return self
        return replace(self, connections=max(1, min(self.connections, soft - _OTHER_FILES)))


class Slot:
    """The place of one kept connection."""

    def __init__(self, hops: tuple[Hop, ...], channels: int) -> None:
        self.hops = hops
        self.lock = anyio.Lock()
        self.channels = anyio.Semaphore(channels)
        self.connection: asyncssh.SSHClientConnection | None = None
        self.users = 0
        self.is_jump = False
        self.attempts = 0
        """Attempts to connect that came to an end: who asked before one ended shares its failure."""
        self.failure: TaskError | None = None

    @property
    def hop(self) -> Hop:
        """The machine itself."""
        return self.hops[-1]

    @property
    def via(self) -> Hop | None:
        """The jump host before it."""
        return self.hops[-2] if len(self.hops) > 1 else None

    @property
    def live(self) -> asyncssh.SSHClientConnection | None:
        """The connection, unless it is known to be lost."""
        return self.connection if self.connection is not None and not self.connection.is_closed() else None


_Key = tuple[str, ...]


class Connections:
    """The kept connections of one run."""

    def __init__(self, hosts: Mapping[HostName, Host], limits: SshLimits) -> None:
        self._hosts = hosts
        self._limits = limits.fitted()
        self._handshakes = anyio.Semaphore(limits.handshakes)
        self._routes: dict[tuple[HostName, SshSettings], tuple[Hop, ...]] = {}
        """By settings, too: a machine that is being installed answers as another user, with another key."""
        self._slots: dict[_Key, Slot] = {}
        self._open: dict[_Key, Slot] = {}
        """Connected or connecting, the least recently used first."""
        self._freed = anyio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                for slot in list(self._open.values()):
                    group.start_soon(self._close, slot)

    async def hop(self, host: Host) -> Hop:
        """How the host is reached, decided once a run."""
        return (await self._route(host))[-1]

    @asynccontextmanager
    async def use(self, host: Host) -> AsyncIterator[Slot]:
        """The host's kept connection, made when there is none; it is not given up for others meanwhile."""
        slot = self._slot(await self._route(host))
        async with self._using(slot), slot.channels:
            await self._connected(slot)
            yield slot

    @asynccontextmanager
    async def fresh(self, host: Host) -> AsyncIterator[Slot]:
        """A brand-new connection, closed at the end; only jump hosts are shared."""
        slot = Slot(await self._route(host), self._limits.channels)
        slot.connection = await self._dial(slot)
        try:
            yield slot
        finally:
            with anyio.CancelScope(shield=True):
                await _say_goodbye(slot.connection)

    async def drop(self, host: Host) -> None:
        """Close the kept connection, if any."""
        slot = self._slots.get(_key(await self._route(host)))
        if slot is not None:
            await self._close(slot)

    async def discard(self, slot: Slot) -> None:
        """Close a connection that stopped answering."""
        await self._close(slot)

    async def _route(self, host: Host) -> tuple[Hop, ...]:
        key = host.name, host.ssh
        if key not in self._routes:
            self._routes[key] = await anyio.to_thread.run_sync(route, host, self._hosts)
        return self._routes[key]

    def _slot(self, hops: tuple[Hop, ...]) -> Slot:
        key = _key(hops)
        if key not in self._slots:
            self._slots[key] = Slot(hops, self._limits.channels)
        return self._slots[key]

    @asynccontextmanager
    async def _using(self, slot: Slot) -> AsyncIterator[None]:
        slot.users += 1
        try:
            yield
        finally:
            slot.users -= 1
            self._freed.set()

    async def _connected(self, slot: Slot) -> asyncssh.SSHClientConnection:
        """Connect once, however many ask: the others wait, then share the connection or the failure."""
        asked = slot.attempts
        async with slot.lock:
            if slot.live is not None:
                self._touch(slot)
                return slot.live
            if slot.failure is not None and slot.attempts > asked:
                raise type(slot.failure)(slot.failure.failure)
            slot.connection = None
            await self._make_room(slot)
            try:
                slot.connection = await self._dial(slot)
            except TaskError as error:
                slot.attempts, slot.failure = slot.attempts + 1, error
                raise
            finally:
                if slot.connection is None:
                    self._gone(slot)
            slot.attempts, slot.failure = slot.attempts + 1, None
            return slot.connection

    async def _dial(self, slot: Slot) -> asyncssh.SSHClientConnection:
        if len(slot.hops) == 1:
            return await dial(slot.hop, None, self._handshakes)
        jump = self._slot(slot.hops[:-1])
        jump.is_jump = True
        async with self._using(jump):
            try:
                through = await self._connected(jump)
            except TaskError as error:
                message = f"{slot.hop.label}: its jump host {error.failure.message}"
                raise type(error)(replace(error.failure, message=message)) from error
            return await dial(slot.hop, Via(hop=jump.hop, connection=through), self._handshakes)

    async def _make_room(self, slot: Slot) -> None:
        """Reserve a place, closing the idle connection that was not used for longest; wait when none is idle."""
        self._open.pop(_key(slot.hops), None)
        while not slot.is_jump and self._crowded():
            idle = next((kept for kept in self._open.values() if not kept.users and not kept.is_jump), None)
            if idle is not None:
                await self._close(idle)
                continue
            if self._freed.is_set():
                self._freed = anyio.Event()
            await self._freed.wait()
        self._touch(slot)

    def _crowded(self) -> bool:
        """Jump hosts do not count: what goes through them must find a place."""
        limit = self._limits.connections
        return len(self._open) >= limit and sum(not kept.is_jump for kept in self._open.values()) >= limit

    def _touch(self, slot: Slot) -> None:
        self._open.pop(_key(slot.hops), None)
        self._open[_key(slot.hops)] = slot

    def _gone(self, slot: Slot) -> None:
        self._open.pop(_key(slot.hops), None)
        self._freed.set()

    async def _close(self, slot: Slot) -> None:
        connection, slot.connection = slot.connection, None
        if connection is not None:
            self._gone(slot)
            await _say_goodbye(connection)


async def _say_goodbye(connection: asyncssh.SSHClientConnection) -> None:
    """Close, and no longer politely once the other side does not listen."""
    connection.close()
    try:
        with anyio.move_on_after(_CLOSING):
            await connection.wait_closed()
    finally:
        connection.abort()


def _key(hops: tuple[Hop, ...]) -> _Key:
    last = hops[-1]
    return (*(hop.label for hop in hops), last.user, str(last.port), last.ssh.host_key or last.ssh.host_key_policy)
