"""What has happened so far, and so what may happen next: the left fold of a run's events over its graph.

The same events always give the same decisions; there is deliberately no await, no clock and no journal in here.
"""

from collections import deque
from collections.abc import Iterable
from datetime import datetime
from typing import assert_never

from nixkube_deploy.engine.sections import Sections
from nixkube_deploy.model import event
from nixkube_deploy.model.action import RollBack
from nixkube_deploy.model.decision import Skip, Start, Wait
from nixkube_deploy.model.event import Outcome, SkipCause, Verdict
from nixkube_deploy.model.names import HostName, TaskId, name_some
from nixkube_deploy.model.task import Task, TaskGraph

_START = Start()
_NOT_NEEDED = Skip(SkipCause.NOT_NEEDED, "nothing failed that it would answer")


class Progress:
    """``apply`` folds one event in, ``decide`` asks about one task, ``next`` hands out what can be done."""

    def __init__(self, graph: TaskGraph, past: Iterable[event.Event] = ()) -> None:
        self.graph = graph
        self.settled: dict[TaskId, event.TaskSettled] = {}
        self.attempts: dict[TaskId, int] = {}
        """Of every task that was begun and has not settled: the attempt that runs, or comes next."""
        self.failed: set[HostName] = set()
        self.draining = ""
        """Why nothing new may begin; empty: it may."""
        self._sections = Sections(graph)
        self._refused: dict[HostName | None, Skip] = {}
        self._parked: dict[HostName, list[TaskId]] = {}
        self._outstanding = {task_id: len(task.dependencies) for task_id, task in graph.items()}
        self._unsettled = {host: len(graph.members(host)) for host in graph.sections}
        self._ready: deque[TaskId] = deque()
        self._handed_out: set[TaskId] = set()
        for happened in past:
            self.apply(happened)
        self._ready = deque(t for t in graph if t not in self.settled and not self._outstanding[t])

    def apply(self, happened: event.Event) -> None:
        """Fold one event in."""
        match happened:
            case event.TaskSettled():
                self._settle(happened)
            case event.TaskStarted():
                self.attempts[happened.task] = happened.attempt
                if (host := self.graph[happened.task].section) is not None and host not in self._sections.open:
                    self._sections.began(host)
            case event.TaskRetrying():
                self.attempts[happened.task] = happened.attempt + 1
            case event.RunDraining():
                self.draining = happened.reason
            case event.RunStarted():
                self.draining = ""
            case event.TaskInterrupted() | event.RunFinished():
                pass
            case _:
                assert_never(happened)

    def decide(self, task_id: TaskId, now: datetime | None = None) -> Start | Skip | Wait:
        """What may be done about a task, going by the events alone. Without ``now``, windows do not count."""
        task = self.graph[task_id]
        if (settled := self.settled.get(task_id)) is not None:
            return Wait(f"{settled.verdict}{settled.detail and ': '}{settled.detail}")
        if self._outstanding[task_id]:
            return Wait(f"waits for {name_some(task.dependencies - self.settled.keys())}")
        if (skip := self._unneeded(task)) is not None:
            return skip
        if task.section in self._sections.open:
            return _START
        if self.draining:
            return Wait(f"the run is draining: {self.draining}")
        if task.section is None:
            return _START
        if (skip := self._stop(now)) is not None:
            return skip
        obstacle = self._sections.obstacle(task.section)
        return _START if obstacle is None else Wait(self._sections.explain(obstacle))

    def why(self, task_id: TaskId, now: datetime | None = None) -> str:
        """The answer to "why is this task not done?", for people."""
        if (attempt := self.attempts.get(task_id)) is not None:
            return f"attempt {attempt} runs, or is due, or was cut off"
        return str(self.decide(task_id, now))

    def next(self, now: datetime) -> tuple[Task, Start | Skip] | None:
        """Hand out one task to start or to skip, each task once; None when nothing more can be said for now."""
        while self._ready or self._admit(now):
            task = self.graph[self._ready.popleft()]
            if task.section in self._sections.closed and self._unneeded(task) is None:
                if task.section not in self._parked:
                    self._sections.park(task.section)
                self._parked.setdefault(task.section, []).append(task.id)
                continue
            decision = self.decide(task.id, now)
            if isinstance(decision, Start):
                self._handed_out.add(task.id)
            if not isinstance(decision, Wait):  # Only draining makes a ready task wait, and then for good.
                return task, decision
        return None

    def outcome(self) -> Outcome:
        """How the run ends, if it ends now."""
        if len(self.settled) < len(self.graph):
            return Outcome.INTERRUPTED
        failed = [self.graph[t] for t, settled in self.settled.items() if settled.verdict is Verdict.FAILED]
        if not failed:
            refused = any(s.skip is not None and s.skip.is_refusal for s in self.settled.values())
            return Outcome.HALTED if refused else Outcome.CONVERGED
        ways_back = [task for task in self.graph.values() if isinstance(task.action, RollBack)]
        taken_back = {task.host for task in ways_back if self.settled[task.id].verdict.went_well} - self._sections.open
        return Outcome.ROLLED_BACK if all(task.host in taken_back for task in failed) else Outcome.HALTED

    def _settle(self, settled: event.TaskSettled) -> None:
        task = self.graph[settled.task]
        self.settled[task.id] = settled
        self.attempts.pop(task.id, None)
        self._handed_out.discard(task.id)
        host = task.section
        if settled.verdict is Verdict.FAILED and (culprit := task.host or host) is not None:
            self.failed.add(culprit)
        for dependent in self.graph.dependents(task.id):
            self._outstanding[dependent] -= 1
            if not self._outstanding[dependent]:
                self._ready.append(dependent)
        if host is None:
            return
        if settled.skip is not None and settled.skip.is_refusal:
            self._sections.closed.discard(host)
            self._refused.setdefault(host, Skip(settled.skip, settled.detail))
        self._unsettled[host] -= 1
        if not self._unsettled[host]:
            exits = [self.settled[t] for t in self.graph.sections[host].exits if t in self.settled]
            well = any(exit_.verdict.went_well for exit_ in exits)
            self._sections.settled(host, went_well=well, failed=host in self.failed)

    def _unneeded(self, task: Task) -> Skip | None:
        """Why a task whose dependencies settled is not run, as far as they can tell."""
        if task.on_failure_of and not any(self.settled[t].verdict is Verdict.FAILED for t in task.on_failure_of):
            return _NOT_NEEDED
        missing = [t for t in task.requires if not self.settled[t].verdict.went_well]
        if missing and all(self.settled[t].skip is SkipCause.NOT_NEEDED for t in missing):
            return _NOT_NEEDED
        if task.section in self._refused or not missing:
            return self._refused.get(task.section)
        first = min(missing, key=lambda t: (self.settled[t].verdict is not Verdict.FAILED, t))
        if self.settled[first].skip is SkipCause.DEPENDENCY:
            return Skip(SkipCause.DEPENDENCY, self.settled[first].detail)  # Names the root of the cascade.
        verb = "failed" if self.settled[first].verdict is Verdict.FAILED else "was skipped"
        return Skip(SkipCause.DEPENDENCY, f"needs {first}, which {verb}")

    def _stop(self, now: datetime | None) -> Skip | None:
        """Why no section at all may open any more."""
        rules = self.graph.rules
        if rules.max_failures is not None:
            if canaries := self.failed & rules.canaries:
                return Skip(SkipCause.HALTED, f"a canary failed: {name_some(canaries)}")
            if len(self.failed) > rules.max_failures:
                return Skip(SkipCause.HALTED, f"failed: {name_some(self.failed)}; max_failures is {rules.max_failures}")
        if now is not None and rules.windows and not any(window.contains(now) for window in rules.windows):
            return Skip(SkipCause.WINDOW, f"outside the maintenance windows ({'; '.join(map(str, rules.windows))})")
        return None

    def _admit(self, now: datetime) -> bool:
        """Open the waiting section whose turn it is, or refuse those that cannot open any more."""
        if self.draining or not self._parked:
            return False
        refusal = self._stop(now)
        if refusal is None and (host := self._sections.admit()) is not None:
            self._ready.extend(self._parked.pop(host))
            return True
        if refusal is None and self._handed_out:
            return False
        for host in self._sections.dismiss():
            if refusal is None:  # Nothing runs, so whoever holds the place keeps it.
                refusal = Skip(SkipCause.BUDGET, f"{self.why(self._parked[host][0])}, and nothing left can change that")
            self._refused[host] = refusal
            self._ready.extend(self._parked.pop(host))
        return True
