"""Raw bytes over the kept connection: whole, in both directions, held back by the slower side, honest at the end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from nixkube_deploy.backends.ssh.shell import SshShell
from nixkube_deploy.model.error import OutcomeUnknown
from nixkube_deploy.model.fleet import Privilege
from nixkube_deploy.model.secret import Secret, SecretFromEnv, SecretRef
from nixkube_deploy.ports.shell import Command
from tests.fakes.sshd import PROGRAMS, Process, scripted_sshd, sudo


async def mirror(process: Process, argv: list[str]) -> int:
    """Sends back what it gets, as it comes."""
    while data := await process.stdin.read(65536):
        process.stdout.write(data)
        await process.stdout.drain()
    process.stderr.write(b"done\n")
    return 3


async def unread(process: Process, argv: list[str]) -> None:
    """Never reads its input."""
    await process.channel.wait_closed()


async def parting(process: Process, argv: list[str]) -> None:
    process.stdout.write(b"half")
    await process.stdout.drain()
    process.channel.get_connection().abort()


@pytest.fixture
async def sshd(tmp_path: Path) -> AsyncIterator[object]:
    programs = {**PROGRAMS, "mirror": mirror, "unread": unread, "parting": parting}
    async with scripted_sshd(tmp_path, programs) as server:
        yield server


async def everything(stream) -> bytes:
    parts = []
    while data := await stream.receive():
        parts.append(data)
    return b"".join(parts)


async def test_bytes_come_back_as_they_went_and_the_end_is_told(sshd, shell):
    payload = bytes(range(256)) * 40_000  # 10 MiB, no text.
    async with shell.stream(sshd.host(), Command(argv=("mirror",))) as stream, anyio.create_task_group() as group:

        async def feed() -> None:
            for at in range(0, len(payload), 100_000):
                await stream.send(payload[at : at + 100_000])
            await stream.end_of_input()

        group.start_soon(feed)
        assert await everything(stream) == payload
        result = await stream.result()
    assert (result.exit_code, result.stdout, result.stderr) == (3, "", "done\n")


async def test_a_stream_uses_the_connection_that_is_there(sshd, shell):
    await shell.run(sshd.host(), Command(argv=("true",)))
    async with shell.stream(sshd.host(), Command(argv=("mirror",))) as stream:
        await stream.end_of_input()
        assert await everything(stream) == b""
    assert len(sshd.connections) == 1


async def test_a_host_that_does_not_read_holds_the_sender_back(sshd, shell):
    async with shell.stream(sshd.host(), Command(argv=("unread",))) as stream:
        sent = 0
        with anyio.move_on_after(0.5):
            while True:
                await stream.send(b"x" * 65536)
                sent += 65536
        assert 0 < sent < 16 * 2**20


async def test_an_output_nobody_takes_holds_the_host_back(sshd, shell):
    async with shell.stream(sshd.host(), Command(argv=("flood", "64"))) as stream:
        first = await stream.receive()
        await anyio.sleep(0.3)
        session = stream._session
        assert session._waiting < 8 * 2**20
        assert (first + await everything(stream)).endswith(b"the end\n")


async def test_a_lost_connection_ends_the_stream_with_an_unknown_outcome(sshd, shell):
    async with shell.stream(sshd.host(), Command(argv=("parting",))) as stream:
        assert await everything(stream) in (b"half", b"")
        await stream.send(b"for nobody")
        with pytest.raises(OutcomeUnknown):
            await stream.result()


@asynccontextmanager
async def a_fleet_with_a_password(tmp_path: Path, password: str) -> AsyncIterator[tuple]:
    async def secret(reference: SecretRef) -> Secret:
        return Secret(password)

    async with scripted_sshd(tmp_path, {**PROGRAMS, "sudo": sudo(password)}, user="deploy") as server:
        host = replace(server.host(), privilege=Privilege.SUDO, privilege_password=SecretFromEnv(env="PW"))
        async with SshShell({}, secret) as shell:
            yield server, shell, host


async def test_the_password_goes_ahead_of_the_bytes_where_sudo_asked_before(tmp_path):
    async with a_fleet_with_a_password(tmp_path, "hunter2") as (server, shell, host):
        assert (await shell.run(host, Command(argv=("whoami",), privileged=True))).stdout == "root\n"
        async with shell.stream(host, Command(argv=("cat",), privileged=True)) as stream:
            await stream.send(b"\x00payload")
            await stream.end_of_input()
            assert await everything(stream) == b"\x00payload"
        assert server.commands[-1] == "sudo -k -S -p '' -- cat"
