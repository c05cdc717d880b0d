"""An evaluation that is begun before anybody asks for it: Nix works while the rest of the product is still being read.

It decides nothing: whoever asks gets what the evaluator itself would have answered.
"""

from collections.abc import Sequence

import anyio

from nixkube_deploy.model.closure import FlakeState
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.nix import Evaluation, Evaluator
from nixkube_deploy.ports.shell import OnLine


class EvaluationAhead:
    """An ``Evaluator`` one of whose evaluations may be at work, or done, when it is asked for."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._asked: tuple[str, tuple[Host, ...]] | None = None
        self._answer: Evaluation | TaskError | None = None
        self._answered = anyio.Event()
        self._unheard: list[str] = []
        self._hear: OnLine = self._unheard.append

    async def begin(self, flake: str, hosts: Sequence[Host]) -> None:
        """Evaluate, and keep the answer for the first who asks for exactly this."""
        self._asked = (flake, tuple(hosts))
        try:
            self._answer = await self._evaluator.evaluate(flake, hosts, self._heard)
        except TaskError as error:
            self._answer = error
        self._answered.set()

    def _heard(self, line: str) -> None:
        self._hear(line)  # Whoever listens by then.

    async def state(self, flake: str) -> FlakeState:
        """See ``Evaluator``."""
        return await self._evaluator.state(flake)

    async def evaluate(self, flake: str, hosts: Sequence[Host], on_line: OnLine | None = None) -> Evaluation:
        """See ``Evaluator``. A second question is a new one: the flake may have changed since."""
        if self._asked != (flake, tuple(hosts)):
            return await self._evaluator.evaluate(flake, hosts, on_line)
        self._asked, said = None, on_line or (lambda _line: None)
        for line in self._unheard:
            said(line)
        self._hear = said
        await self._answered.wait()
        if isinstance(self._answer, TaskError):
            raise self._answer
        assert self._answer is not None
        return self._answer
