"""The ``nix`` program as Evaluator and Store: one door to evaluator, builder, copier and the store's files.

It holds no behaviour of its own.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from nixkube_deploy.backends.nix.building.builder import NixBuilder
from nixkube_deploy.backends.nix.building.diagnosis import lost_derivation
from nixkube_deploy.backends.nix.building.target import TargetBuilder
from nixkube_deploy.backends.nix.closures import NixClosures
from nixkube_deploy.backends.nix.copying.copier import NixCopier
from nixkube_deploy.backends.nix.copying.wire import Wires
from nixkube_deploy.backends.nix.evaluation.cache import EvaluationCache
from nixkube_deploy.backends.nix.evaluation.eval_jobs import NixEvalJobs
from nixkube_deploy.backends.nix.evaluation.evaluator import NixEvaluator, flake_flags
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.backends.nix.store import StoreFiles, store_root
from nixkube_deploy.model.building import BuildSettings, EvaluationSettings
from nixkube_deploy.model.closure import Evaluated, FlakeState
from nixkube_deploy.model.facts import SystemContents
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.ports.nix import Built, Evaluation
from nixkube_deploy.ports.process import Processes
from nixkube_deploy.ports.shell import OnLine, SshOptions, StreamingShell


@dataclass(frozen=True, slots=True, kw_only=True)
class NixSettings:
    """How this fleet's flake is evaluated and built."""

    evaluation: EvaluationSettings = EvaluationSettings()
    build: BuildSettings = BuildSettings()
    roots: Path | None = None
    """Where links keep what was built from the garbage collector, for as long as the directory exists."""
    eval_jobs: str = ""
    """``nix-eval-jobs``, where there is one."""
    evaluations: Path | None = None
    """Where evaluations are kept from one run to the next."""
    wires: Path | None = None
    """A private folder through which copies find the kept connections; without it every copy logs in by itself."""


class NixCli:
    """Evaluator and Store over the ``nix`` on the controller. ``environ`` is the controller's environment."""

    def __init__(
        self,
        processes: Processes,
        ssh_options: SshOptions,
        shell: StreamingShell,
        *,
        program: str = "nix",
        environ: Mapping[str, str],
        settings: NixSettings | None = None,
    ) -> None:
        settings = settings or NixSettings()
        nix = NixProgram(processes, program, environ)
        self._files = StoreFiles(store_root(environ.get("NIX_REMOTE", "")))
        self._evaluator = NixEvaluator(
            nix,
            settings.evaluation,
            jobs=NixEvalJobs(NixProgram(processes, settings.eval_jobs, environ)) if settings.eval_jobs else None,
            cache=EvaluationCache(settings.evaluations, self._files) if settings.evaluations else None,
            environ=environ,
        )
        self._builder = NixBuilder(nix, self._files, settings.build, settings.roots, flake_flags(settings.evaluation))
        closures = self._closures = NixClosures(nix, self._files, shell)
        wires = Wires(shell, settings.wires, environ.get("PATH", os.defpath)) if settings.wires else None
        self._target = TargetBuilder(nix, ssh_options, shell, wires)
        self._copier = NixCopier(nix, ssh_options, shell, closures, wires)

    async def state(self, flake: str) -> FlakeState:
        """Which flake this is now; see ``NixEvaluator``."""
        return await self._evaluator.state(flake)

    async def evaluate(self, flake: str, hosts: Sequence[Host], on_line: OnLine | None = None) -> Evaluation:
        """All hosts, under the memory cap; see ``NixEvaluator``."""
        return await self._evaluator.evaluate(flake, hosts, on_line)

    async def build(
        self, flake: str, wanted: Sequence[Evaluated], installs: frozenset[HostName], on_line: OnLine | None = None
    ) -> Built:
        """Build what is missing; see ``NixBuilder``."""
        built = await self._builder.build(flake, wanted, installs, on_line)
        if any(lost_derivation(failure) for failure in built.failures.values()):
            await self._evaluator.forget(flake)
        self._closures.expect(closure.profile for closure in built.closures.values())
        return built

    async def build_on(self, host: Host, one: Evaluated, on_line: OnLine | None = None) -> None:
        """Build a host's system on the host itself; see ``TargetBuilder``."""
        await self._target.build(host, one, on_line)

    async def contents(self, path: StorePath) -> SystemContents | None:
        """What a system is made of, if this controller still has it."""
        if path not in await self._builder.valid([path]):
            return None
        return await anyio.to_thread.run_sync(self._files.contents, path)

    async def specialisations(self, path: StorePath) -> Mapping[str, StorePath]:
        """The systems that lie within a system under a name of their own."""
        return await anyio.to_thread.run_sync(self._files.specialisations, path)

    async def copy(self, path: StorePath, host: Host, on_line: OnLine | None = None) -> bool:
        """Bring a closure to a host; see ``NixCopier``. What was built there is there, and needs no copy."""
        return await self._copier.copy(path, host, on_line)
