"""One command over one channel as raw bytes in both directions, each side held back by the other's pace.

It knows no protocol that is spoken over it, and keeps nothing of what went by.
"""

from collections import deque
from contextlib import suppress
from typing import Final

import anyio
import anyio.lowlevel

from nixkube_deploy.backends.ssh.libraries import asyncssh
from nixkube_deploy.backends.ssh.session import Request, Session
from nixkube_deploy.ports.shell import CommandResult

_READ_AHEAD: Final = 1 << 20
"""Bytes of output that may wait to be received; the host is held back beyond."""

_WRITE_AHEAD: Final = 1 << 20
"""Bytes of input that may wait to be sent; the sender is held back beyond."""


class StreamSession(Session):
    """A session whose standard output is handed on instead of kept."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived: deque[bytes] = deque()
        self._waiting = 0
        self._news = anyio.Event()
        self._finished = False
        self._writable = anyio.Event()
        self._writable.set()

    # asyncssh's side.

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """The channel is open."""
        super().connection_made(chan)
        chan.set_write_buffer_limits(_WRITE_AHEAD)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Output arrived."""
        if datatype == asyncssh.EXTENDED_DATA_STDERR:
            super().data_received(data, datatype)
            return
        self._arrived.append(data)
        self._waiting += len(data)
        self._news.set()
        if self._waiting > _READ_AHEAD and self._channel is not None:
            self._channel.pause_reading()

    def eof_received(self) -> bool:
        """No more output comes; input is still taken."""
        self._finished = True
        self._news.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed: whoever waits for either direction is let go."""
        super().connection_lost(exc)
        self._finished = True
        self._news.set()
        self._writable.set()

    def pause_writing(self) -> None:
        """The host takes no more for now."""
        if not self.ended.is_set():
            self._writable = anyio.Event()

    def resume_writing(self) -> None:
        """The host takes more."""
        self._writable.set()

    # Our side.

    async def send(self, data: bytes) -> None:
        """Bytes for the command."""
        await self._writable.wait()
        if self._channel is not None and not self.ended.is_set():
            with suppress(BrokenPipeError):  # It ended without reading; its exit code tells the rest.
                self._channel.write(data)

    async def receive(self) -> bytes:
        """Everything that has arrived since; empty at the end."""
        while not self._arrived and not self._finished:
            self._news = anyio.Event()
            await self._news.wait()
        data = b"".join(self._arrived)
        self._arrived.clear()
        self._waiting = 0
        if self._channel is not None and not self.ended.is_set():
            self._channel.resume_reading()
        return data

    def close(self) -> None:
        """Let go of the channel at once: bytes that were not sent yet are not worth waiting for."""
        if self._channel is not None:
            self._channel.abort()


class SessionStream:
    """The ByteStream port over one session."""

    def __init__(self, session: StreamSession, request: Request) -> None:
        self._session, self._request = session, request

    async def send(self, data: bytes) -> None:
        """Hand bytes to the command."""
        await self._session.send(data)

    async def end_of_input(self) -> None:
        """Tell the command that no more input comes."""
        self._session.end_of_input()
        await anyio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        """What it printed next; empty at the end."""
        return await self._session.receive()

    async def result(self) -> CommandResult:
        """How it ended."""
        await self._session.ended.wait()
        return self._session.result(self._request)
