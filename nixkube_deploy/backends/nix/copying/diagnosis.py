"""What Nix and OpenSSH say when a copy fails, to failures a person can act on: only text can tell.

The texts are those of Nix 2.8, 2.26 and 2.34. Nothing here runs anything.
"""

import re
from dataclasses import dataclass
from typing import Final

from nixkube_deploy.backends.nix.diagnosis import EVIDENCE, NOISE, last_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import CommandResult


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sign:
    """A text in the error output and what it means. ``{host}`` and ``{address}`` are filled in."""

    text: str
    kind: FailureKind
    meaning: str
    next: str
    transient: bool = False


_CACHE: Final = "nix copy --to {cache} {path}"
_KEYSCAN = "compare the host's key out of band, then pin it: ssh.host_key in the inventory, or known_hosts"
_OFFLINE = "{login} true"

_SIGNS: Final = (
    _Sign(
        text=r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        kind=FailureKind.HOST_KEY,
        meaning="its host key is not the one that is known",
        next=_KEYSCAN,
    ),
    _Sign(
        text=r"Host key verification failed",
        kind=FailureKind.HOST_KEY,
        meaning="its host key is not known",
        next=_KEYSCAN,
    ),
    _Sign(
        text=r"Permission denied \(",
        kind=FailureKind.AUTHENTICATION,
        meaning="it refused the login",
        next="{login} -v true  # shows which keys are offered",
    ),
    _Sign(
        text=r"No space left on device",
        kind=FailureKind.DISK_FULL,
        meaning="its disk is full",
        next="nix-collect-garbage --delete-older-than 14d on {host}; it also removes the partial copy",
    ),
    _Sign(
        text=r"lacks a (valid )?signature",
        kind=FailureKind.COPY,
        meaning="it trusts neither the path's signature nor the user",
        next="sign the paths and set nix.settings.trusted-public-keys on {host}, or log in as root",
    ),
    _Sign(
        text=r"does not have a valid signature|(is|it's) not signed by any of the keys in 'trusted-public-keys'",
        kind=FailureKind.COPY,
        meaning="the cache's paths are signed by no key it trusts",
        next="nix store sign --recursive --key-file KEY --store {cache} {path}; its public half belongs into "
        "nix.settings.trusted-public-keys on {host}",
    ),
    _Sign(
        text=r"unable to download '",
        kind=FailureKind.COPY,
        meaning="it cannot reach its cache",
        next="{login} curl -sSf {cache}/nix-cache-info  # then look at copy.cache and the host's network",
        transient=True,
    ),
    _Sign(
        text=r"is not allowed to execute|may not run sudo|a password is required",
        kind=FailureKind.PRIVILEGE,
        meaning="its sudo does not let the user run nix-store",
        next="let the user run nix-store as root on {host} (security.sudo.extraRules), or log in as root",
    ),
    _Sign(
        text=r"['\"]/nix/var/[^'\"]*['\"][^\n]*: (Permission denied|Operation not permitted)|not a trusted user",
        kind=FailureKind.PRIVILEGE,
        meaning="the user may not write to its store",
        next="log in as root, or add the user to nix.settings.trusted-users on {host}",
    ),
    _Sign(
        text=r"nix-(store|daemon): (command )?not found|nix-(store|daemon): No such file",
        kind=FailureKind.COPY,
        meaning="Nix is not on its PATH",
        next="install NixOS on {host} first: deploy bootstrap",
    ),
    _Sign(
        text=r"protocol mismatch",
        kind=FailureKind.COPY,
        meaning="something prints text into its SSH sessions",
        next="silence .bashrc and the like for non-interactive shells on {host}: {login} true must print nothing",
    ),
    _Sign(
        text=r"is required, but there is no substituter|don't know how to build these paths",
        kind=FailureKind.COPY,
        meaning="the cache does not have it",
        next=_CACHE + "  # fill the cache first",
    ),
    _Sign(
        text=r"Connection refused|No route to host|Could not resolve hostname|Network is unreachable|timed out"
        r"|Connection closed by|kex_exchange_identification",
        kind=FailureKind.UNREACHABLE,
        meaning="it could not be reached",
        next=_OFFLINE,
        transient=True,
    ),
    _Sign(
        text=r"Timeout, server|Broken pipe|unexpected end-of-file|disconnected unexpectedly|Connection reset",
        kind=FailureKind.COPY,
        meaning="the connection broke off",
        next=_OFFLINE,
        transient=True,
    ),
)
"""In this order: what ssh says of the cause comes before what Nix says of the consequence."""


def copy_failure(host: Host, path: str, result: CommandResult) -> Failure:
    """Why a closure did not reach a host. A text nobody knows may be tried again: copying twice does no harm."""
    output = f"{result.stderr}\n{result.stdout}"
    sign = next((s for s in _SIGNS if re.search(s.text, output)), None)
    meaning = sign.meaning if sign else last_error(result.stderr)
    return Failure(
        kind=sign.kind if sign else FailureKind.COPY,
        message=f"the closure could not be copied to {host.name}: {meaning}",
        expected=f"{path} in {host.name}'s store",
        seen=f"the copy ended with {result.exit_code}",
        evidence=tuple(line.rstrip() for line in result.stderr.splitlines() if not NOISE.search(line))[-EVIDENCE:],
        next=sign.next.format(host=host.name, login=host.login, path=path, cache=host.copy.cache or "CACHE")
        if sign
        else "",
        exit_code=result.exit_code,
        transient=sign.transient if sign else True,
    )


def not_here(host: Host, path: str) -> Failure:
    """Neither the host nor the controller has it."""
    return Failure(
        kind=FailureKind.COPY,
        message=f"the closure could not be copied to {host.name}: it is not in the controller's store",
        expected=f"{path} in the controller's store, or in {host.name}'s",
        seen="neither has it",
        did="nothing was copied",
        next="run apply again: it builds what is missing",
    )
