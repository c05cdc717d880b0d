"""Bringing closures to hosts: pushed with ``nix copy``, or pulled by the host from a cache. It builds nothing."""

from collections.abc import Mapping
from typing import Final

from nixkube_deploy.backends.nix.closures import NixClosures
from nixkube_deploy.backends.nix.copying.diagnosis import copy_failure, not_here
from nixkube_deploy.backends.nix.copying.room import Found, HostStores, check_room, needed
from nixkube_deploy.backends.nix.copying.transfer import Transfer
from nixkube_deploy.backends.nix.copying.wire import Wires
from nixkube_deploy.backends.nix.program import NixProgram, store_url
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import CopyVia, Host, Privilege
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.model.packages import StoredPath
from nixkube_deploy.model.size import size_text
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine, Shell, SshInvocation, SshOptions

_COPY_TIMEOUT: Final = 24 * 3600.0
"""As long as anything moves a copy may go on: a copy that hangs is ended by ``Transfer``."""

LARGEST_KEPT: Final = 4 * 1024**2
MOST_KEPT: Final = 200
"""Bytes and paths that travel over the kept connection. It saves a login, but encrypts all hosts' bytes in this one
process, and each path is a question and an answer through it: beyond about this much per host, OpenSSH processes beside
each other are faster (measured: docs/decisions)."""


class NixCopier:
    """Copies over the controller's ``nix`` and the fleet's SSH. Without ``wires`` every copy logs in by itself."""

    def __init__(
        self, program: NixProgram, ssh_options: SshOptions, shell: Shell, closures: NixClosures, wires: Wires | None
    ) -> None:
        self._program, self._ssh_options, self._shell = program, ssh_options, shell
        self._closures, self._wires, self._stores = closures, wires, HostStores(shell)

    async def copy(self, path: StorePath, host: Host, on_line: OnLine | None = None) -> bool:
        """Bring a closure to a host; False when it was there already, which costs one round trip.

        Raises:
            TaskError: COPY, DISK_FULL, HOST_KEY, AUTHENTICATION, PRIVILEGE, UNREACHABLE.
        """
        closure = await self._closures.closure(path)
        found = await self._stores.look(host, path, closure)
        if not found.missing:
            return False
        pulls = host.copy.via is CopyVia.CACHE
        if path not in closure and not pulls:
            raise TaskError(not_here(host, path))
        found = await self._with_room(host, path, closure, found, on_line)
        size = needed(found, closure)
        fetches = pulls or host.copy.substitute
        transfer = Transfer(host, len(found.missing), size, on_line, fetches=fetches)
        work = self._pull(path, host, transfer) if pulls else self._push(path, host, transfer)
        result = await transfer.during(work)
        if not result.ok:
            raise TaskError(copy_failure(host, path, result))
        transfer.end()
        return True

    async def _with_room(
        self,
        host: Host,
        path: StorePath,
        closure: Mapping[StorePath, StoredPath],
        found: Found,
        on_line: OnLine | None,
    ) -> Found:
        """The same look, or the one after the garbage was collected: what was missing may have become more."""
        try:
            check_room(host, found, needed(found, closure))
        except TaskError:
            if host.copy.collect_garbage is None:
                raise
        else:
            return found
        tell = on_line or (lambda _line: None)
        did = await self._stores.collect_garbage(host, tell)
        after = await self._stores.look(host, path, closure)
        freed = max(0, (after.free or 0) - (found.free or 0))
        tell(f"{did}: {size_text(freed)} freed")
        check_room(host, after, needed(after, closure), f"{did}: {size_text(freed)} freed; nothing was copied")
        return after

    async def _push(self, path: StorePath, host: Host, transfer: Transfer) -> CommandResult:
        """``ssh://``, not ``ssh-ng://``: only it lets root receive paths that nobody signed."""
        ssh = self._ssh_options(host)
        substitute = ("--substitute-on-destination",) if host.copy.substitute else ()

        async def run(environ: Mapping[str, str]) -> CommandResult:
            return await self._program.run(
                *("copy", "--to", store_url(ssh), *substitute, path),
                env={**environ, "NIX_SSHOPTS": ssh.spaced()},
                timeout=_COPY_TIMEOUT,
                on_line=transfer.hear,
            )

        if self._wires is None:
            return await run({})
        little = transfer.size <= LARGEST_KEPT and transfer.paths <= MOST_KEPT
        if little or _rises(host, ssh):
            return await self._wires.kept(host, ssh.destination, transfer.moved, run)
        return await self._wires.counted(ssh.destination, transfer.moved, run)

    async def _pull(self, path: StorePath, host: Host, transfer: Transfer) -> CommandResult:
        """The host fetches from the cache itself; ``nix-store`` works there whatever features are enabled."""
        cache = ("--option", "extra-substituters", host.copy.cache) if host.copy.cache else ()
        command = Command(argv=("nix-store", "--realise", path, *cache), privileged=True, timeout=_COPY_TIMEOUT)
        return await self._shell.run(host, command, transfer.hear)


def _rises(host: Host, ssh: SshInvocation) -> bool:
    """Whether the far end becomes root by the host's ``privilege``, which a login of Nix's own cannot."""
    return host.privilege is not Privilege.NONE and not ssh.destination.startswith("root@")
