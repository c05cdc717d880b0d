"""Installing NixOS on a machine that has none."""

from typing import Protocol

from nixkube_deploy.model.action import InstallNixos
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import OnLine


class Installer(Protocol):
    """Runs one nixos-anywhere phase; raises TaskError (INSTALL, TIMEOUT)."""

    async def install(self, host: Host, action: InstallNixos, on_line: OnLine | None = None) -> None:
        """One phase, to its end."""
        ...
