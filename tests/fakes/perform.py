"""A Perform that does what a script says, in the event loop's time, and watches on its own what the engine does."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import anyio

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import TaskId
from nixkube_deploy.model.task import Task
from nixkube_deploy.ports.perform import Attempt, Done

End = Done | Exception
"""How one attempt ends."""


def fails(message: str = "no", *, transient: bool = False, kind: FailureKind = FailureKind.COMMAND) -> TaskError:
    """An expected failure."""
    return TaskError(Failure(kind=kind, message=message, transient=transient))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One attempt that was begun."""

    task: TaskId
    number: int
    resumed: bool
    at: float


@dataclass(slots=True, kw_only=True)
class ScriptedPerform:
    """``script``: how the attempts of a task end, in order, the last one for ever; what is not in it goes well."""

    script: Mapping[TaskId, Iterable[End]] = field(default_factory=dict)
    durations: Mapping[TaskId, float] = field(default_factory=dict)
    before: Callable[[Task, Attempt], None] | None = None
    calls: list[Call] = field(default_factory=list)
    running: set[TaskId] = field(default_factory=set)
    ended: dict[TaskId, End] = field(default_factory=dict)
    """The last end of every task that came to one."""
    most_at_once: int = 0
    _left: dict[TaskId, list[End]] = field(default_factory=dict)

    async def __call__(self, task: Task, attempt: Attempt) -> Done:
        assert task.id not in self.running, f"{task.id} runs twice at once"
        self.calls.append(Call(task=task.id, number=attempt.number, resumed=attempt.resumed, at=anyio.current_time()))
        if self.before is not None:
            self.before(task, attempt)
        self.running.add(task.id)
        self.most_at_once = max(self.most_at_once, len(self.running))
        try:
            await anyio.sleep(self.durations.get(task.id, 0.0))
            end = self._end(task.id)
            self.ended[task.id] = end
        finally:
            self.running.discard(task.id)
        if isinstance(end, Exception):
            raise end
        return end

    def _end(self, task: TaskId) -> End:
        left = self._left.setdefault(task, list(self.script.get(task, (Done(),))))
        return left.pop(0) if len(left) > 1 else left[0]

    @property
    def performed(self) -> list[TaskId]:
        """Task ids in the order their attempts began."""
        return [call.task for call in self.calls]
