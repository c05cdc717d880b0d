"""Evaluation with ``nix eval``: one pass for all hosts, and whose fault it is when that fails. It builds nothing."""

from collections.abc import Mapping, Sequence
from typing import Final

from nixkube_deploy.backends.nix import diagnosis, expressions
from nixkube_deploy.backends.nix.metadata import flake_state
from nixkube_deploy.backends.nix.program import SHORT_TIMEOUT, NixProgram, in_parallel
from nixkube_deploy.model.building import EvaluationSettings
from nixkube_deploy.model.closure import Evaluated, FlakeState
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.nix import Evaluation
from nixkube_deploy.ports.shell import CommandResult, OnLine

_SIDE_BY_SIDE: Final = 4
"""Evaluations side by side when culprits are looked for: each may take gigabytes."""

_EVALUATION_TIMEOUT: Final = 3600.0


class NixEvaluator:
    """The Evaluator over the controller's ``nix``."""

    def __init__(self, program: NixProgram, settings: EvaluationSettings) -> None:
        self._program, self._settings = program, settings

    async def state(self, flake: str) -> FlakeState:
        """Which flake this is now.

        Raises:
            TaskError: EVALUATION; it cannot be read.
        """
        result = await self._program.run("flake", "metadata", "--json", flake, timeout=SHORT_TIMEOUT)
        state = flake_state(flake, expressions.parsed(result.stdout)) if result.ok else None
        if state is None:
            raise TaskError(diagnosis.flake_failure(flake, result))
        return state

    async def evaluate(self, flake: str, hosts: Sequence[Host], on_line: OnLine | None = None) -> Evaluation:
        """All hosts in one pass; only when that fails, one by one, to name the culprits.

        Raises:
            TaskError: EVALUATION; the flake cannot be read, or not one host evaluates.
        """
        state = await self.state(flake)
        found: dict[HostName, Evaluated] = {}
        alone = [host for host in hosts if host.attr is not None]
        for some in expressions.passes(host for host in hosts if host.attr is None):
            together = await self._evaluate_together(flake, some, on_line) if len(some) > 1 else {}
            found |= together
            alone += [host for host in some if host.name not in together]
        failures: dict[HostName, Failure] = {}

        async def evaluate_one(host: Host) -> None:
            try:
                found[host.name] = await self._evaluate_one(flake, host, on_line)
            except TaskError as error:
                failures[host.name] = error.failure

        await in_parallel(evaluate_one, alone, _SIDE_BY_SIDE)
        if hosts and not found:
            raise TaskError(diagnosis.nothing_evaluates(failures))
        return Evaluation(
            flake=state,
            hosts={host.name: found[host.name] for host in hosts if host.name in found},
            failures={host.name: failures[host.name] for host in hosts if host.name in failures},
        )

    async def _evaluate_together(
        self, flake: str, hosts: tuple[Host, ...], on_line: OnLine | None
    ) -> dict[HostName, Evaluated]:
        """Empty when any one of them fails: Nix tells which only one by one."""
        expression = expressions.select_hosts(host.name for host in hosts)
        result = await self._eval(f"{flake}#nixosConfigurations", expression, on_line)
        data = expressions.parsed(result.stdout) if result.ok else None
        if not isinstance(data, Mapping):
            return {}
        found = {host.name: expressions.evaluated(host, data.get(host.name)) for host in hosts}
        return {name: one for name, one in found.items() if one is not None}

    async def _evaluate_one(self, flake: str, host: Host, on_line: OnLine | None) -> Evaluated:
        if host.attr is None:
            installable, expression = f"{flake}#nixosConfigurations", expressions.select_hosts([host.name])
        else:
            installable, expression = f"{flake}#{host.attr}", expressions.SELECT
        result = await self._eval(installable, expression, on_line)
        data = expressions.parsed(result.stdout) if result.ok else None
        if host.attr is None and isinstance(data, Mapping):
            data = data.get(host.name)
        one = expressions.evaluated(host, data)
        if one is None:
            raise TaskError(diagnosis.evaluation_failure(host, flake, result))
        return one

    async def _eval(self, installable: str, expression: str, on_line: OnLine | None) -> CommandResult:
        arguments = ("eval", "--json", installable, "--apply", expression)
        return await self._program.run(*arguments, timeout=_EVALUATION_TIMEOUT, on_line=on_line)
