"""Installing NixOS on a machine that has none."""

from typing import Protocol

from nixkube_deploy.model.action import InstallNixos
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import OnLine


class Installer(Protocol):
    """Runs one nixos-anywhere phase; raises TaskError (INSTALL, TIMEOUT, PREFLIGHT)."""

    async def install(self, host: Host, action: InstallNixos, on_line: OnLine | None = None) -> None:
        """One phase, to its end. Before the ``install`` phase begins, the key it sends along is pinned."""
        ...


class Pins(Protocol):
    """The host keys that installations of this controller gave to hosts. Public keys only; they outlive a run."""

    def get(self, host: Host) -> str | None:
        """``ssh-ed25519 AAAA...``; None: no installation has begun."""
        ...

    def put(self, host: Host, key: str) -> None:
        """On disk before this returns: an installation that is cut off is verified by what is pinned here."""
        ...
