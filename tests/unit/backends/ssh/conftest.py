"""Every test here runs on asyncio, because asyncssh does."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nixkube_deploy.backends.ssh.shell import SshShell
from nixkube_deploy.model.secret import Secret, SecretRef
from tests.fakes.sshd import PROGRAMS, Sshd, scripted_sshd


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sshd(tmp_path: Path) -> AsyncIterator[Sshd]:
    async with scripted_sshd(tmp_path, PROGRAMS) as server:
        yield server


async def no_secret(reference: SecretRef) -> Secret:
    raise AssertionError(f"nobody should ask for {reference}")


@pytest.fixture
async def shell() -> AsyncIterator[SshShell]:
    async with SshShell({}, no_secret) as opened:
        yield opened


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
