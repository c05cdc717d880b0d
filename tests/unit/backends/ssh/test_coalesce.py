"""Packets made in one turn of the loop leave in one write, in order, and none is lost at the end."""

import asyncio

import pytest

from nixkube_deploy.backends.ssh.coalesce import Coalescing
from nixkube_deploy.ports.shell import Command


class Transport:
    def __init__(self) -> None:
        self.did: list[object] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.did.append(data)

    def close(self) -> None:
        self.did.append("closed")

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> str:
        return f"its {name}"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_is_written_in_one_turn_leaves_together_and_in_order():
    below = Transport()
    above = Coalescing(below)
    above.write(b"one ")
    above.write(b"two")
    assert below.did == []
    await asyncio.sleep(0)
    above.write(b"three")
    await asyncio.sleep(0)
    assert below.did == [b"one two", b"three"]


async def test_the_last_words_leave_before_the_connection_is_closed():
    below = Transport()
    above = Coalescing(below)
    above.write(b"goodbye")
    above.close()
    await asyncio.sleep(0)
    assert below.did == [b"goodbye", "closed"]


async def test_nothing_is_written_to_a_connection_that_is_going_away():
    below = Transport()
    above = Coalescing(below)
    above.write(b"too late")
    below.closing = True
    await asyncio.sleep(0)
    assert below.did == []
    assert above.get_extra_info("socket") == "its socket"


async def test_connections_of_this_asyncssh_are_coalesced_and_use_the_cheap_cipher(sshd, shell):
    """Whoever raises asyncssh's version learns here whether its transport is still found."""
    await shell.run(sshd.host(), Command(argv=("echo", "x")))
    (slot,) = shell._connections._slots.values()
    connection = slot.connection
    assert connection is not None
    assert isinstance(connection._transport, Coalescing)
    assert connection.get_extra_info("send_cipher") == "aes256-gcm@openssh.com"
