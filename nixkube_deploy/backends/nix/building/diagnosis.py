"""Why systems were not built, from what Nix said and what the builders printed, to failures a person can act on.

The texts are those of 2.8, 2.26 and 2.34. Nothing here runs anything.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from nixkube_deploy.backends.nix.building.log import derivation_name
from nixkube_deploy.backends.nix.diagnosis import EVIDENCE, NOISE, errors, last_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ports.shell import CommandResult

_FAILED: Final = re.compile(
    r"builder for '(?P<builder>[^']+\.drv)' failed"
    r"|Cannot build '(?P<new>[^']+\.drv)'"
    r"|hash mismatch in fixed-output derivation '(?P<hash>[^']+\.drv)'"
    r"|building of '(?P<late>[^'!^]+\.drv)[^']*'.* timed out"
)
_CONSEQUENCE: Final = re.compile(r"dependenc(y|ies)( of derivation '[^']+')? failed( to build)?")
_PLATFORM: Final = re.compile(
    r"a '(?P<old>[^']+)' with features \{[^}]*\} is required|Required system: '(?P<new>[^']+)'"
)
_REASONS: Final = (
    re.compile(r"failed with (exit code \d+)"),
    re.compile(r"failed due to (signal \d+( \([^)]*\))?)"),
    re.compile(r"timed out (after \d+ seconds( of silence)?)"),
    re.compile(r"(failed to produce output path)"),
    re.compile(r"(hash mismatch)"),
    re.compile(r"Reason: (?:builder )?(?:failed )?(?:with |due to )?([^.]*)"),
)
_LOST: Final = re.compile(
    r"path '/nix/store/[^']+\.drv' is not (a )?valid"
    r"|cannot build missing derivation '/nix/store/[^']+\.drv'"
    r"|failed to obtain derivation of '/nix/store/[^']+\.drv'"
)
"""The words of 2.8, 2.26 and 2.34."""
_AT_LEAST: Final = 5
"""Lines shown of each derivation when several failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A derivation whose own builder failed."""

    drv: str
    said: tuple[str, ...]
    """What Nix said of it."""
    log: tuple[str, ...] = ()
    """The last lines its builder printed."""

    @property
    def in_short(self) -> str:
        """``etc (exit code 3)``."""
        text = "\n".join(self.said)
        found = (match[1].strip() for reason in _REASONS if (match := reason.search(text)))
        reason = next(found, "")
        return f"{derivation_name(self.drv)} ({reason})" if reason else derivation_name(self.drv)

    def evidence(self, lines: int) -> tuple[str, ...]:
        """What Nix said in a line, and the end of the log, or what Nix itself quoted of it."""
        if not self.log:
            return self.said[:1] + self.said[1:][-(lines - 1) :]
        return (self.said[0], *(f"> {line}" for line in self.log[-(lines - 1) :]))


Causes = Mapping[str, Cause]
"""By derivation."""


def causes(stderr: str, logs: Mapping[str, tuple[str, ...]]) -> Causes:
    """The derivations whose own builder failed; what only failed because of them is left out."""
    blocks: dict[str, list[str]] = {}
    into: list[str] | None = None
    for line in stderr.splitlines():
        match = _FAILED.search(line)
        if match:
            drv = next(group for group in match.groups() if group)
            into = [] if drv in blocks else blocks.setdefault(drv, [])  # A remote builder's Nix has said it already.
        elif line.startswith(("error:", "building ", "copying ")):
            into = None
        if into is not None and not NOISE.search(line):
            into.append(line.rstrip())
    return {
        drv: Cause(drv=drv, said=tuple(lines), log=tuple(line for line in logs.get(drv, ()) if line.strip()))
        for drv, lines in blocks.items()
        if lines and not any(_CONSEQUENCE.search(line) for line in lines)
    }


def lost_derivation(failure: Failure) -> bool:
    """Whether a derivation lies on the disk that the store knows nothing of, as after a collection that was cut off."""
    return any(_LOST.search(line) for line in (failure.message, *failure.evidence))


def build_failure(host: str, found: Causes, result: CommandResult, *, there: bool = False) -> Failure:
    """Why one host's system was not built. Without a known cause the end of what Nix said is shown.

    ``there``: it was being built on the host itself.
    """
    full = "No space left on device" in result.stderr or any(
        "No space left on device" in line for cause in found.values() for line in cause.log
    )
    where = host if there else "the controller"
    what = ", ".join(cause.in_short for cause in found.values()) or last_error(result.stderr)
    return Failure(
        kind=FailureKind.DISK_FULL if full else FailureKind.BUILD,
        message=f"{host}'s system was not built" + (f" on {host}: {what}" if there else f": {what}"),
        expected=f"every derivation to build on {where}" if there else "nix build to exit with 0",
        seen=f"exit code {result.exit_code}",
        evidence=_evidence(found) or errors(result.stderr),
        next=_advice(host, found, result, full=full, there=there),
        command="nix-store --realise" if there else "nix build",
        exit_code=result.exit_code,
    )


def _evidence(found: Causes) -> tuple[str, ...]:
    """Some lines of each, so that one long log does not hide that others failed, too."""
    each = max(_AT_LEAST, EVIDENCE // max(1, len(found)))
    return tuple(line for cause in found.values() for line in cause.evidence(each))[:EVIDENCE]


def _advice(host: str, found: Causes, result: CommandResult, *, full: bool, there: bool) -> str:
    platform = _PLATFORM.search(result.stderr)
    if full:
        return f"nix-collect-garbage on {host if there else 'the controller'}"
    if platform and not there:
        return (
            f"give the controller a remote builder for {platform['old'] or platform['new']} (build.builders, or "
            f"nix.buildMachines), set boot.binfmt emulation up on it, or build it on {host} (build_on: target)"
        )
    if _LOST.search(result.stderr):
        return (
            "run the same command again: what is kept of the flake's evaluation is forgotten, and it is evaluated anew"
        )
    if found:
        command = f"nix log {next(iter(found))}"
        return f"on {host}: {command}" if there else command
    return ""


def disko_failure(host: str, installable: str, result: CommandResult, logs: Mapping[str, tuple[str, ...]]) -> Failure:
    """Why a host that is to be installed has no script for its disks."""
    return replace(
        build_failure(host, causes(result.stderr, logs), result),
        message=f"{host}'s disko script was not built: {last_error(result.stderr)}",
        expected="the configuration to import disko and to describe the host's disks",
        next=f"nix build --no-link '{installable}' --show-trace",
    )
