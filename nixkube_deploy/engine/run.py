"""One execution of a graph: workers that commit every event to the ledger before they act on it.

What may start is decided in ``progress``, and what a task does in ``perform``; there is deliberately no policy in here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import anyio

from nixkube_deploy.engine.limits import Limits
from nixkube_deploy.engine.progress import Progress
from nixkube_deploy.model import event
from nixkube_deploy.model.decision import Skip, Start
from nixkube_deploy.model.error import failure_of
from nixkube_deploy.model.event import Outcome, Verdict
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import RunId, TaskId
from nixkube_deploy.model.task import Pool, Task, TaskGraph
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.ledger import Ledger
from nixkube_deploy.ports.perform import Attempt, Done, Perform
from nixkube_deploy.ports.sink import Sink

__all__ = ["Attempt", "Done", "Perform", "Run", "RunWorld"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWorld:
    """What a run needs besides its graph."""

    clock: Clock
    random: Random
    limits: Limits
    sinks: tuple[Sink, ...]
    run: RunId


class Run:
    """Runs the graph once, from wherever the ledger's past left it."""

    def __init__(self, graph: TaskGraph, perform: Perform, ledger: Ledger, world: RunWorld) -> None:
        self.progress = Progress(graph, (record.event for record in ledger.past))
        self._graph, self._perform, self._ledger, self._world = graph, perform, ledger, world
        self._queues: dict[str, list[Task]] = {}
        self._is_running, self._drain_reason = False, ""
        self._bug: Exception | None = None

    async def __call__(self) -> Outcome:
        """Run to the end. A bug is re-raised here, after everything that had begun came to its end."""
        self._pools = {pool: anyio.CapacityLimiter(self._world.limits.of(pool)) for pool in Pool}
        self._drained = anyio.Event()
        resumed, outcome = bool(self._ledger.past), Outcome.BROKEN
        self._commit(event.RunStarted(run=self._world.run, fingerprint=self._graph.fingerprint, resumed=resumed))
        try:
            async with anyio.create_task_group() as self._workers:
                self._is_running = True
                self.drain(self._drain_reason)
                self._advance()
            outcome = self.progress.outcome() if self._bug is None else Outcome.BROKEN
        except anyio.get_cancelled_exc_class():
            outcome = Outcome.INTERRUPTED
            raise
        finally:
            self._is_running = False
            self._commit(event.RunFinished(outcome=outcome))
        if self._bug is not None:
            raise self._bug
        return outcome

    def drain(self, reason: str) -> None:
        """Open no section and start no unsectioned task any more; open sections are finished, rollbacks included."""
        self._drain_reason = self._drain_reason or reason
        if self._is_running and self._drain_reason and not self.progress.draining:
            self._commit(event.RunDraining(reason=self._drain_reason))
            self._drained.set()

    def cancel(self) -> None:
        """Stop now: what runs is recorded as interrupted, to be verified when the run is resumed."""
        self.drain("cancelled")
        if self._is_running:
            self._workers.cancel_scope.cancel()

    def _advance(self) -> None:
        """Commit every skip and start every task that can be decided now. A loop, not recursion: chains are long."""
        if self._bug is not None:
            self.drain(f"a bug: {self._bug!r}")
        now = self._world.clock.now()
        while (step := self.progress.next(now)) is not None:
            task, decision = step
            if isinstance(decision, Skip):
                self._commit(_skipped(task, decision))
            elif (host := task.host or task.id) in self._queues:
                self._queues[host].append(task)
            else:
                self._queues[host] = [task]
                self._workers.start_soon(self._walk, host)

    async def _walk(self, host: str) -> None:
        """Work through one host's tasks. One worker a host is the host lock; it comes before every pool token."""
        queue = self._queues[host]
        while queue:
            await self._work(queue.pop(0))
        del self._queues[host]

    async def _work(self, task: Task) -> None:
        """Attempt until there is a verdict, holding no pool token between attempts."""
        number, resumed = self.progress.attempts.get(task.id, 1), task.id in self.progress.attempts
        report = partial(self._report, task.id)
        while True:
            async with self._pools[task.pool]:
                ending = await self._attempt(task, Attempt(number=number, resumed=resumed, report=report))
                if ending is not None:
                    self._commit(ending)
            if not isinstance(ending, event.TaskRetrying):
                break
            with anyio.move_on_after(ending.delay):  # A drain ends the wait of a task that may not start again anyway.
                await (self._drained.wait() if task.section is None else anyio.sleep_forever())
            number += 1
        self._advance()

    async def _attempt(self, task: Task, attempt: Attempt) -> event.TaskSettled | event.TaskRetrying | None:
        """One attempt, and how it ended; None when the run began to drain while the task waited for its token."""
        decision = self.progress.decide(task.id, self._world.clock.now())
        if not isinstance(decision, Start):
            return _skipped(task, decision) if isinstance(decision, Skip) else None
        self._commit(event.TaskStarted(task=task.id, attempt=attempt.number))
        error: Exception = TimeoutError(f"did not finish within {task.timeout:g} s")
        try:
            with anyio.move_on_after(task.timeout):
                done = await self._perform(task, attempt)
                verdict = Verdict.SUCCEEDED if done.changed else Verdict.UNCHANGED
                return event.TaskSettled(task=task.id, verdict=verdict, detail=done.detail)
        except anyio.get_cancelled_exc_class():
            self._commit(event.TaskInterrupted(task=task.id))  # Synchronous, so it cannot be cancelled itself.
            raise
        except Exception as raised:  # noqa: BLE001 (here an exception becomes a Failure, exactly once)
            error = raised
        return self._failed(task, attempt, error)

    def _failed(self, task: Task, attempt: Attempt, error: Exception) -> event.TaskSettled | event.TaskRetrying:
        failure = failure_of(error)
        if failure.kind is FailureKind.BUG:
            self._bug = self._bug or error
        if not failure.transient or attempt.number >= task.retry.attempts:
            return event.TaskSettled(task=task.id, verdict=Verdict.FAILED, failure=failure)
        delay = task.retry.delay(attempt.number, self._world.random.random())
        return event.TaskRetrying(task=task.id, attempt=attempt.number, failure=failure, delay=delay)

    def _commit(self, happened: event.Event) -> None:
        """Durable first, then folded, then shown; all of it before anybody acts on it."""
        record = self._ledger.append(happened)
        self.progress.apply(happened)
        self._tell(lambda sink: sink.saw(record))

    def _report(self, task: TaskId, line: str) -> None:
        self._tell(lambda sink: sink.heard(event.TaskReported(task=task, line=line)))

    def _tell(self, say: Callable[[Sink], None]) -> None:
        for sink in self._world.sinks:
            try:
                say(sink)
            except Exception as bug:  # noqa: BLE001 (a broken display drains the run; it does not drop hosts half-way)
                self._bug = self._bug or bug


def _skipped(task: Task, skip: Skip) -> event.TaskSettled:
    return event.TaskSettled(task=task.id, verdict=Verdict.SKIPPED, detail=skip.text, skip=skip.cause)
