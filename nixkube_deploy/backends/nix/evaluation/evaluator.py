"""Evaluation: which flake this is, what is known of it already, and the rest by ``nix-eval-jobs`` or ``nix eval``.

It builds nothing, and never changes the flake's lock file.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import anyio
import anyio.to_thread

from nixkube_deploy.backends.nix.diagnosis import flake_failure
from nixkube_deploy.backends.nix.evaluation import attributes, expressions
from nixkube_deploy.backends.nix.evaluation import diagnosis as evaluation_diagnosis
from nixkube_deploy.backends.nix.evaluation.cache import EvaluationCache
from nixkube_deploy.backends.nix.evaluation.eval_jobs import NixEvalJobs
from nixkube_deploy.backends.nix.evaluation.evaluating import LOCKED, Evaluating, Progress
from nixkube_deploy.backends.nix.evaluation.expressions import Wanted
from nixkube_deploy.backends.nix.evaluation.metadata import LockedFlake, locked_flake
from nixkube_deploy.backends.nix.evaluation.sizing import (
    MIB,
    PER_HOST,
    PER_KEPT_HOST,
    Sizes,
    WhatMachine,
    sizes,
    this_machine,
)
from nixkube_deploy.backends.nix.program import SHORT_TIMEOUT, NixProgram, parsed
from nixkube_deploy.backends.nix.store import StoreFiles, store_root
from nixkube_deploy.model.building import EvaluationSettings
from nixkube_deploy.model.closure import Evaluated, FlakeState
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.nix import Evaluation
from nixkube_deploy.ports.shell import CommandResult, OnLine


def flake_flags(settings: EvaluationSettings) -> tuple[str, ...]:
    """What every call of ``nix`` on this fleet's flake is given."""
    overrides = (("--override-input", name, flake) for name, flake in settings.override_inputs.items())
    impure = ("--impure",) if settings.impure else ()
    return (LOCKED, *impure, *(word for words in overrides for word in words))


def _silent(_: str) -> None:
    """Nobody listens."""


