"""A run as plain lines, for CI logs and files: one for each settled step worth telling, and a heartbeat in between.

Nothing is ever redrawn, and every line stands for itself. It deliberately shows no progress of a step but its end;
the heartbeat says what is still going on and for how long.
"""

from typing import TextIO

import anyio

from nixkube_deploy.model.event import (
    Record,
    RunDraining,
    RunFinished,
    RunStarted,
    SkipCause,
    TaskInterrupted,
    TaskReported,
    TaskRetrying,
    TaskSettled,
    TaskStarted,
    Verdict,
)
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ui.durations import duration, elapsed
from nixkube_deploy.ui.failure import render_failure
from nixkube_deploy.ui.rows import TaskView
from nixkube_deploy.ui.sanitize import clean
from nixkube_deploy.ui.view import RunView

HEARTBEAT = 30.0
"""Seconds."""

_NAMED = 8
"""Running steps a heartbeat names; more are counted."""


class PlainLines:
    """A sink that writes lines to a stream. A stream that fails is left alone from then on."""

    def __init__(self, plan: Plan, clock: Clock, stream: TextIO, width: int = 100) -> None:
        self._view = RunView(plan)
        self._clock = clock
        self._stream: TextIO | None = stream
        self._width = width
        self._begin = clock.monotonic()
        self._told: set[HostName] = set()
        """Hosts whose being skipped was told."""

    def replay(self, record: Record) -> None:
        """Fold a record of an earlier controller without telling it again."""
        self._view.apply(record)

    def saw(self, record: Record) -> None:
        """Fold, then tell."""
        self._view.apply(record)
        match record.event:
            case RunStarted(run=run, resumed=resumed):
                self._say(f"run {run} {'resumed' if resumed else 'started'}")
            case TaskStarted() | TaskInterrupted():
                pass
            case TaskRetrying(task=task, attempt=attempt, failure=failure, delay=delay):
                again = f"attempt {attempt} failed, again in {duration(delay)}: {clean(failure.message)}"
                self._say(f"{task}  {again}")
            case TaskSettled():
                self._settled(record.event)
            case RunDraining(reason=reason):
                self._say(f"no new host is started: {clean(reason)}")
            case RunFinished(outcome=outcome):
                self._say(f"run {outcome.value}: {self._counts()}")

    def heard(self, report: TaskReported) -> None:
        """Keep the line for the heartbeat."""
        self._view.hear(report)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await anyio.sleep(HEARTBEAT)
            self.beat()

    def beat(self) -> None:
        """Say what is running and for how long; silent when nothing is."""
        now = self._clock.now().timestamp()
        active = self._view.active
        if not active or self._view.finished is not None:
            return
        named = [_naming(task, now) for task in active[:_NAMED]]
        more = f", and {len(active) - _NAMED} more" if len(active) > _NAMED else ""
        self._say(f"still running: {', '.join(named)}{more}; {self._counts()}")

    def _settled(self, event: TaskSettled) -> None:
        task = self._view.task(event.task)
        if not task.matters:
            return
        if event.verdict is Verdict.SKIPPED:
            self._skipped(task, event)
            return
        seconds = "" if task.seconds is None else f" in {duration(task.seconds)}"
        attempts = f" (attempt {task.attempt})" if task.attempt > 1 else ""
        if event.verdict is Verdict.FAILED and event.failure is not None:
            when = f"{seconds and f'(after{seconds[3:]})'}{attempts}".strip()
            self._say(render_failure(event.task, event.failure, self._width, when))
            return
        detail = f": {task.detail}" if task.detail else ""
        self._say(f"{event.task}  {event.verdict.value}{seconds}{attempts}{detail}")

    def _skipped(self, task: TaskView, event: TaskSettled) -> None:
        """Once a host: that a chain broke is one piece of news, not one a step."""
        host = task.task.host
        if event.skip is SkipCause.DEPENDENCY or host is None or host in self._told:
            return
        self._told.add(host)
        self._say(f"{host}  skipped: {task.detail or event.skip or 'not run'}")

    def _counts(self) -> str:
        counts = self._view.counts
        return ", ".join(f"{number} {state.value}" for state, number in counts.items()) or "no hosts"

    def _say(self, line: str) -> None:
        self._write(f"[{elapsed(self._clock.monotonic() - self._begin)}] {line}")

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        except (OSError, ValueError):
            # The reader is gone or the disk is full; a rollout must not fail for that.
            self._stream = None


def _naming(task: TaskView, now: float) -> str:
    age = duration(now - (task.started if task.started is not None else now))
    return f"{task.task.id} {age}{f' ({task.line})' if task.line else ''}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())
