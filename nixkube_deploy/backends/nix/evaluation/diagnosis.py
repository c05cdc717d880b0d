"""What Nix says when a flake is not locked or a host does not evaluate, to failures a person can act on.

The texts are those of 2.8, 2.26 and 2.34. Nothing here runs anything.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from nixkube_deploy.backends.nix.diagnosis import errors, last_error
from nixkube_deploy.backends.nix.evaluation.expressions import heard
from nixkube_deploy.backends.nix.evaluation.sizing import MIB
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, name_some
from nixkube_deploy.ports.shell import CommandResult

KILLED: Final = 137

_UNLOCKED: Final = "requires lock file changes"
_LOCK_CHANGE: Final = re.compile(r"^• (?:Added|Updated|Removed) input '([^']+)'", re.MULTILINE)
_NO_SUCH_INPUT: Final = re.compile(r"the flag '--override-input (\S+) [^']*' does not match any input")
_PLACE: Final = re.compile(r"\bat (?P<file>\S+):(?P<line>\d+):\d+:?\s*$")
_IN_STORE: Final = re.compile(r"^(?:.*/nix/store/[a-z0-9]{32}-[^/]+|«[^»]*»)/(?P<inside>.+)$")
_NO_ROOT: Final = re.compile(r"does not provide attribute .*'(?P<root>[^']+)'")
_LIKE: Final = 0.6


def unlocked(result: CommandResult) -> bool:
    """Whether the lock file is the trouble."""
    return _UNLOCKED in result.stderr


def lock_failure(flake: str, result: CommandResult, changes: CommandResult) -> Failure:
    """The lock file lacks something; ``changes`` is what Nix would write into it."""
    inputs = dict.fromkeys(_LOCK_CHANGE.findall(changes.stderr))
    named = f": {name_some(inputs)}" if inputs else ""
    return Failure(
        kind=FailureKind.EVALUATION,
        message=f"the lock file of {flake} is missing or out of date{named}",
        expected="every input of flake.nix in flake.lock; a deployment never changes it",
        seen=f"inputs that are not locked as flake.nix says{named}",
        evidence=errors(result.stderr),
        next=f"nix flake lock '{flake}', and commit flake.lock",
        command="nix flake metadata",
        exit_code=result.exit_code,
    )


def missing_overrides(result: CommandResult) -> tuple[str, ...]:
    """Inputs that were to be overridden and that the flake does not have; Nix only warns."""
    return tuple(dict.fromkeys(_NO_SUCH_INPUT.findall(result.stderr)))


def override_failure(flake: str, names: Sequence[str], known: Sequence[str]) -> Failure:
    """An override that would have been ignored."""
    return Failure(
        kind=FailureKind.EVALUATION,
        message=f"{flake} has no input {name_some(names)}, so it cannot be overridden",
        expected=f"one of its inputs: {', '.join(known)}" if known else "a flake with inputs",
        seen=f"--override-input {name_some(names)}",
        next=_did_you_mean(names[0], known) or "correct evaluation.override_inputs, or --override-input",
        command="nix flake metadata",
    )


def evaluation_failure(host: Host, flake: str, result: CommandResult, source: str = "") -> Failure:
    """Why one host's configuration does not evaluate, and where in the flake."""
    stderr = "\n".join(line for line in result.stderr.splitlines() if heard(line) is None)
    killed = result.exit_code == KILLED and not _has_error(stderr)
    why = "the evaluator was killed, most likely for want of memory" if killed else last_error(stderr)
    at = place(stderr, source)
    return Failure(
        kind=FailureKind.EVALUATION,
        message=f"{host.name} does not evaluate: {why}{f' (at {at})' if at else ''}",
        expected="an evaluation without errors",
        seen=f"nix eval ended with {result.exit_code}",
        evidence=errors(stderr),
        next=f"nix eval --raw '{_drv(flake, host)}' --show-trace",
        command="nix eval",
        exit_code=result.exit_code,
    )