class NixEvaluator:
    """The Evaluator over the controller's ``nix``."""

    def __init__(
        self,
        program: NixProgram,
        settings: EvaluationSettings,
        *,
        jobs: NixEvalJobs | None = None,
        cache: EvaluationCache | None = None,
        environ: Mapping[str, str] | None = None,
        machine: WhatMachine = this_machine,
    ) -> None:
        self._program, self._settings, self._jobs, self._cache = program, settings, jobs, cache
        self._environ, self._machine = environ or {}, machine

    async def state(self, flake: str) -> FlakeState:
        """Which flake this is now.

        Raises:
            TaskError: EVALUATION; it cannot be read, or its lock file lacks something.
        """
        return (await self._look(flake)).state

    async def evaluate(self, flake: str, hosts: Sequence[Host], on_line: OnLine | None = None) -> Evaluation:
        """All hosts, as few processes as memory allows; what failed is some host's failure.

        Raises:
            TaskError: EVALUATION; the flake cannot be read, or not one host evaluates.
        """
        say = on_line or _silent
        looked = await self._look_with_version(flake)
        key = await self._key(looked)
        found = await self._known(key, hosts)
        failures: dict[HostName, Failure] = {}
        left = [expressions.wanted(host) for host in hosts if host.name not in found]
        if found:
            say(f"{len(found)} of {len(hosts)} hosts are as they were when they were last evaluated")
        if left:
            looked = await self._as_it_lies(looked)
            fresh, failures = await self._evaluate(looked, left, say)
            found |= fresh
            await self._keep(key, looked, list(fresh.values()), say)
        if hosts and not found:
            raise TaskError(evaluation_diagnosis.nothing_evaluates(failures))
        return Evaluation(
            flake=looked.state,
            hosts={host.name: found[host.name] for host in hosts if host.name in found},
            failures={host.name: failures[host.name] for host in hosts if host.name in failures},
        )

    async def forget(self, flake: str) -> None:
        """Evaluate anew the next time: what was kept of this flake turned out to be of no use."""
        key = await self._key(await self._look(flake))
        if self._cache is not None and key:
            await anyio.to_thread.run_sync(self._cache.drop, key)

    async def _evaluate(
        self, flake: LockedFlake, hosts: Sequence[Wanted], say: OnLine
    ) -> tuple[dict[HostName, Evaluated], dict[HostName, Failure]]:
        flags = flake_flags(self._settings)
        per_host = PER_HOST if flake.pinned and flags == (LOCKED,) else PER_KEPT_HOST
        size = sizes(len(hosts), self._settings, self._machine(), per_host)
        say(_beginning(flake, len(hosts), size))
        progress = Progress(len(hosts), say)
        found: dict[HostName, Evaluated] = {}
        failures: dict[HostName, Failure] = {}
        if self._jobs is not None and await self._jobs.usable():
            for root in dict.fromkeys(each.root for each in hosts):
                some = [each for each in hosts if each.root == root]
                told = await self._jobs.evaluate(flake, some, flags, size, progress)
                found |= told.found
                failures |= told.failures
                if told.problem:
                    say(f"nix-eval-jobs gave up ({told.problem}); going on with nix eval")
        run = Evaluating(self._program, flake, flags, size, progress)
        await run.run([each for each in hosts if each.host.name not in found and each.host.name not in failures])
        found |= run.found
        say(_ending(len(found), len(hosts), size))
        return found, failures | run.failures

    # Which flake.

    async def _look_with_version(self, flake: str) -> LockedFlake:
        """The flake, and at the same time which Nix this is, where that is part of what evaluations are kept by."""
        if not self._keeps:
            return await self._look(flake)
        looked: list[LockedFlake | TaskError] = []

        async def ask_version() -> None:
            with contextlib.suppress(TaskError):  # Whoever needs it asks again, and is told why.
                await self._program.version_text()

        async with anyio.create_task_group() as group:
            group.start_soon(ask_version)
            try:
                looked.append(await self._look(flake))
            except TaskError as error:
                looked.append(error)
        if isinstance(looked[0], TaskError):
            raise looked[0]
        return looked[0]

    async def _look(self, flake: str) -> LockedFlake:
        result = await self._metadata(flake, LOCKED)
        if evaluation_diagnosis.unlocked(result):
            changes = await self._metadata(flake, "--no-write-lock-file")
            raise TaskError(evaluation_diagnosis.lock_failure(flake, result, changes))
        looked = locked_flake(flake, parsed(result.stdout)) if result.ok else None
        if looked is None:
            raise TaskError(flake_failure(flake, result))
        overrides = [flag for flag in flake_flags(self._settings) if flag != "--impure"]
        if len(overrides) == 1:
            return looked
        # With overrides Nix no longer minds an incomplete lock file; that is why it was asked without them first.
        result = await self._metadata(flake, *overrides)
        if missing := evaluation_diagnosis.missing_overrides(result):
            known = parsed(result.stdout) or {}
            raise TaskError(evaluation_diagnosis.override_failure(flake, missing, _inputs(known)))
        overridden = locked_flake(flake, parsed(result.stdout)) if result.ok else None
        if overridden is None:
            raise TaskError(flake_failure(flake, result))
        return overridden

    async def _metadata(self, flake: str, *flags: str) -> CommandResult:
        return await self._program.run("flake", "metadata", "--json", *flags, flake, timeout=SHORT_TIMEOUT)

    async def _as_it_lies(self, flake: LockedFlake) -> LockedFlake:
        """Not pinned to its commit where Git makes other files of that: Nix 2.34 would read the commit's own.

        A tree behind git-crypt would be evaluated encrypted; and Nix names the same hash for both.
        """
        if not (flake.local and flake.pinned and flake.source):
            return flake
        source = StoreFiles(store_root(self._environ.get("NIX_REMOTE", ""))).physical(flake.source)
        if not await anyio.to_thread.run_sync(attributes.changes_files, source):
            return flake
        return replace(flake, locked=flake.reference, pinned=False)

    # What is known.

    @property
    def _keeps(self) -> bool:
        return self._cache is not None and not self._settings.impure

    async def _key(self, flake: LockedFlake) -> str:
        """Empty when nothing may be kept: an impure evaluation depends on what nobody knows."""
        if self._cache is None or not self._keeps:
            return ""
        store, config = self._environ.get("NIX_REMOTE", ""), self._environ.get("NIX_CONFIG", "")
        return self._cache.key(flake.identity, await self._program.version_text(), store, config)

    async def _known(self, key: str, hosts: Sequence[Host]) -> dict[HostName, Evaluated]:
        if self._cache is None or not key:
            return {}
        return await anyio.to_thread.run_sync(self._cache.find, key, hosts)

    async def _keep(self, key: str, flake: LockedFlake, fresh: Sequence[Evaluated], say: OnLine) -> None:
        """Not when the flake was changed meanwhile: what was evaluated is neither what it was nor what it is."""
        if self._cache is None or not key or not fresh:
            return
        movable = not flake.pinned or self._settings.override_inputs
        if movable and (await self._look(flake.reference)).identity != flake.identity:
            say("the flake was changed while it was evaluated; some hosts may have the change, others not")
            return
        try:
            await anyio.to_thread.run_sync(self._cache.keep, key, fresh)
        except OSError as error:
            say(f"evaluations cannot be kept for the next time: {error}")


def _beginning(flake: LockedFlake, hosts: int, size: Sizes) -> str:
    dirty = ", with uncommitted changes" if flake.state.dirty else ""
    workers = f"up to {size.workers} evaluators" if size.workers > 1 else "one evaluator"
    return f"evaluating {hosts} host{'s' * (hosts != 1)} with {workers} in {size.cap // MIB} MiB{dirty}"


def _ending(found: int, hosts: int, size: Sizes) -> str:
    peak = f"; the largest evaluator had {size.peak // MIB} MiB" if size.peak else ""
    processes = "one process" if size.evaluators == 1 else f"{size.evaluators} processes"
    return f"evaluated {found} of {hosts} host{'s' * (hosts != 1)} in {processes}{peak}"


def _inputs(metadata: Mapping[str, object]) -> tuple[str, ...]:
    match metadata:
        case {"locks": {"nodes": dict(nodes), "root": str(root)}}:
            inputs = nodes.get(root, {}).get("inputs", {})
            return tuple(inputs) if isinstance(inputs, Mapping) else ()
        case _:
            return ()
