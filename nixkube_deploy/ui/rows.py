"""One row a host and a step: what they hold, and how a host's row follows from its steps.

Values and pure functions; the fold that keeps them current is in ``view``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from nixkube_deploy.model.action import RollBack, Stage
from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.event import SkipCause, Verdict
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName, TaskId
from nixkube_deploy.model.rollout import HostPlan
from nixkube_deploy.model.task import Task
from nixkube_deploy.ui.sanitize import clean


class HostState(StrEnum):
    """Where a host stands in a run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    ROLLED_BACK = "rolled back"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will happen to the host in this run."""
        return self not in {HostState.WAITING, HostState.RUNNING}

    @property
    def went_well(self) -> bool:
        """Whether the host is as the plan wants it."""
        return self in {HostState.DONE, HostState.UNCHANGED}


class Phase(StrEnum):
    """Where a task stands."""

    WAITING = "waiting"
    RUNNING = "running"
    BACKING_OFF = "backing off"
    INTERRUPTED = "interrupted"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One step, as far as it has come. Times are seconds since the epoch."""

    task: Task
    phase: Phase = Phase.WAITING
    attempt: int = 0
    started: float | None = None
    """When its first attempt began."""
    since: float | None = None
    """When it came into its phase."""
    line: str = ""
    verdict: Verdict | None = None
    skip: SkipCause | None = None
    detail: str = ""
    failure: Failure | None = None

    @property
    def step(self) -> str:
        """The part of the id after the host."""
        return self.task.id.partition("/")[2] or self.task.id

    @property
    def is_active(self) -> bool:
        """Whether something is being done, or tried again soon."""
        return self.phase in {Phase.RUNNING, Phase.BACKING_OFF}

    @property
    def is_settled(self) -> bool:
        """Whether it has its verdict."""
        return self.phase is Phase.SETTLED

    @property
    def matters(self) -> bool:
        """A rollback nobody needed is nothing to tell anyone."""
        return self.skip is not SkipCause.NOT_NEEDED and not isinstance(self.task.action, Stage)

    @property
    def seconds(self) -> float | None:
        """How long it took, back-off included; None before it settled or when it never ran."""
        if not self.is_settled or self.started is None or self.since is None:
            return None
        return self.since - self.started


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """One host's row."""

    host: HostName
    wave: int | None = None
    change: ChangeClass | None = None
    state: HostState = HostState.WAITING
    step: str = ""
    attempt: int = 0
    since: float | None = None
    """When the current step or, once settled, the last one began."""
    line: str = ""
    failure: Failure | None = None
    failed_step: str = ""
    reason: str = ""
    """Why nothing was done, when nothing was."""
    opened: float | None = None
    """When the host became unavailable (its section opened)."""
    started: float | None = None
    finished: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long the host itself was worked on; staging and waiting for its turn do not count."""
        begun = self.opened if self.opened is not None else self.started
        if self.state is HostState.SKIPPED or begun is None or self.finished is None:
            return None
        return self.finished - begun


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveView:
    """One wave's progress."""

    number: int
    total: int
    settled: int

    @property
    def is_done(self) -> bool:
        """Whether every host of the wave has settled."""
        return self.settled == self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureSeen:
    """A step that failed for good."""

    task: TaskId
    host: HostName | None
    failure: Failure
    at: float


def planned_row(host: HostPlan, wave: int | None, *, has_tasks: bool) -> HostView:
    """A host's row before anything happened."""
    kind = host.change.kind if host.change is not None else None
    row = HostView(host=host.host, wave=wave, change=kind)
    if has_tasks:
        return row
    if host.problem is not None:
        return replace(row, state=HostState.SKIPPED, reason=clean(host.problem.message), failure=host.problem)
    if host.skipped:
        return replace(row, state=HostState.SKIPPED, reason=clean(host.skipped))
    told = "; ".join(host.change.reasons) if host.change is not None else ""
    return replace(row, state=HostState.UNCHANGED, reason=clean(told))


def host_row(before: HostView, tasks: Iterable[TaskView], *, ended: bool) -> HostView:
    """The host's row as its steps tell it."""
    steps = [t for t in tasks if t.matters]
    begun = [t for t in steps if t.started is not None]
    opened = min((t.started for t in begun if t.task.section and t.started is not None), default=None)
    active = [t for t in begun if t.is_active]
    failed = [t for t in steps if t.verdict is Verdict.FAILED]
    shown = max(active or begun, key=lambda t: t.started or 0.0, default=None)
    state = _state(steps, ended=ended)
    failure = failed[0].failure if failed else None
    skipped = next((t.detail for t in steps if t.verdict is Verdict.SKIPPED), "")
    return replace(
        before,
        state=state,
        step=shown.step if shown else "",
        attempt=shown.attempt if shown else 0,
        since=shown.since if shown else None,
        line=_line(shown, failure, state),
        failure=failure,
        failed_step=failed[0].step if failed else "",
        reason=skipped if state is HostState.SKIPPED else "",
        opened=opened,
        started=min((t.started for t in begun if t.started is not None), default=None),
    )


def _line(shown: TaskView | None, failure: Failure | None, state: HostState) -> str:
    if failure is not None and state.is_settled:
        return clean(failure.message)
    return "" if shown is None else shown.detail or shown.line


def _state(steps: list[TaskView], *, ended: bool) -> HostState:
    if not all(t.is_settled for t in steps):
        section_open = any(t.started is not None and t.task.section for t in steps)
        if not section_open and not any(t.is_active or t.phase is Phase.INTERRUPTED for t in steps):
            return HostState.WAITING
        return HostState.INTERRUPTED if ended else HostState.RUNNING
    verdicts = {t.verdict for t in steps}
    if Verdict.FAILED in verdicts:
        return HostState.ROLLED_BACK if _is_back(steps) else HostState.FAILED
    if Verdict.SKIPPED in verdicts:
        return HostState.SKIPPED
    return HostState.UNCHANGED if verdicts <= {Verdict.UNCHANGED} else HostState.DONE


def _is_back(steps: list[TaskView]) -> bool:
    """Whether the host was taken back and everything after that went well too."""
    names = [t for t in steps if t.step.startswith("rollback")]
    took = any(isinstance(t.task.action, RollBack) for t in names)
    return took and all(t.verdict is not None and t.verdict.went_well for t in names)
