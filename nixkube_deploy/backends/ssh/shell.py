"""Commands on hosts over SSH: the Shell port.

A command is sent once. Where the connection is found dead before the command was sent, it goes over a new one; where it
is lost afterwards, the outcome is unknown and said to be.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final, Self, TypeVar

import anyio

from nixkube_deploy.backends.ssh.connections import Connections, Slot, SshLimits
from nixkube_deploy.backends.ssh.failures import unreachable
from nixkube_deploy.backends.ssh.privilege import (
    ASKS,
    elevated,
    elevated_with_password,
    refusal,
    wants_password,
)
from nixkube_deploy.backends.ssh.session import NotSent, Request, Session
from nixkube_deploy.backends.ssh.settings import Hop
from nixkube_deploy.backends.ssh.stream import SessionStream, StreamSession
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import Host, Privilege
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.secret import Secret, SecretRef
from nixkube_deploy.ports.shell import ByteStream, Command, CommandResult, OnLine

_RELEASE: Final = 5.0
"""Seconds a held command gets to end once its input ended."""

_Session = TypeVar("_Session", bound=Session)

_Connect = Callable[[Host], AbstractAsyncContextManager[Slot]]


class SshShell:
    """One kept connection a host, for as long as the context is open.

    ``secrets`` resolves what the inventory refers to; each reference is resolved once.
    """

    def __init__(
        self,
        hosts: Mapping[HostName, Host],
        secrets: Callable[[SecretRef], Awaitable[Secret]],
        limits: SshLimits = SshLimits(),  # noqa: B008 (a frozen value)
    ) -> None:
        self._connections = Connections(hosts, limits)
        self._secrets = secrets
        self._resolved: dict[SecretRef, Secret] = {}
        self._resolving = anyio.Lock()
        self._asked: set[HostName] = set()
        """Hosts whose sudo wanted the password before: the next command takes it along, and a stream must."""

    async def __aenter__(self) -> Self:
        await self._connections.__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._connections.__aexit__(*details)

    async def run(self, host: Host, command: Command, on_line: OnLine | None = None) -> CommandResult:
        """Run to the end over the kept connection."""
        return await self._run(host, command, self._connections.use, on_line)

    async def run_fresh(self, host: Host, command: Command) -> CommandResult:
        """Run to the end over a brand-new connection."""
        return await self._run(host, command, self._connections.fresh, None)

    async def forget(self, host: Host) -> None:
        """Drop the kept connection. A command that still runs over it ends with an unknown outcome."""
        await self._connections.drop(host)

    @asynccontextmanager
    async def hold(self, host: Host, command: Command) -> AsyncIterator[CommandResult | None]:
        """Keep a command running for the length of the block; its input stays open that long.

        When it ends or its connection is lost before that, the block is cancelled and ends as OutcomeUnknown.
        """
        hop = await self._connections.hop(host)
        if not self._asks(host, hop, command):
            async with self._held(host, _request(host, hop, command)) as result:
                if result is None or not self._wants_password(host, hop, command, result):
                    yield _checked(host, hop, command, result)
                    return
        async with self._held(host, await self._request_with_password(host, hop, command)) as result:
            yield _checked(host, hop, command, result)

    @asynccontextmanager
    async def stream(self, host: Host, command: Command) -> AsyncIterator[ByteStream]:
        """Raw bytes to and from a command over the kept connection.

        Where sudo wants a password, a command must have been run with it before: what sudo would refuse here cannot be
        told from what the command itself says.
        """
        hop = await self._connections.hop(host)
        request = _request(host, hop, command)
        if host.name in self._asked and _rises(host, hop, command):
            request = await self._request_with_password(host, hop, command)
        async with self._sent(host, request, self._connections.use, StreamSession) as session:
            yield SessionStream(session, request)

    async def _run(self, host: Host, command: Command, connect: _Connect, on_line: OnLine | None) -> CommandResult:
        hop = await self._connections.hop(host)
        result = None
        if not self._asks(host, hop, command):
            heard = _without_prompt(on_line) if host.privilege_password is not None else on_line
            result = await self._perform(host, _request(host, hop, command), connect, heard)
        if result is None or self._wants_password(host, hop, command, result):
            request = await self._request_with_password(host, hop, command)
            result = await self._perform(host, request, connect, on_line)
        _checked(host, hop, command, result)
        return result

    async def _perform(self, host: Host, request: Request, connect: _Connect, on_line: OnLine | None) -> CommandResult:
        async with self._sent(host, request, connect, partial(Session, on_line)) as session:
            session.end_of_input()
            with anyio.move_on_after(request.timeout) as deadline:
                await session.ended.wait()
            if deadline.cancelled_caught:
                raise session.overdue(request)
            return session.result(request)

    @asynccontextmanager
    async def _held(self, host: Host, request: Request) -> AsyncIterator[CommandResult | None]:
        async with self._sent(host, request, self._connections.use, Session) as session:
            with anyio.move_on_after(request.timeout) as deadline:
                await session.spoke_or_ended()
            if deadline.cancelled_caught:
                raise session.overdue(request)
            if session.ended.is_set():
                yield session.result(request)
                return
            with anyio.CancelScope() as block:
                session.on_end = block.cancel
                try:
                    yield None
                finally:
                    session.on_end = _nothing
                    session.end_of_input()
                    with anyio.move_on_after(_RELEASE, shield=True):
                        await session.ended.wait()
            if block.cancelled_caught:
                raise session.gone(request)

    @asynccontextmanager
    async def _sent(
        self, host: Host, request: Request, connect: _Connect, listen: Callable[[], _Session]
    ) -> AsyncIterator[_Session]:
        """The command on its way; over a new connection when the kept one turns out dead before it was sent."""
        for last in (False, True):
            async with connect(host) as slot:
                session = listen()
                try:
                    await session.open(slot.live, request)
                except NotSent as error:
                    await self._connections.discard(slot)
                    if last:
                        raise unreachable(slot.hop, slot.via, str(error)) from error
                    continue
                except BaseException:
                    session.close()
                    raise
                try:
                    yield session
                finally:
                    session.close()
                return

    def _asks(self, host: Host, hop: Hop, command: Command) -> bool:
        """Whether this host's sudo has asked before, so that asking it whether it asks costs only time and log lines.

        Not where the command has input of its own: should sudo ask for this one nothing, it would read the password.
        """
        return host.name in self._asked and command.stdin is None and _rises(host, hop, command)

    def _wants_password(self, host: Host, hop: Hop, command: Command, result: CommandResult) -> bool:
        known = host.privilege_password is not None and _rises(host, hop, command)
        return known and wants_password(host.privilege, result)

    async def _request_with_password(self, host: Host, hop: Hop, command: Command) -> Request:
        reference = host.privilege_password
        assert reference is not None
        self._asked.add(host.name)
        async with self._resolving:  # One question to a person or a password manager, however many hosts.
            if reference not in self._resolved:
                self._resolved[reference] = await self._secrets(reference)
        request = _request(host, hop, command)
        return replace(request, argv=elevated_with_password(command.argv), password=self._resolved[reference])


def _nothing() -> None:
    """What happens when a held command ends as it should."""


def _request(host: Host, hop: Hop, command: Command) -> Request:
    argv = elevated(host.privilege, command.argv) if _rises(host, hop, command) else command.argv
    return Request(
        label=host.name, argv=argv, stdin=command.stdin, timeout=command.timeout, patience=hop.ssh.connect_timeout
    )


def _rises(host: Host, hop: Hop, command: Command) -> bool:
    return command.privileged and hop.user != "root" and host.privilege is not Privilege.NONE


def _checked(host: Host, hop: Hop, command: Command, result: CommandResult | None) -> CommandResult | None:
    if result is not None and _rises(host, hop, command):
        failure = refusal(host, hop.user, result)
        if failure is not None:
            raise TaskError(failure)
    return result


def _without_prompt(on_line: OnLine | None) -> OnLine | None:
    """Spare people sudo's first refusal where a password follows."""
    if on_line is None:
        return None

    def hear(line: str) -> None:
        if line != ASKS:
            on_line(line)

    return hear
