"""Who did what when: a fold of a run's records into bars, one an attempt of a step. It deliberately draws nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from nixkube_deploy.model.action import Stage
from nixkube_deploy.model.event import (
    Record,
    RunDraining,
    RunFinished,
    RunStarted,
    TaskInterrupted,
    TaskRetrying,
    TaskSettled,
    TaskStarted,
    Verdict,
)
from nixkube_deploy.model.names import HostName, TaskId
from nixkube_deploy.model.rollout import Plan


class Ending(StrEnum):
    """How an attempt ended."""

    WELL = "done"
    UNCHANGED = "nothing to do"
    FAILED = "failed"
    RETRIED = "failed, tried again"
    INTERRUPTED = "interrupted"
    CUT_OFF = "cut off with its controller"
    OPEN = "not ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One attempt of one step. Times are seconds since the epoch."""

    task: TaskId
    attempt: int
    start: float
    end: float
    ending: Ending = Ending.OPEN
    detail: str = ""

    @property
    def step(self) -> str:
        """The part of the id after the host."""
        return self.task.partition("/")[2] or self.task


@dataclass(slots=True)
class Timeline:
    """A run in time."""

    start: float = 0.0
    end: float = 0.0
    """Of the last thing that is known to have happened."""
    bars: dict[HostName, list[Bar]] = field(default_factory=dict)
    marks: list[tuple[float, str]] = field(default_factory=list)
    """What happened to the run as a whole."""

    @property
    def seconds(self) -> float:
        """Never zero: it is divided by."""
        return max(self.end - self.start, 0.001)


_ENDINGS = {
    Verdict.SUCCEEDED: Ending.WELL,
    Verdict.UNCHANGED: Ending.UNCHANGED,
    Verdict.FAILED: Ending.FAILED,
    Verdict.SKIPPED: Ending.INTERRUPTED,
}


def timeline(plan: Plan, records: Iterable[Record]) -> Timeline:
    """Fold the records; what is still open ends where they do."""
    fold = _Fold(plan)
    for record in records:
        fold.see(record)
    return fold.ended()


class _Fold:
    """A timeline that grows, and the attempts that have not ended."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._found = plan, Timeline()
        self._running: dict[TaskId, Bar] = {}
        self._begun = False

    def see(self, record: Record) -> None:
        at, found = record.at, self._found
        if not self._begun:
            found.start, self._begun = at, True
        match record.event:
            case RunStarted(resumed=resumed):
                self._end_all(Ending.CUT_OFF)
                found.marks.append((at, "resumed by another controller" if resumed else "begun"))
            case TaskStarted(task=task, attempt=attempt):
                self._running[task] = Bar(task=task, attempt=attempt, start=at, end=at)
            case TaskRetrying(task=task, failure=failure):
                self._end(task, at, Ending.RETRIED, failure.message)
            case TaskSettled(task=task, verdict=verdict, detail=detail, failure=failure):
                self._end(task, at, _ENDINGS[verdict], failure.message if failure is not None else detail)
            case TaskInterrupted(task=task):
                self._end(task, at, Ending.INTERRUPTED)
            case RunDraining(reason=reason):
                found.marks.append((at, f"stops starting anything: {reason}"))
            case RunFinished(outcome=outcome):
                found.marks.append((at, outcome.value))
        found.end = at

    def ended(self) -> Timeline:
        self._end_all(Ending.OPEN)
        return self._found

    def _end_all(self, ending: Ending) -> None:
        for task in list(self._running):
            self._end(task, self._found.end, ending)

    def _end(self, name: TaskId, at: float, ending: Ending, detail: str = "") -> None:
        bar, task = self._running.pop(name, None), self._plan.graph.get(name)
        if bar is None or task is None or task.host is None or isinstance(task.action, Stage):
            return
        self._found.bars.setdefault(task.host, []).append(replace(bar, end=at, ending=ending, detail=detail))
