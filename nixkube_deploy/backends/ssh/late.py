"""The fleet's SSH, whose libraries are read when the first host is spoken to: an evaluation is at work by then.

Reading them takes about as long as finding out which flake it is. What the two of them do is their own business.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from nixkube_deploy.backends.ssh.options import OpensshOptions
    from nixkube_deploy.backends.ssh.shell import SshShell
    from nixkube_deploy.model.fleet import Host
    from nixkube_deploy.model.names import HostName
    from nixkube_deploy.model.secret import Secret, SecretRef
    from nixkube_deploy.ports.shell import ByteStream, Command, CommandResult, OnLine, SshInvocation


class LateShell:
    """An ``SshShell``, made on first use.

    Args:
        hosts: the whole fleet, because jump hosts may be any of them.
        secrets: resolves what the inventory refers to.
        directory: private to the run, for what OpenSSH needs as files.
    """

    def __init__(
        self,
        hosts: Mapping[HostName, Host],
        secrets: Callable[[SecretRef], Awaitable[Secret]],
        directory: Path,
    ) -> None:
        self._hosts, self._secrets, self._directory = hosts, secrets, directory
        self._making = anyio.Lock()
        self._shell: SshShell | None = None
        self._options: OpensshOptions | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        if self._shell is not None:
            await self._shell.__aexit__(*details)

    async def run(self, host: Host, command: Command, on_line: OnLine | None = None) -> CommandResult:
        """See ``Shell``."""
        return await (await self._made()).run(host, command, on_line)

    async def run_fresh(self, host: Host, command: Command) -> CommandResult:
        """See ``Shell``."""
        return await (await self._made()).run_fresh(host, command)

    async def forget(self, host: Host) -> None:
        """See ``Shell``."""
        await (await self._made()).forget(host)

    @asynccontextmanager
    async def hold(self, host: Host, command: Command) -> AsyncIterator[CommandResult | None]:
        """See ``Shell``."""
        async with (await self._made()).hold(host, command) as result:
            yield result

    @asynccontextmanager
    async def stream(self, host: Host, command: Command) -> AsyncIterator[ByteStream]:
        """See ``StreamingShell``."""
        async with (await self._made()).stream(host, command) as stream:
            yield stream

    def options(self, host: Host) -> SshInvocation:
        """The ``SshOptions`` of the run. Blocks for a moment where no host was spoken to before.

        Raises:
            TaskError: UNREACHABLE, its settings are wrong.
        """
        if self._options is None:
            self._options = self._read_options()
        return self._options(host)

    async def _made(self) -> SshShell:
        if self._shell is None:
            async with self._making:
                if self._shell is None:
                    self._shell = await anyio.to_thread.run_sync(self._read)
        return self._shell

    def _read(self) -> SshShell:
        self._options = self._options or self._read_options()
        shell: SshShell = _module("shell").SshShell(self._hosts, self._secrets)
        return shell

    def _read_options(self) -> OpensshOptions:
        options: OpensshOptions = _module("options").OpensshOptions(self._hosts, self._directory)
        return options


def _module(name: str) -> Any:
    return import_module(f"nixkube_deploy.backends.ssh.{name}")
