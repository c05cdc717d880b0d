"""Building on the host itself: its derivations are sent there, and its own Nix realises them.

The controller's store never holds what is built. How the host's Nix builds (jobs, builders, substituters) is what
its own ``nix.conf`` says: the inventory's ``build`` is about the controller.
"""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from nixkube_deploy.backends.nix.building import internal_json
from nixkube_deploy.backends.nix.building.builder import BUILD_TIMEOUT
from nixkube_deploy.backends.nix.building.diagnosis import build_failure, causes
from nixkube_deploy.backends.nix.building.progress import Follower
from nixkube_deploy.backends.nix.copying.diagnosis import copy_failure
from nixkube_deploy.backends.nix.copying.wire import Wires
from nixkube_deploy.backends.nix.program import NixProgram, store_url
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine, Shell, SshOptions

ROOT: Final = "/nix/var/nix/gcroots/nixkube-deploy/built"
"""One link a host, replaced by every build: what was built last is kept until it is activated, and nothing piles up."""

_SEND_TIMEOUT: Final = 3600.0


class TargetBuilder:
    """Builds over a host's own Nix. Signatures are of no concern: a derivation's path is a hash of its content."""

    def __init__(self, program: NixProgram, ssh_options: SshOptions, shell: Shell, wires: Wires | None = None) -> None:
        self._program, self._ssh_options, self._shell, self._wires = program, ssh_options, shell, wires

    async def build(self, host: Host, one: Evaluated, on_line: OnLine | None = None) -> None:
        """Realise the host's system in its own store, and keep it from the garbage collector there.

        Raises:
            TaskError: BUILD, DISK_FULL, COPY, and what ``Shell`` raises.
        """
        if await self._keep(host, one):
            return
        await self._send(host, one)
        await self._realise(host, one, on_line)

    async def _keep(self, host: Host, one: Evaluated) -> bool:
        """Whether it was there already; one round trip."""
        check = f"nix-store --check-validity {shlex.quote(one.out)} 2>/dev/null"
        keep = f"nix-store --add-root {ROOT} --realise {shlex.quote(one.out)}"
        return (await self._shell.run(host, Command(argv=("sh", "-c", f"{check} && {keep}"), privileged=True))).ok

    async def _send(self, host: Host, one: Evaluated) -> None:
        """Over the kept connection where there is a way: derivations are many and small."""
        ssh = self._ssh_options(host)

        async def run(environ: Mapping[str, str]) -> CommandResult:
            return await self._program.run(
                *("copy", "--derivation", "--to", store_url(ssh), one.drv),
                env={**environ, "NIX_SSHOPTS": ssh.spaced()},
                timeout=_SEND_TIMEOUT,
            )

        wires = self._wires
        result = await (wires.kept(host, ssh.destination, lambda _size: None, run) if wires else run({}))
        if not result.ok:
            failure = copy_failure(host, one.drv, result)
            message = failure.message.replace("the closure could not be copied", "the derivations could not be sent", 1)
            raise TaskError(replace(failure, message=message))

    async def _realise(self, host: Host, one: Evaluated, on_line: OnLine | None) -> None:
        argv = ("nix-store", "--add-root", ROOT, "--realise", one.drv, "--keep-going", *internal_json.OPTIONS)
        command = Command(argv=argv, privileged=True, timeout=BUILD_TIMEOUT)
        follower = Follower(on_line, host.name)
        result = await follower.during(self._shell.run(host, command, follower.hear))
        if not result.ok:
            found = causes(result.stderr, follower.log.logs)
            raise TaskError(build_failure(host.name, found, result, there=True))
