"""What Nix says when it fails, to failures a person can act on. Nix exits with 1 for everything: only text can tell.

The texts are those of 2.8, 2.26 and 2.34. Nothing here runs anything; builds are ``build_diagnosis``'s business.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import CommandResult

EVIDENCE: Final = 20

NOISE: Final = re.compile(
    r"use '--show-trace'|For full logs, run|^\s*nix log /nix/store|^\s*$|^warning: Git tree .* is dirty$"
)
_ERROR = re.compile(r"\berror:\s*(?P<text>\S.*)")
_KILLED: Final = frozenset({-9, 137})


def errors(stderr: str) -> tuple[str, ...]:
    """The lines from the first ``error:`` on, without noise, the last ones if there are many."""
    lines = [line.rstrip() for line in stderr.splitlines() if not NOISE.search(line)]
    start = next((i for i, line in enumerate(lines) if "error:" in line), 0)
    return tuple(lines[start:][-EVIDENCE:])


def last_error(stderr: str) -> str:
    """The text of the last ``error:`` line: the innermost cause. Without one, the last line there is."""
    found = [match["text"] for line in stderr.splitlines() if (match := _ERROR.search(line))]
    return (found or errors(stderr) or ("it gave no reason",))[-1]


# Evaluation.


def evaluation_failure(host: Host, flake: str, result: CommandResult) -> Failure:
    """Why one host's configuration does not evaluate."""
    attr = f"{flake}#{host.flake_attr}.config.system.build.toplevel.drvPath"
    killed = result.exit_code in _KILLED
    missing = f"attribute '{host.name}' missing" in result.stderr
    return Failure(
        kind=FailureKind.EVALUATION,
        message=f"{host.name} does not evaluate: "
        + ("the evaluator was killed, most likely for want of memory" if killed else last_error(result.stderr)),
        expected=f"the flake to have {host.flake_attr}" if missing else "an evaluation without errors",
        seen=f"nix eval ended with {result.exit_code}",
        evidence=errors(result.stderr),
        next=f"add {host.flake_attr} to the flake, or set `attr` for {host.name} in the inventory"
        if missing
        else f"nix eval --raw '{attr}' --show-trace",
        command="nix eval",
        exit_code=result.exit_code,
    )


def nothing_evaluates(failures: Mapping[HostName, Failure]) -> Failure:
    """Not one host evaluates: the first one's reason, which is most likely everybody's."""
    first = next(iter(failures.values()))
    if len(failures) == 1:
        return first
    return replace(first, message=f"not one of {len(failures)} hosts evaluates; {first.message}")


def flake_failure(flake: str, result: CommandResult) -> Failure:
    """Why the flake cannot be read at all."""
    return Failure(
        kind=FailureKind.EVALUATION,
        message=f"the flake {flake} cannot be read: {last_error(result.stderr)}",
        expected="nix flake metadata to describe it",
        seen=f"exit code {result.exit_code}",
        evidence=errors(result.stderr),
        next=f"nix flake metadata '{flake}'",
        command="nix flake metadata",
        exit_code=result.exit_code,
    )


# Copying.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sign:
    """A text in the error output and what it means. ``{host}`` and ``{address}`` are filled in."""

    text: str
    kind: FailureKind
    meaning: str
    next: str
    transient: bool = False


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
        text=r"big-lock.*Permission denied|not a trusted user",
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
        meaning="the closure is not where it should be copied from",
        next="run apply again: it builds what is missing (with copy.via: cache, push the closure to the cache first)",
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
        next=sign.next.format(host=host.name, login=host.login) if sign else "",
        exit_code=result.exit_code,
        transient=sign.transient if sign else True,
    )
