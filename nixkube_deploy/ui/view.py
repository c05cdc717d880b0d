"""What a run looks like from outside: a fold of its records into one row a host, waves, failures and an estimate.

Pure: it draws nothing and reads no clock, so every picture of a run (live, plain, summary) is the same picture.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nixkube_deploy.model.action import Stage
from nixkube_deploy.model.event import (
    Outcome,
    Record,
    RunDraining,
    RunFinished,
    RunStarted,
    TaskInterrupted,
    TaskReported,
    TaskRetrying,
    TaskSettled,
    TaskStarted,
    Verdict,
)
from nixkube_deploy.model.names import HostName, RunId, TaskId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ui.rows import (
    FailureSeen,
    HostState,
    HostView,
    Phase,
    TaskView,
    WaveView,
    host_row,
    planned_row,
)
from nixkube_deploy.ui.sanitize import clean


@dataclass(slots=True)
class _Tally:
    """Sections that ended well, for the estimate."""

    count: int = 0
    seconds: float = 0.0
    first: float | None = None


@dataclass(slots=True)
class _Hosts:
    views: dict[HostName, HostView] = field(default_factory=dict)
    tasks: dict[HostName, list[TaskId]] = field(default_factory=dict)
    counts: Counter[HostState] = field(default_factory=Counter)


class RunView:
    """Folds records and reports over a plan. Past records of a resumed run may be folded first."""

    def __init__(self, plan: Plan) -> None:
        self.run: RunId | None = None
        self.started: float | None = None
        self.finished: float | None = None
        self.outcome: Outcome | None = None
        self.draining: str = ""
        self.failures: list[FailureSeen] = []
        self._graph = plan.graph
        self._tasks = {task.id: TaskView(task=task) for task in plan.graph.values()}
        self._active: dict[TaskId, None] = {}
        self._hosts = _Hosts()
        self._tally = _Tally()
        for task in plan.graph.values():
            if task.host is not None:
                self._hosts.tasks.setdefault(task.host, []).append(task.id)
        for host in plan.hosts:
            section = plan.graph.sections.get(host.host)
            self._put(
                planned_row(host, section.wave if section else host.wave, has_tasks=host.host in self._hosts.tasks)
            )

    # What is asked.

    @property
    def hosts(self) -> tuple[HostView, ...]:
        """Every host of the plan, in its order."""
        return tuple(self._hosts.views.values())

    def host(self, name: HostName) -> HostView:
        """One host's row."""
        return self._hosts.views[name]

    @property
    def counts(self) -> Mapping[HostState, int]:
        """How many hosts are in each state."""
        return {state: self._hosts.counts[state] for state in HostState if self._hosts.counts[state]}

    def tasks_of(self, host: HostName) -> tuple[TaskView, ...]:
        """The host's steps in dependency order."""
        return tuple(self._tasks[task] for task in self._hosts.tasks.get(host, ()))

    def task(self, task: TaskId) -> TaskView:
        """One step."""
        return self._tasks[task]

    @property
    def active(self) -> tuple[TaskView, ...]:
        """What is being done now, longest first."""
        return tuple(sorted((self._tasks[task] for task in self._active), key=lambda t: t.since or 0.0))

    @property
    def waves(self) -> tuple[WaveView, ...]:
        """The waves in order."""
        total: Counter[int] = Counter()
        settled: Counter[int] = Counter()
        for host in self._graph.sections:
            view = self._hosts.views.get(host)
            if view is not None and view.wave is not None:
                total[view.wave] += 1
                settled[view.wave] += view.state.is_settled
        return tuple(WaveView(number=n, total=total[n], settled=settled[n]) for n in sorted(total))

    def eta(self, now: float) -> float | None:
        """Seconds until every section is through, from the sections that are; None while there are none to learn from.

        Work left over the parallelism seen so far: an estimate that needs no knowledge of budgets.
        """
        tally = self._tally
        if tally.count == 0 or tally.first is None or self.finished is not None:
            return None
        mean = tally.seconds / tally.count
        left = running = 0.0
        for host in self._graph.sections:
            view = self._hosts.views.get(host)
            if view is None or view.state.is_settled:
                continue
            spent = 0.0 if view.opened is None else max(0.0, now - view.opened)
            running += spent
            left += max(mean - spent, 0.0)
        parallel = max(1.0, (tally.seconds + running) / max(now - tally.first, 1e-9))
        return left / parallel

    # What happens.

    def apply(self, record: Record) -> None:
        """Fold one record."""
        match record.event:
            case RunStarted(run=run, resumed=resumed):
                self._begin(run, record.at, resumed=resumed)
            case TaskStarted(task=task, attempt=attempt):
                self._start(task, attempt, record.at)
            case TaskRetrying(task=task, failure=failure):
                line = clean(f"attempt {record.event.attempt} failed: {failure.message}")
                self._update(task, phase=Phase.BACKING_OFF, since=record.at, line=line)
            case TaskSettled():
                self._settle(record.event, record.at)
            case TaskInterrupted(task=task):
                self._update(task, phase=Phase.INTERRUPTED, since=record.at)
            case RunDraining(reason=reason):
                self.draining = clean(reason)
            case RunFinished(outcome=outcome):
                self._finish(outcome, record.at)

    def hear(self, report: TaskReported) -> None:
        """Note a running step's last line."""
        known = self._tasks.get(report.task)
        if known is None:
            return
        self._keep(replace(known, line=clean(report.line)))
        view = None if known.task.host is None else self._hosts.views.get(known.task.host)
        if view is not None and view.step == known.step:
            self._put(replace(view, line=clean(report.line)))

    def _begin(self, run: RunId, at: float, *, resumed: bool) -> None:
        self.run, self.outcome, self.finished, self.draining = run, None, None, ""
        self.started = at if self.started is None or not resumed else self.started
        for task in [t for t in self._tasks.values() if t.is_active or t.phase is Phase.INTERRUPTED]:
            # A controller that died can no longer be running anything.
            self._keep(replace(task, phase=Phase.WAITING, since=at))
        for host in self._hosts.tasks:
            self._refresh(host)

    def _start(self, task: TaskId, attempt: int, at: float) -> None:
        known = self._tasks[task]
        started = at if known.started is None else known.started
        self._update(task, phase=Phase.RUNNING, attempt=attempt, started=started, since=at, line="")

    def _settle(self, event: TaskSettled, at: float) -> None:
        known = self._tasks[event.task]
        self._keep(
            replace(
                known,
                phase=Phase.SETTLED,
                since=at,
                verdict=event.verdict,
                skip=event.skip,
                detail=clean(event.detail),
                failure=event.failure,
            )
        )
        if event.failure is not None and event.verdict is Verdict.FAILED:
            self.failures.append(FailureSeen(task=event.task, host=known.task.host, failure=event.failure, at=at))
        if known.task.host is not None:
            self._refresh(known.task.host, at)

    def _finish(self, outcome: Outcome, at: float) -> None:
        self.outcome, self.finished = outcome, at
        for host in self._hosts.tasks:
            self._refresh(host, at)

    def _update(self, task: TaskId, **changes: object) -> None:
        known = self._tasks[task]
        self._keep(replace(known, **changes))  # type: ignore[arg-type]
        if known.task.host is not None:
            self._refresh(known.task.host)

    def _keep(self, task: TaskView) -> None:
        self._tasks[task.task.id] = task
        if task.is_active and not isinstance(task.task.action, Stage):
            self._active[task.task.id] = None
        else:
            self._active.pop(task.task.id, None)

    def _refresh(self, host: HostName, at: float | None = None) -> None:
        before = self._hosts.views.get(host, HostView(host=host))
        after = host_row(before, self.tasks_of(host), ended=self.finished is not None)
        if after.state.is_settled and not before.state.is_settled:
            after = replace(after, finished=at)
            self._learn(after)
        self._put(after)

    def _learn(self, view: HostView) -> None:
        if view.opened is None or view.finished is None:
            return
        first = self._tally.first
        self._tally.first = view.opened if first is None else min(first, view.opened)
        if view.state.went_well:
            self._tally.count += 1
            self._tally.seconds += view.finished - view.opened

    def _put(self, view: HostView) -> None:
        before = self._hosts.views.get(view.host)
        if before is not None:
            self._hosts.counts[before.state] -= 1
        self._hosts.counts[view.state] += 1
        self._hosts.views[view.host] = view
