"""Events as structured log lines, with run, host and task ids: what a log collector wants of a rollout.

It deliberately logs what the journal records and nothing else, so that the two never tell different stories.
"""

from typing import Any, assert_never

import structlog

from nixkube_deploy.model.event import (
    Record,
    RunDraining,
    RunFinished,
    RunStarted,
    TaskInterrupted,
    TaskReported,
    TaskRetrying,
    TaskSettled,
    TaskStarted,
)
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import RunId, TaskId
from nixkube_deploy.model.rollout import Plan


class EventLog:
    """A sink that logs; where to is ``logs.logging_to``'s business."""

    def __init__(self, plan: Plan, run: RunId) -> None:
        self._graph = plan.graph
        self._log = structlog.get_logger("nixkube_deploy.run").bind(run=run)

    def saw(self, record: Record) -> None:
        """One line an event; failures are warnings, a failed run is an error."""
        match record.event:
            case RunStarted(resumed=resumed):
                self._log.info("run started", resumed=resumed)
            case TaskStarted(task=task, attempt=attempt):
                self._log.info("task started", attempt=attempt, **self._ids(task))
            case TaskRetrying(task=task, attempt=attempt, failure=failure, delay=delay):
                self._log.warning("task retrying", attempt=attempt, delay=delay, **self._ids(task), **_failure(failure))
            case TaskSettled(task=task, verdict=verdict, detail=detail, failure=None):
                self._log.info("task settled", verdict=verdict.value, detail=detail, **self._ids(task))
            case TaskSettled(task=task, verdict=verdict, failure=Failure() as failure):
                self._log.warning("task settled", verdict=verdict.value, **self._ids(task), **_failure(failure))
            case TaskSettled():
                raise AssertionError("a settled task has a failure or none")
            case TaskInterrupted(task=task):
                self._log.warning("task interrupted", **self._ids(task))
            case RunDraining(reason=reason):
                self._log.warning("run draining", reason=reason)
            case RunFinished(outcome=outcome):
                self._log.info("run finished", outcome=outcome.value)
            case _:
                assert_never(record.event)

    def heard(self, report: TaskReported) -> None:
        """Progress within a task, at debug level."""
        self._log.debug("task reported", line=report.line, **self._ids(report.task))

    def _ids(self, task: TaskId) -> dict[str, Any]:
        return {"task": task, "host": self._graph[task].host}


def _failure(failure: Failure) -> dict[str, Any]:
    return {"kind": failure.kind.value, "message": failure.message, "expected": failure.expected, "seen": failure.seen}
