"""The programs and connections of one run that can be at work before the rest of the product has been read.

Made first, and of few modules. What they are for is the conductor's business.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from nixkube_deploy.app.ahead import EvaluationAhead
from nixkube_deploy.app.request import Target
from nixkube_deploy.app.secrets import secrets_of
from nixkube_deploy.app.state import state_directory
from nixkube_deploy.backends.nix.cli import NixCli, NixSettings
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.backends.ssh.late import LateShell
from nixkube_deploy.model.secret import Secret, SecretRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What speaks to hosts and to Nix."""

    secrets: Callable[[SecretRef], Awaitable[Secret]]
    """Resolves what the inventory refers to."""
    shell: LateShell
    processes: LocalProcesses
    nix: NixCli
    evaluator: EvaluationAhead


@asynccontextmanager
async def open_tools(target: Target) -> AsyncIterator[Tools]:
    """Make them; nothing is contacted yet. Everything is closed, and every file gone, with the block."""
    whole = target.whole
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nixkube-deploy-")))
        secrets = stack.enter_context(secrets_of(whole.hosts.values()))
        shell = await stack.enter_async_context(LateShell(whole.hosts, secrets, directory / "ssh"))
        processes = LocalProcesses()
        nix = NixCli(
            processes,
            shell.options,
            shell,
            program=program("NIXKUBE_NIX", "nix"),
            environ=os.environ,
            settings=NixSettings(
                evaluation=whole.evaluation,
                build=whole.build,
                roots=directory / "built",
                wires=directory / "wires",
                eval_jobs=os.environ.get("NIXKUBE_NIX_EVAL_JOBS", shutil.which("nix-eval-jobs") or ""),
                evaluations=state_directory() / "evaluations",
            ),
        )
        yield Tools(secrets=secrets, shell=shell, processes=processes, nix=nix, evaluator=EvaluationAhead(nix))


def program(variable: str, default: str) -> str:
    """A program's name or path, which the environment may set."""
    return os.environ.get(variable) or default
