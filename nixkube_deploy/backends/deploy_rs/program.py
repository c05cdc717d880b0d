"""Proof that a program is deploy-rs: by what it says of itself. Ours may be called ``deploy`` too.

It does not look for the program anywhere; whoever has none is told how to get it.
"""

import re
from pathlib import PurePath
from typing import Final

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ports.process import Invocation, Processes

OPTIONS: Final = (
    "--skip-checks", "--hostname", "--ssh-user", "--ssh-opts", "--profile-user", "--auto-rollback", "--magic-rollback",
    "--confirm-timeout", "--activation-timeout", "--boot",
)  # fmt: skip
"""What it is called with, by the names of its help."""

_OURSELVES = "nixkube-deploy"
_TIMEOUT: Final = 30.0
_SEEN: Final = 120


async def impostor(processes: Processes, program: str) -> Failure | None:
    """Why this program is not the deploy-rs that is needed; None when it is.

    A relative name is refused without running it: PATH's ``deploy`` may be this very program.
    """
    if not program:
        return _refused("no program is named for activation: deploy-rs", seen="neither deploy_rs nor NIXKUBE_DEPLOY_RS")
    if not PurePath(program).is_absolute():
        return _refused(f"{program} is no absolute path", seen=program)
    try:
        version = await processes.run(Invocation(argv=(program, "--version"), timeout=_TIMEOUT))
        usage = await processes.run(Invocation(argv=(program, "--help"), timeout=_TIMEOUT))
    except TaskError as error:
        return _refused(f"{program} is not deploy-rs", seen=error.failure.message)
    said = next(iter(version.stdout.splitlines()), "").strip()
    if said.startswith(_OURSELVES):
        return _refused(f"{program} is not deploy-rs but nixkube-deploy itself", seen=f"--version says {said!r}")
    known = set(re.findall(r"--[a-z][a-z-]+", usage.stdout))
    if "--magic-rollback" not in known:
        first = said or next(iter((usage.stdout + version.stderr).splitlines()), "").strip() or "nothing"
        return _refused(f"{program} is not deploy-rs", seen=f"its --help lists no --magic-rollback; it says {first!r}")
    if missing := [option for option in OPTIONS if option not in known]:
        return _refused(f"{program} is too old a deploy-rs", seen=f"its --help does not list {', '.join(missing)}")
    return None


def _refused(message: str, seen: str) -> Failure:
    return Failure(
        kind=FailureKind.PREFLIGHT,
        message=message,
        expected="the absolute path of deploy-rs' own program, in the inventory's deploy_rs or in NIXKUBE_DEPLOY_RS",
        seen=seen[:_SEEN],
        next="export NIXKUBE_DEPLOY_RS=$(nix build --no-link --print-out-paths nixpkgs#deploy-rs)/bin/deploy",
    )
