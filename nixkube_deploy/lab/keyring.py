"""Key pairs of the lab, kept as OpenSSH files that only their owner may read.

Nothing here is a secret worth protecting: the keys open loopback ports of a simulation.
"""

from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

CLIENT = "id_ed25519"
WRONG = "wrong"


@dataclass(slots=True)
class Keyring:
    """A folder of keys; a key that is asked for and missing is made."""

    folder: Path
    _keys: dict[str, asyncssh.SSHKey] = field(default_factory=dict)

    def key(self, name: str) -> asyncssh.SSHKey:
        """The key pair of that name."""
        if name not in self._keys:
            path = self.folder / name
            self._keys[name] = asyncssh.read_private_key(path) if path.exists() else self._make(path)
        return self._keys[name]

    def public(self, name: str) -> str:
        """``ssh-ed25519 AAAA...``."""
        algorithm, data = self.key(name).export_public_key().decode().split()[:2]
        return f"{algorithm} {data}"

    def private(self, name: str) -> str:
        """The private key as a file holds it."""
        return self.key(name).export_private_key().decode()

    def adopt(self, name: str, text: str) -> None:
        """A private key that somebody else made (sent along with an installation)."""
        key = asyncssh.import_private_key(text)
        self._write(self.folder / name, key)
        self._keys[name] = key

    def renew(self, name: str) -> None:
        """Replace a key pair, as a new installation does."""
        self._keys[name] = self._make(self.folder / name)

    def _make(self, path: Path) -> asyncssh.SSHKey:
        key = asyncssh.generate_private_key("ssh-ed25519", comment=path.name)
        self._write(path, key)
        return key

    def _write(self, path: Path, key: asyncssh.SSHKey) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_bytes(key.export_private_key())
        path.with_name(path.name + ".pub").write_bytes(key.export_public_key())
