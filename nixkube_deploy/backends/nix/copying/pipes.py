"""Two named pipes between this process and the ``ssh`` below one ``nix copy``: what a shell and ``cat`` can serve.

A shell starts in a fraction of the time an interpreter takes, once for every host. It knows nothing of what is said.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio

RELAY: Final = """\
exec 3<"$NIXKUBE_WIRE_SOCKET.down" 4>"$NIXKUBE_WIRE_SOCKET.up" || exit 255
cat <&3 4>&- &
exec cat >&4 3<&-
"""
"""The other side, for ``sh``. Each direction ends by itself; ``down`` is open before a byte goes up."""


class Pipes:
    """Private to us; both ends that are ours are open before anybody else is told of them."""

    def __init__(self, place: Path) -> None:
        self._up_path, self._down_path = Path(f"{place}.up"), Path(f"{place}.down")
        self._up = self._down = -1

    def __enter__(self) -> Self:
        """Make them."""
        for path in (self._up_path, self._down_path):
            os.mkfifo(path, 0o600)
        self._up = os.open(self._up_path, os.O_RDONLY | os.O_NONBLOCK)
        # Linux: opened for both, a pipe needs no reader yet (fifo(7)).
        self._down = os.open(self._down_path, os.O_RDWR | os.O_NONBLOCK)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close and remove them."""
        self.end()
        os.close(self._up)
        for path in (self._up_path, self._down_path):
            path.unlink()

    async def opened(self) -> None:
        """Somebody is at the other end: a pipe that nobody has opened yet is neither readable nor at its end."""
        await anyio.wait_readable(self._up)

    async def receive(self, most: int) -> bytes:
        """Some bytes; none at the end."""
        while True:
            await anyio.wait_readable(self._up)
            try:
                return os.read(self._up, most)
            except BlockingIOError:
                continue

    async def send(self, data: bytes) -> None:
        """All of it."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._down, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._down)

    def end(self) -> None:
        """No more will be sent."""
        if self._down >= 0:
            os.close(self._down)
            self._down = -1
