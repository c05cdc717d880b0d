"""Every way a connection can fail to come about, as a Failure a person can act on. Decides no retry."""

import socket
from dataclasses import dataclass

from nixkube_deploy.backends.ssh.libraries import asyncssh
from nixkube_deploy.backends.ssh.settings import DEFAULT_PORT, Hop
from nixkube_deploy.model.error import TaskError, Unreachable
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ports.output import harmless


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What was offered to authenticate with."""

    keys: tuple[str, ...] = ()
    """``~/.ssh/id_ed25519 (ssh-ed25519 SHA256:...)``."""
    agent: str | None = None
    """The agent's socket; None when there is none, or when the inventory names a key that needs none."""
    locked: str | None = None
    """A key file that is encrypted and was not used."""
    allowed: tuple[str, ...] = ()
    """Methods the host allows; empty when a key is none of them."""


def unreachable(hop: Hop, via: Hop | None, what: str, *, advice: str = "", transient: bool = True) -> Unreachable:
    """No connection: where to, through what, and why."""
    through = f" through {via.where}" if via is not None else ""
    return Unreachable(
        Failure(
            kind=FailureKind.UNREACHABLE,
            message=f"{hop.where}{through} cannot be reached: {what}",
            expected="an SSH server that answers",
            seen=what,
            next=advice or f"ssh {_flags(hop)}{hop.user}@{hop.address} true",
            transient=transient,
        )
    )


def explain(error: Exception, hop: Hop, via: Hop | None) -> Unreachable:
    """The failure for what the network or the protocol did."""
    match error:
        case socket.gaierror():
            advice = f"getent hosts {hop.address}  # then correct `address` in the inventory"
            return unreachable(hop, via, f"the name {hop.address} has no address ({words(error)})", advice=advice)
        case ConnectionRefusedError():
            return unreachable(hop, via, f"connection refused: nothing listens on port {hop.port}")
        case asyncssh.ChannelOpenError():
            return unreachable(hop, via, f"the jump host could not connect on: {words(error)}")
        case asyncssh.KeyExchangeFailed():
            what = f"no common algorithm: {words(error)}"
            return unreachable(hop, via, what, advice=f"ssh -vv -p {hop.port} {hop.address} true", transient=False)
        case asyncssh.ProtocolNotSupported() | asyncssh.ProtocolError():
            what = f"what answers on port {hop.port} does not speak SSH 2: {words(error)}"
            return unreachable(hop, via, what, advice="correct `port` in the inventory", transient=False)
        case asyncssh.DisconnectError() | ConnectionResetError() | BrokenPipeError():
            return unreachable(hop, via, f"the connection was closed during the handshake ({words(error)})")
        case _:
            return unreachable(hop, via, words(error))


def too_slow(hop: Hop, via: Hop | None, *, answered: bool) -> Unreachable:
    """The connect deadline passed."""
    seconds = f"{hop.ssh.connect_timeout:g} s"
    if answered:
        return unreachable(hop, via, f"it accepted the connection, but the SSH handshake took longer than {seconds}")
    return unreachable(hop, via, f"no answer within {seconds}")


def denied(hop: Hop, tried: Tried) -> TaskError:
    """Nobody let us in."""
    offered = list(tried.keys)
    offered.append(f"the keys of the agent at {tried.agent}" if tried.agent else "no agent (SSH_AUTH_SOCK is not used)")
    methods = f"; the host allows {', '.join(tried.allowed)}" if tried.allowed else "; the host allows no key at all"
    key = hop.ssh.identity_file or "~/.ssh/id_ed25519"
    advice = f"put {key}.pub into users.users.{hop.user}.openssh.authorizedKeys.keys of the host, or change ssh.user"
    if tried.locked is not None:
        advice = f"ssh-add {tried.locked}  # the key is encrypted and the agent does not hold it"
    if not tried.allowed:
        advice = "on the host: services.openssh.settings.PubkeyAuthentication = true;"
    return TaskError(
        Failure(
            kind=FailureKind.AUTHENTICATION,
            message=f"{hop.where} does not let {hop.user} in",
            expected=f"{hop.user} may log in with a key",
            seen="tried " + ", ".join(offered) + methods,
            next=advice,
        )
    )


def unusable_key(hop: Hop, file: str, why: str) -> TaskError:
    """The identity file of the inventory cannot be used."""
    return TaskError(
        Failure(
            kind=FailureKind.AUTHENTICATION,
            message=f"{hop.label}: the identity file {file} cannot be used: {why}",
            expected=f"a private key in {file}",
            seen=why,
            next=f"ls -l {file}  # or change ssh.identity_file in the inventory",
        )
    )


def _flags(hop: Hop) -> str:
    flags = f"-p {hop.port} " if hop.port != DEFAULT_PORT else ""
    return flags + (f"-J {hop.ssh.jump} " if hop.ssh.jump else "")


def words(error: Exception) -> str:
    """The error in one harmless line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    reason = error.reason if isinstance(error, asyncssh.DisconnectError | asyncssh.ChannelOpenError) else str(error)
    return harmless(reason).replace("\n", " ")[:300] or type(error).__name__
