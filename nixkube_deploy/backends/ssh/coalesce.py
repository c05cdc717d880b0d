"""Packets that follow each other at once travel together: one system call, one segment, one wake-up at the other end.

asyncssh hands every packet to its transport by itself, and puts an empty one before each: with ten hosts' worth of them
the kernel costs more than the encryption. It delays nothing beyond the turn of the loop that the packets are made in.
"""

import asyncio

from nixkube_deploy.backends.ssh.libraries import asyncssh


def coalesce(connection: asyncssh.SSHClientConnection) -> None:
    """Put a ``Coalescing`` before the transport of a connection that was just made.

    asyncssh has no public place for it. Where a later version keeps its transport elsewhere, nothing changes.
    """
    transport = getattr(connection, "_transport", None)
    if transport is not None and not isinstance(transport, Coalescing):
        connection._transport = Coalescing(transport)  # type: ignore[assignment]  # noqa: SLF001 (see above)


class Coalescing:
    """What asyncssh uses of a transport: ``write``, ``close``, ``abort`` and ``get_extra_info``."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send it with what else is written before the loop turns."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(data)

    def close(self) -> None:
        """After all that was written."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))
