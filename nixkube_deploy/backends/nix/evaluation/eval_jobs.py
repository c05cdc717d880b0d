"""``nix-eval-jobs``, where it is installed: the same hosts by a program made for it.

Failures that are not one host's own are not judged here: what it leaves open is evaluated with ``nix eval``. Written
from its documentation and its source; not run against the real program, which is not packaged where our tests run. Only
releases with ``--select`` (2.32 and later) are used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from nixkube_deploy.backends.nix.diagnosis import last_error
from nixkube_deploy.backends.nix.evaluation import diagnosis, expressions
from nixkube_deploy.backends.nix.evaluation.evaluating import EVALUATION_TIMEOUT, Progress
from nixkube_deploy.backends.nix.evaluation.expressions import Wanted
from nixkube_deploy.backends.nix.evaluation.metadata import LockedFlake
from nixkube_deploy.backends.nix.evaluation.sizing import MIB, Sizes
from nixkube_deploy.backends.nix.program import SHORT_TIMEOUT, NixProgram, parsed
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName

_NEEDED: Final = ("--select", "--apply", "--override-input")
_LEAST: Final = 256
"""MiB; a worker that has more after a host is started anew, so less would evaluate everything once a host."""
APPLY: Final = "d: { inherit (d.nixkube) system; }"


@dataclass(slots=True)
class Jobs:
    """What it told: the rest is left to ``nix eval``."""

    found: dict[HostName, Evaluated] = field(default_factory=dict)
    failures: dict[HostName, Failure] = field(default_factory=dict)
    problem: str = ""
    """Why it is not, or no longer, of use."""


class NixEvalJobs:
    """The program on the controller."""

    def __init__(self, program: NixProgram) -> None:
        self._program = program
        self._usable: bool | None = None

    async def usable(self) -> bool:
        """Whether it is there and knows the options we need; asked once."""
        if self._usable is None:
            try:
                result = await self._program.run("--help", timeout=SHORT_TIMEOUT)
            except TaskError:
                self._usable = False
            else:
                self._usable = all(option in result.stdout + result.stderr for option in _NEEDED)
        return self._usable

    async def evaluate(
        self, flake: LockedFlake, hosts: Sequence[Wanted], flags: Sequence[str], sizes: Sizes, progress: Progress
    ) -> Jobs:
        """Evaluate hosts of one root."""
        arguments = (
            "--flake", f"{flake.locked}#{hosts[0].root}",
            "--select", select(hosts),
            "--apply", APPLY,
            "--workers", str(sizes.workers),
            "--max-memory-size", str(max(_LEAST, sizes.limit_of(sizes.share) // MIB)),
            *(flag for flag in flags if flag != "--no-update-lock-file"),  # It never updates one.
        )  # fmt: skip
        jobs, by_name = Jobs(), {each.host.name: each for each in hosts}

        def listen(line: str) -> None:
            _take(parsed(line) if line.startswith("{") else None, by_name, flake, jobs, progress)

        try:
            result = await self._program.run(
                *arguments,
                timeout=EVALUATION_TIMEOUT,
                on_line=listen,
                memory_limit=sizes.limit_of(sizes.cap),
                hear_stdout=True,
            )
        except TaskError as error:
            jobs.problem = error.failure.message
            return jobs
        for line in result.stdout.splitlines():  # Also the lines that were too long to be heard.
            _take(parsed(line), by_name, flake, jobs, progress)
        if result.outgrew:
            jobs.problem = f"it went over {sizes.cap // MIB} MiB"
        elif not result.ok:
            jobs.problem = last_error(result.stderr)
        sizes.saw(result.peak_memory, 0, outgrew=result.outgrew)
        return jobs


def select(hosts: Sequence[Wanted]) -> str:
    """The configurations' systems, by the hosts' names; a host that is not there is left out."""
    rows = " ".join(f"[ {' '.join(map(expressions.quoted, (each.host.name, *each.path)))} ]" for each in hosts)
    return (
        "root: let has = builtins.foldl' (s: n: if s ? v && builtins.isAttrs s.v && s.v ? ${n} "
        "then { v = s.v.${n}; } else { }) { v = root; }; "
        "system = c: let t = c.config.system.build.toplevel; "
        "in t // { nixkube.system = c.pkgs.stdenv.hostPlatform.system or t.system; }; "
        "in builtins.listToAttrs (builtins.concatMap (h: let found = has (builtins.tail h); in "
        "if found ? v then [ { name = builtins.head h; value = system found.v; } ] else [ ]) "
        f"[ {rows} ])"
    )


def _take(data: object, hosts: Mapping[HostName, Wanted], flake: LockedFlake, jobs: Jobs, progress: Progress) -> None:
    """One line: a host's derivation or its error; anything else tells nothing."""
    if not isinstance(data, Mapping):
        return
    path = data.get("attrPath")
    name = HostName(path[0]) if isinstance(path, list) and len(path) == 1 else HostName("")
    each = hosts.get(name)
    if each is None or name in jobs.found or name in jobs.failures:
        return
    if isinstance(text := data.get("error"), str):
        jobs.failures[name] = diagnosis.said_failure(each.host, flake.reference, text, flake.source)
        progress.finished(name)
        return
    extra, outputs = data.get("extraValue"), data.get("outputs")
    if isinstance(extra, Mapping) and isinstance(outputs, Mapping):
        found = {"drvPath": data.get("drvPath"), "out": outputs.get("out"), "system": extra.get("system")}
        one = expressions.evaluated(each.host, found)
        if one is not None:
            jobs.found[name] = one
            progress.finished(name)