def said_failure(host: Host, flake: str, text: str, source: str = "") -> Failure:
    """The same from an evaluator that reports errors as data."""
    return replace(
        evaluation_failure(host, flake, CommandResult(exit_code=1, stderr=text), source),
        seen="an error of this host alone",
        command="nix-eval-jobs",
        exit_code=None,
    )


def untold_failure(host: Host, flake: str, told: Sequence[HostName]) -> Failure:
    """It fails, as others do that were asked why."""
    return Failure(
        kind=FailureKind.EVALUATION,
        message=f"{host.name} does not evaluate; the reason was asked of {name_some(told)} only",
        expected="an evaluation without errors",
        seen="an error that Nix let be caught",
        did="not evaluated again, because many hosts fail: most likely for the same reason",
        next=f"nix eval --raw '{_drv(flake, host)}' --show-trace",
        command="nix eval",
    )


def missing_failure(host: Host, flake: str, names: Sequence[str]) -> Failure:
    """The flake has no such configuration."""
    wanted = host.attr or host.name
    close = _did_you_mean(host.name, names) if host.attr is None else _did_you_mean(wanted, names)
    return Failure(
        kind=FailureKind.EVALUATION,
        message=f"{host.name} is not in the flake: it has no {host.flake_attr}" + (f"; {close}" if close else ""),
        expected=f"the flake to have {host.flake_attr}",
        seen=f"it has {_some(names)}" if names else "it has no configurations at all",
        next=f"add {host.flake_attr} to {flake}, or set `attr` for {host.name} in the inventory",
        command="nix eval",
    )


def rootless(result: CommandResult, root: str) -> bool:
    """Whether the flake lacks the very attribute the hosts are looked for in."""
    match = _NO_ROOT.search(result.stderr)
    return match is not None and match["root"] == root


def memory_failure(host: Host, cap: int, result: CommandResult) -> Failure:
    """One host alone is more than the cap."""
    seen = (result.peak_memory or cap) // MIB
    return Failure(
        kind=FailureKind.EVALUATION,
        message=f"{host.name} does not evaluate in {cap // MIB} MiB: it had {seen} MiB and wanted more",
        expected=f"all evaluators together under {cap // MIB} MiB (evaluation.max_memory)",
        seen=f"{seen} MiB for {host.name} alone when it was ended",
        did="ended the evaluator; it was the only one that ran",
        next=f"set `evaluation: {{max_memory: {2 * cap // MIB}MiB}}` in the inventory, or free memory",
        command="nix eval",
        exit_code=result.exit_code,
    )


def place(stderr: str, source: str = "") -> str:
    """``hosts/w1.nix:12``: the innermost place in the flake itself, else in whatever file it uses."""
    lines = stderr.splitlines()
    starts = [i for i, line in enumerate(lines) if re.search(r"\berror:\s*\S", line)]
    if not starts:
        return ""
    # 2.8 lists places outwards after the error; later ones inwards before it, and its own right after it.
    after = [match for line in lines[starts[-1] :] if (match := _PLACE.search(line))]
    before = [match for line in lines[: starts[-1]] if (match := _PLACE.search(line))]
    found = [match for match in (*after, *reversed(before)) if not match["file"].startswith(("«string»", "<nix"))]
    base = source.rpartition("/")[2]
    own = [match for match in found if base and f"/{base}/" in match["file"]]
    for match in own or found:
        inside = _IN_STORE.match(match["file"])
        return f"{inside['inside'] if inside and match in own else match['file']}:{match['line']}"
    return ""


def nothing_evaluates(failures: Mapping[HostName, Failure]) -> Failure:
    """Not one host evaluates: the first one's reason, which is most likely everybody's."""
    first = next(iter(failures.values()))
    if len(failures) == 1:
        return first
    return replace(first, message=f"not one of {len(failures)} hosts evaluates; {first.message}")


def _drv(flake: str, host: Host) -> str:
    return f"{flake}#{host.flake_attr}.config.system.build.toplevel.drvPath"


def _has_error(stderr: str) -> bool:
    return "error:" in stderr


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=_LIKE)
    return f"did you mean {close[0]}?" if close else ""


def _some(names: Sequence[str]) -> str:
    return name_some(names, 8)
