"""Bringing closures to hosts: pushed with ``nix copy``, or pulled by the host from a cache. It builds nothing."""

import re
from typing import Final

from nixkube_deploy.backends.nix import diagnosis
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import CopyVia, Host
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine, Shell, SshOptions

_COPY_TIMEOUT: Final = 3600.0
_COPIED: Final = re.compile(r"^copying path ", re.MULTILINE)


class NixCopier:
    """Copies over the controller's ``nix`` and the fleet's SSH."""

    def __init__(self, program: NixProgram, ssh_options: SshOptions, shell: Shell) -> None:
        self._program, self._ssh_options, self._shell = program, ssh_options, shell

    async def copy(self, path: StorePath, host: Host, on_line: OnLine | None = None) -> bool:
        """Bring a closure to a host; False when it was there already.

        Whether it was there is asked over the kept connection (milliseconds; ``nix path-info`` would cost a second
        SSH login), but only to tell: a path can lie there half written, so the copy always runs, and corrects that.

        Raises:
            TaskError: COPY, DISK_FULL, HOST_KEY, AUTHENTICATION, PRIVILEGE, UNREACHABLE.
        """
        was_there = (await self._shell.run(host, Command(argv=("test", "-e", path)))).ok
        copy = self._pull if host.copy.via is CopyVia.CACHE else self._push
        result = await copy(path, host, on_line)
        if not result.ok:
            raise TaskError(diagnosis.copy_failure(host, path, result))
        return not was_there or bool(_COPIED.search(result.stderr))

    async def _push(self, path: StorePath, host: Host, on_line: OnLine | None) -> CommandResult:
        """``ssh://``, not ``ssh-ng://``: only it lets root receive paths that nobody signed."""
        ssh = self._ssh_options(host)
        substitute = ("--substitute-on-destination",) if host.copy.substitute else ()
        return await self._program.run(
            "copy",
            "--to",
            f"ssh://{_bracketed(ssh.destination)}",
            *substitute,
            path,
            env={"NIX_SSHOPTS": ssh.spaced()},
            timeout=_COPY_TIMEOUT,
            on_line=on_line,
        )

    async def _pull(self, path: StorePath, host: Host, on_line: OnLine | None) -> CommandResult:
        """The host fetches from the cache itself; ``nix-store`` works there whatever features are enabled."""
        cache = ("--option", "extra-substituters", host.copy.cache) if host.copy.cache else ()
        command = Command(argv=("nix-store", "--realise", path, *cache), privileged=True, timeout=_COPY_TIMEOUT)
        return await self._shell.run(host, command, on_line)


def _bracketed(destination: str) -> str:
    """``user@host`` for a URL: an IPv6 address stands in brackets there."""
    user, at, address = destination.rpartition("@")
    return f"{user}{at}[{address}]" if ":" in address and not address.startswith("[") else destination
