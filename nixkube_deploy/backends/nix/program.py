"""Runs the controller's ``nix``: environment, version, what it prints, how it names a host. It knows no subcommand."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import anyio

from nixkube_deploy.ports.process import Invocation, Processes
from nixkube_deploy.ports.shell import CommandResult, OnLine, SshInvocation

T = TypeVar("T")

SHORT_TIMEOUT: Final = 120.0
_FEATURES: Final = "extra-experimental-features = nix-command flakes"
_OUTPUTS_NAMED: Final = (2, 13)
"""From this version on a derivation's outputs are asked for as ``x.drv^out``; before, ``x.drv`` means them."""


class NixProgram:
    """The ``nix`` on the controller. ``environ`` is the controller's environment."""

    def __init__(self, processes: Processes, program: str, environ: Mapping[str, str]) -> None:
        self._processes, self._program = processes, program
        config = environ.get("NIX_CONFIG", "")
        self._env = {"NIX_CONFIG": f"{config}\n{_FEATURES}" if config else _FEATURES}
        self._version_text: str | None = None

    async def run(
        self,
        *arguments: str,
        timeout: float,
        env: Mapping[str, str] | None = None,
        on_line: OnLine | None = None,
        memory_limit: int | None = None,
        hear_stdout: bool = False,
    ) -> CommandResult:
        """``nix ARGUMENTS``; a non-zero exit code is a result, not an error."""
        invocation = Invocation(
            argv=(self._program, *arguments),
            env={**self._env, **(env or {})},
            timeout=timeout,
            memory_limit=memory_limit,
            hear_stdout=hear_stdout,
        )
        return await self._processes.run(invocation, on_line)

    async def version_text(self) -> str:
        """``nix (Nix) 2.26.3``; asked once."""
        if self._version_text is None:
            self._version_text = (await self.run("--version", timeout=SHORT_TIMEOUT)).stdout.strip()
        return self._version_text

    async def version(self) -> tuple[int, int]:
        """``(2, 26)``. A version nobody understands counts as new."""
        match = re.search(r"\b(\d+)\.(\d+)", await self.version_text())
        return (int(match[1]), int(match[2])) if match else _OUTPUTS_NAMED

    async def names_outputs(self) -> bool:
        """Whether this Nix wants ``^out`` after a derivation."""
        return await self.version() >= _OUTPUTS_NAMED


async def in_parallel(work: Callable[[T], Awaitable[None]], items: Sequence[T], at_once: int) -> None:
    """A few at a time."""
    limiter = anyio.CapacityLimiter(at_once)

    async def one(item: T) -> None:
        async with limiter:
            await work(item)

    async with anyio.create_task_group() as group:
        for item in items:
            group.start_soon(one, item)


def store_url(ssh: SshInvocation) -> str:
    """``ssh://``, not ``ssh-ng://``: only it lets root receive paths that nobody signed. IPv6 stands in brackets."""
    user, at, address = ssh.destination.rpartition("@")
    bracketed = f"[{address}]" if ":" in address and not address.startswith("[") else address
    return f"ssh://{user}{at}{bracketed}"


def parsed(output: str) -> Any:
    """JSON that a program printed; None when it is none."""
    try:
        return json.loads(output)
    except ValueError:
        return None
