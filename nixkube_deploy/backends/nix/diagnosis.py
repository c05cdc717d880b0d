"""What Nix says when it fails, to failures a person can act on. Nix exits with 1 for everything: only text can tell.

The texts are those of 2.8, 2.26 and 2.34. Nothing here runs anything; builds and copies have pages of their own.
"""

import re
from typing import Final

from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ports.shell import CommandResult

EVIDENCE: Final = 20

NOISE: Final = re.compile(
    r"use '--show-trace'|For full logs, run|^\s*nix log /nix/store|^\s*$|^warning: Git tree .* is dirty$"
)
_ERROR = re.compile(r"\berror:[ \t]*(?:\n\s*)?(?P<text>\S.*)")
"""Some texts begin a line below."""


def errors(stderr: str) -> tuple[str, ...]:
    """The lines from the first ``error:`` on, without noise, the last ones if there are many."""
    lines = [line.rstrip() for line in stderr.splitlines() if not NOISE.search(line)]
    start = next((i for i, line in enumerate(lines) if "error:" in line), 0)
    return tuple(lines[start:][-EVIDENCE:])


def last_error(stderr: str) -> str:
    """The text of the last ``error:`` line: the innermost cause. Without one, the last line there is."""
    found = [match["text"].rstrip() for match in _ERROR.finditer(stderr)]
    return (found or errors(stderr) or ("it gave no reason",))[-1]


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
