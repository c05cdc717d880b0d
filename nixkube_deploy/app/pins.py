"""The host keys this controller has sent with installations, in its state directory: one small file a host.

Public keys only. An inventory that pins a key itself is always right in later runs; these are for the others.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from nixkube_deploy.model.fleet import Fleet, Host

_FOLDER = "host-keys"
_MODE = 0o600


class InstalledKeys:
    """``Pins`` of one inventory."""

    def __init__(self, state: Path, inventory: str) -> None:
        self._folder = state / _FOLDER / hashlib.sha256(inventory.encode()).hexdigest()[:16]

    def get(self, host: Host) -> str | None:
        """See ``Pins``."""
        try:
            return (self._folder / f"{host.name}.pub").read_text().strip() or None
        except OSError:
            return None

    def put(self, host: Host, key: str) -> None:
        """See ``Pins``."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{host.name}.pub"
        new = path.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE), "w") as file:
            file.write(f"{key}\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    def known(self, fleet: Fleet) -> Fleet:
        """The fleet with the keys of hosts that were installed, where the inventory itself pins none."""
        hosts = {
            name: replace(host, ssh=replace(host.ssh, host_key=key))
            if host.ssh.host_key is None and (key := self.get(host)) is not None
            else host
            for name, host in fleet.hosts.items()
        }
        return replace(fleet, hosts=hosts)
