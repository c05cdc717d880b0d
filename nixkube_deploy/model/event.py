"""What happened, in the past tense: the journal stores events, the engine folds them to decide, the UI to draw."""

from dataclasses import dataclass
from enum import StrEnum

from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import RunId, TaskId


class Verdict(StrEnum):
    """How a task settled."""

    SUCCEEDED = "succeeded"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    SKIPPED = "skipped"

    @property
    def went_well(self) -> bool:
        """Whether dependents may run; finding nothing to do is success that says so."""
        return self in {Verdict.SUCCEEDED, Verdict.UNCHANGED}


class SkipCause(StrEnum):
    """Why a task was not run."""

    NOT_NEEDED = "not-needed"
    """A rollback whose host did not fail: nothing to tell anyone."""
    DEPENDENCY = "dependency"
    HALTED = "halted"
    BUDGET = "budget"
    """No room in a disruption budget will ever come."""
    WINDOW = "window"

    @property
    def is_refusal(self) -> bool:
        """Whether the rollout's rules forbade it, so that work is left undone though nothing it needs failed."""
        return self in {SkipCause.HALTED, SkipCause.BUDGET, SkipCause.WINDOW}


class Outcome(StrEnum):
    """How a run ended."""

    CONVERGED = "converged"
    HALTED = "halted"
    ROLLED_BACK = "rolled-back"
    INTERRUPTED = "interrupted"
    BROKEN = "broken"
    """A bug: the run was drained and the exception re-raised."""

    @property
    def exit_code(self) -> int:
        """The documented exit code of ``apply``."""
        return {"converged": 0, "broken": 1, "halted": 4, "rolled-back": 5, "interrupted": 130}[self.value]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A controller began (or, with ``resumed``, took up again) a run."""

    run: RunId
    fingerprint: str
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted:
    """An attempt is about to act. On disk before the first byte goes out."""

    task: TaskId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRetrying:
    """An attempt failed in a way that another may mend; it starts in ``delay`` seconds."""

    task: TaskId
    attempt: int
    failure: Failure
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettled:
    """A task reached its verdict, for good."""

    task: TaskId
    verdict: Verdict
    detail: str = ""
    """What was done, or why it was skipped."""
    skip: SkipCause | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInterrupted:
    """An attempt was cancelled; its outcome is unknown until it is verified."""

    task: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDraining:
    """No new section opens and no unsectioned task starts; open sections are finished."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The run ended."""

    outcome: Outcome


Event = RunStarted | TaskStarted | TaskRetrying | TaskSettled | TaskInterrupted | RunDraining | RunFinished


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An event as the journal keeps it: ``seq`` from 0 without gaps, ``at`` seconds since the epoch, UTC."""

    seq: int
    at: float
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReported:
    """A line of progress from within a running task, for eyes only: never journalled, never folded."""

    task: TaskId
    line: str
