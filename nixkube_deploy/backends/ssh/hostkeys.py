"""Whether a host is who it says it is: a pinned key, a known_hosts file, or, only when asked, the first key seen.

It decides and remembers; asyncssh has checked that the host holds the key before anything is remembered. Functions
that read or write files say so: call them in a thread.
"""

import fcntl
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from asyncssh.known_hosts import SSHKnownHosts
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from nixkube_deploy.backends.ssh.libraries import asyncssh
from nixkube_deploy.backends.ssh.settings import Hop
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import HostKeyPolicy

_MODE: Final = 0o600

Matched = tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]]
"""Trusted, certificate-authority and revoked keys, as asyncssh wants them."""


_State = tuple[int, int, int] | None
"""What changes when a file does; None: it is not there."""

_READING: Final = threading.Lock()
"""Many hosts ask at once; one of them reads."""


def _state(file: str) -> _State:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=8)
def _entries(files: tuple[tuple[str, _State], ...]) -> SSHKnownHosts:
    entries = SSHKnownHosts()
    for file, _ in files:
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            with suppress(ValueError):
                entries.load(line)
    return entries


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """Parsed known_hosts files. A line that cannot be read is passed over, as OpenSSH does."""

    entries: SSHKnownHosts

    @classmethod
    def read(cls, files: Sequence[str]) -> "KnownHosts":
        """Read the files that are there. Blocks, for long only when one has changed since it was read last.

        A fleet's file has as many lines as the fleet has hosts, and every one of them is asked for.
        """
        with _READING:
            return cls(_entries(tuple((file, _state(file)) for file in files)))

    def match(self, name: str, address: str, port: int | None) -> Matched:
        """The keys recorded for a host; port None is the default port."""
        trusted, authorities, revoked, *_ = self.entries.match(name, address, port)
        return trusted, authorities, revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Which host keys a hop may show."""

    hop: Hop
    pinned: asyncssh.SSHKey | None
    known: KnownHosts

    @classmethod
    def of(cls, hop: Hop) -> "Trust":
        """Read what is known of a hop. Blocks.

        Raises:
            TaskError: HOST_KEY, the pinned key is not a public key.
        """
        if hop.ssh.host_key_policy is HostKeyPolicy.ANY:
            return cls(hop=hop, pinned=None, known=KnownHosts(SSHKnownHosts()))
        if hop.ssh.host_key is None:
            return cls(hop=hop, pinned=None, known=KnownHosts.read(hop.known_hosts))
        try:
            pinned = asyncssh.import_public_key(hop.ssh.host_key)
        except (asyncssh.KeyImportError, ValueError) as error:
            raise TaskError(
                Failure(
                    kind=FailureKind.HOST_KEY,
                    message=f"{hop.label}: the pinned host key is not a public key: {error}",
                    expected='one line like "ssh-ed25519 AAAA..."',
                    seen=hop.ssh.host_key[:80],
                    next=f"ssh-keyscan -t ed25519 -p {hop.port} {hop.address}  # compare, then pin it in the inventory",
                )
            ) from error
        return cls(hop=hop, pinned=pinned, known=KnownHosts(SSHKnownHosts()))

    def match(self, name: str, address: str, port: int | None) -> Matched:
        """What asyncssh asks for once connected."""
        if self.pinned is not None:
            return [self.pinned], [], []
        return self.known.match(name, address, port)

    def expected(self) -> Sequence[asyncssh.SSHKey]:
        """The keys this host has shown before, or the pinned one.

        An entry without a port may vouch for a server on another port, but does not speak against it.
        """
        return self.match(self.hop.lookup, "", None)[0]

    def algorithms(self) -> list[str]:
        """Host-key algorithms in the order to ask for: what is expected first.

        The others follow, so that a host that changed its kind of key shows it and the message can name it.
        """
        preferred = [alg for key in self.expected() for alg in key.sig_algorithms]
        if self.match(self.hop.lookup, "", None)[1]:  # A certificate authority vouches for it.
            preferred = [*get_default_certificate_algs(), *preferred]
        every = dict.fromkeys([*preferred, *get_default_public_key_algs()])
        return [alg.decode("ascii") for alg in every]

    def accepts_new(self) -> bool:
        """Whether a key that is not recorded may be taken at its word: at first contact, and only when asked."""
        wanted = self.hop.ssh.host_key_policy is not HostKeyPolicy.VERIFY
        return wanted and self.pinned is None and not self.expected()

    def _revoked(self) -> Sequence[asyncssh.SSHKey]:
        return self.match(self.hop.lookup, "", None)[2]

    def _where(self) -> str:
        """The file that knows the host: the one a person has to correct. Blocks."""
        files = self.hop.known_hosts
        told = (file for file in files if KnownHosts.read((file,)).match(self.hop.lookup, "", None)[0])
        return next(told, files[0] if files else "known_hosts")

    def failure(self, seen: asyncssh.SSHKey | None, reason: str) -> Failure:
        """Why the key was refused: both fingerprints, and what to type. Blocks: it looks where the key is known."""
        shown = fingerprint(seen) if seen is not None else f"no usable key ({reason})"
        expected = self.expected()
        words = ", ".join(fingerprint(key) for key in expected)
        if self.pinned is not None:
            return self._failure("shows another host key than the one pinned in the inventory", words, shown, _REPIN)
        if "revoked" in reason:  # asyncssh refuses these itself, without showing the key.
            revoked = ", ".join(fingerprint(key) for key in self._revoked())
            return self._failure("shows a revoked host key", "a key that is not revoked", revoked, _REVOKED)
        if expected:
            file = self._where()
            words = f"{words} (as {file} says)"
            return self._failure("shows another host key than before", words, shown, _FORGET.format(file=file))
        line = _line(seen) if seen is not None else "ssh-ed25519 AAAA..."
        return self._failure("has a host key nobody vouched for", "a known host key", shown, _PIN.format(line=line))

    def _failure(self, what: str, expected: str, seen: str, advice: str) -> Failure:
        return Failure(
            kind=FailureKind.HOST_KEY,
            message=f"{self.hop.where} {what}",
            expected=expected,
            seen=seen,
            did="nothing was sent to it",
            next=advice.replace("LOOKUP", self.hop.lookup),
        )


_REPIN: Final = (
    "if the machine was reinstalled: compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on its console, "
    "then change ssh.host_key in the inventory; else somebody may be in between"
)
_FORGET: Final = (
    "if the machine was reinstalled: ssh-keygen -R 'LOOKUP' -f {file}, then verify the new key; "
    "else somebody may be in between"
)
_REVOKED: Final = "the `@revoked` line in known_hosts says that this key is lost: give the machine a new one"
_PIN: Final = (
    "compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on its console, then write into the inventory: "
    'ssh: {{host_key: "{line}"}}'
)


def fingerprint(key: asyncssh.SSHKey) -> str:
    """``ssh-ed25519 SHA256:...``."""
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def record(hop: Hop, key: asyncssh.SSHKey) -> None:
    """Append a newly accepted key to known_hosts, safe against another writer. Blocks.

    Raises:
        TaskError: HOST_KEY, somebody recorded another key for this host in the meantime.
    """
    if not hop.known_hosts or hop.ssh.host_key_policy is HostKeyPolicy.ANY:
        return
    path = Path(hop.known_hosts[0])
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        trust = Trust.of(hop)
        if key in trust.expected():
            return
        if trust.expected():
            raise TaskError(trust.failure(key, ""))
        text = file.read()
        newline = b"\n" if text and not text.endswith(b"\n") else b""
        file.write(newline + f"{hop.lookup} {_line(key)}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def unrecorded(hop: Hop, key: asyncssh.SSHKey, why: str) -> Failure:
    """A new key could not be remembered: the next contact would be a first contact again."""
    return Failure(
        kind=FailureKind.HOST_KEY,
        message=f"{hop.where}: its new host key cannot be recorded in {hop.known_hosts[0]}: {why}",
        seen=fingerprint(key),
        did="the connection was closed again",
        next=f"make {hop.known_hosts[0]} writable, or name another file: ssh: {{known_hosts: PATH}}",
    )


def _line(key: asyncssh.SSHKey) -> str:
    algorithm, data, *_ = key.export_public_key().decode("ascii").split()
    return f"{algorithm} {data}"
