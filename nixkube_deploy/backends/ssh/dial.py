"""Makes one authenticated connection to one hop, or says precisely why not. Keeps nothing.

The TCP connection is made first and the handshake counted against its own limit: a hundred hosts that do not answer
must not keep the others from shaking hands, and a hundred key exchanges at once must not time each other out.
"""

import asyncio
import base64
import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import tenacity

from nixkube_deploy.backends.ssh import failures, hostkeys
from nixkube_deploy.backends.ssh.coalesce import coalesce
from nixkube_deploy.backends.ssh.failures import Tried
from nixkube_deploy.backends.ssh.hostkeys import Trust
from nixkube_deploy.backends.ssh.libraries import asyncssh
from nixkube_deploy.backends.ssh.settings import Hop
from nixkube_deploy.model.error import TaskError

KEEPALIVES_MISSED: Final = 3
"""Unanswered keep-alives after which a connection counts as lost (one more interval passes before it is)."""

PREFERRED_CIPHERS: Final = "^aes256-gcm@openssh.com,aes128-gcm@openssh.com"
"""Before asyncssh's own first choice: a packet costs this process a sixth (2 against 11 us, small ones), as one call of
the library does it all."""

_CLOSED_EARLY: Final = (asyncssh.ConnectionLost, ConnectionResetError)
"""Closed during the handshake: sshd does that when too many connections are being made (MaxStartups)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Via:
    """The jump host a connection goes through, already connected."""

    hop: Hop
    connection: asyncssh.SSHClientConnection


class _Client(asyncssh.SSHClient):
    """Sees one connection attempt from the client's side: the host key above all."""

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        self.refused: asyncssh.SSHKey | None = None
        self.accepted: asyncssh.SSHKey | None = None
        self.allowed: tuple[str, ...] = ()
        """Empty: the host does not let anybody in with a key."""
        self.connection: asyncssh.SSHClientConnection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.connection = conn
        coalesce(conn)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked only for a key that is not recorded."""
        del host, addr, port  # The trust knows which hop this is.
        if self.trust.accepts_new():
            self.accepted = key
            return True
        self.refused = key
        return False

    def public_key_auth_requested(self) -> None:
        """Asked for more keys when all were refused: the moment to see what the host allows."""
        if self.connection is not None:
            self.allowed = tuple(self.connection.get_server_auth_methods())


async def dial(hop: Hop, via: Via | None, handshakes: anyio.Semaphore) -> asyncssh.SSHClientConnection:
    """One connection to ``hop``.

    Raises:
        Unreachable: no connection, and which hop failed.
        TaskError: HOST_KEY or AUTHENTICATION.
    """
    trust = await anyio.to_thread.run_sync(Trust.of, hop)
    arguments = await anyio.to_thread.run_sync(_arguments, hop)
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(_CLOSED_EARLY),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=2.0),
        sleep=anyio.sleep,
        reraise=True,
    )
    client = _Client(trust)
    try:
        connection: asyncssh.SSHClientConnection = await retrying(_attempt, client, via, handshakes, arguments)
    except asyncssh.PermissionDenied:
        raise await anyio.to_thread.run_sync(_denied, hop, client, arguments) from None
    except asyncssh.HostKeyNotVerifiable as error:
        raise TaskError(await anyio.to_thread.run_sync(trust.failure, client.refused, error.reason)) from None
    except TimeoutError:
        answered = client.connection is not None
        raise failures.too_slow(hop, via.hop if via else None, answered=answered) from None
    except (OSError, ValueError, asyncssh.Error) as error:
        if "uthentication failures" in str(error):  # sshd's words when it counted too many keys.
            raise await anyio.to_thread.run_sync(_denied, hop, client, arguments) from None
        raise failures.explain(error, hop, via.hop if via else None) from error
    if client.accepted is not None:
        await _remember(hop, client.accepted, connection)
    return connection


async def _remember(hop: Hop, key: asyncssh.SSHKey, connection: asyncssh.SSHClientConnection) -> None:
    try:
        await anyio.to_thread.run_sync(hostkeys.record, hop, key)
    except OSError as error:
        connection.abort()
        raise TaskError(hostkeys.unrecorded(hop, key, str(error))) from error
    except BaseException:
        connection.abort()
        raise


async def _attempt(
    client: _Client, via: Via | None, handshakes: anyio.Semaphore, arguments: dict[str, Any]
) -> asyncssh.SSHClientConnection:
    hop = client.trust.hop
    client.connection = None
    own_socket = via is None and not hop.proxy_command
    sock = await _tcp(hop) if own_socket else None
    try:
        async with handshakes:
            with anyio.fail_after(hop.ssh.connect_timeout):
                connection: asyncssh.SSHClientConnection = await asyncssh.connect(
                    **arguments,
                    client_factory=lambda: client,
                    known_hosts=client.trust.match,
                    server_host_key_algs=client.trust.algorithms(),
                    tunnel=via.connection if via else None,
                    sock=sock,
                )
                return connection
    finally:
        if sock is not None and client.connection is None:  # Else asyncssh owns it.
            sock.close()


async def _tcp(hop: Hop) -> socket.socket:
    """A connected socket; each address of the name gets its share of the deadline."""
    loop = asyncio.get_running_loop()
    with anyio.fail_after(hop.ssh.connect_timeout):
        found = await loop.getaddrinfo(hop.address, hop.port, family=hop.family, type=socket.SOCK_STREAM)
        error: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                if hop.bind is not None:
                    sock.bind((hop.bind, 0))
                with anyio.fail_after(hop.ssh.connect_timeout / len(found)):
                    await loop.sock_connect(sock, address)
            except OSError as this:
                sock.close()
                error = this
            except BaseException:
                sock.close()
                raise
            else:
                return sock
    raise error


def _arguments(hop: Hop) -> dict[str, Any]:
    """The arguments for asyncssh that follow from the settings. Blocks: reads the identity file."""
    return {
        "host": hop.pattern,
        "port": hop.port,
        "username": hop.user,
        "config": None if hop.config is None else [hop.config],
        "proxy_command": () if hop.proxy_command else None,
        "keepalive_interval": hop.ssh.keepalive,
        "keepalive_count_max": KEEPALIVES_MISSED,
        "connect_timeout": None,
        "password_auth": False,
        "kbdint_auth": False,
        "host_based_auth": False,
        "agent_forwarding": False,
        "x11_forwarding": False,
        "request_pty": False,
        "encryption_algs": () if hop.ciphers else PREFERRED_CIPHERS,
        "encoding": None,
        "utf8_decode_errors": "replace",
        **_identity(hop),
    }


def _identity(hop: Hop) -> dict[str, Any]:
    """An identity file in the inventory is the only key that is offered; the agent helps when it is encrypted."""
    file = hop.ssh.identity_file
    if file is None:
        return {"ignore_encrypted": True}
    try:
        asyncssh.read_private_key(file)
    except OSError as error:
        raise failures.unusable_key(hop, file, (error.strerror or str(error)).lower()) from None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        if not _is_encrypted(error):
            raise failures.unusable_key(hop, file, str(error)) from None
        return {"client_keys": [file], "ignore_encrypted": True, **_agent_identity(file)}
    return {"client_keys": [file], "agent_path": None}


def _is_encrypted(error: Exception) -> bool:
    return "assphrase" in str(error)


def _agent_identity(file: str) -> dict[str, Any]:
    try:
        return {"agent_identities": [asyncssh.read_public_key(f"{file}.pub")]}
    except (OSError, asyncssh.KeyImportError):
        return {}


def _denied(hop: Hop, client: _Client, arguments: dict[str, Any]) -> TaskError:
    """Say what was tried. Blocks: the keys are loaded again to name them."""
    options = asyncssh.SSHClientConnectionOptions(**arguments)
    keys = tuple(_key_name(pair, hop) for pair in options.client_keys or ())
    locked = hop.ssh.identity_file if hop.ssh.identity_file and not keys else None
    agent = options.agent_path if options.agent_path and Path(options.agent_path).exists() else None
    return failures.denied(hop, Tried(keys=keys, agent=agent, locked=locked, allowed=client.allowed))


def _key_name(pair: asyncssh.SSHKeyPair, hop: Hop) -> str:
    digest = base64.b64encode(hashlib.sha256(pair.key_public_data).digest()).decode("ascii").rstrip("=")
    source = hop.ssh.identity_file or pair.get_comment(errors="replace") or "a default key"
    return f"{source} ({pair.get_algorithm()} SHA256:{digest})"
