"""The event stream for programs (``--events FILE|-``): one JSON object a line, versioned.

Every journalled event is there, in order, and the lines of progress between them. It deliberately has no shape of its
own: fields are the model's, and ``eventdocs`` writes the documentation from the same types.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from nixkube_deploy.model.codec import to_plain
from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.event import Event, Record, RunStarted, TaskReported
from nixkube_deploy.model.names import RunId, TaskId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ui.durations import iso
from nixkube_deploy.ui.sanitize import clean

EVENTS_VERSION = 1
"""Grows when a field changes its meaning or goes away; new fields and new types may come at any time."""


class EventStream:
    """A sink that writes JSON lines. A stream that fails is left alone from then on."""

    def __init__(self, plan: Plan, clock: Clock, stream: TextIO) -> None:
        self._hosts = {task.id: task.host for task in plan.graph.values()}
        self._clock = clock
        self._stream: TextIO | None = stream
        self._run: RunId | None = None

    def saw(self, record: Record) -> None:
        """One journalled event."""
        if isinstance(record.event, RunStarted):
            self._run = record.event.run
        self._write(record.seq, record.at, record.event)

    def heard(self, report: TaskReported) -> None:
        """One line of progress; it has no sequence number, since it is not journalled."""
        self._write(None, self._clock.now().timestamp(), report)

    def _write(self, seq: int | None, at: float, event: Event | TaskReported) -> None:
        if self._stream is None:
            return
        head: dict[str, Any] = {
            "version": EVENTS_VERSION,
            "seq": seq,
            "at": iso(at),
            "type": event_type(type(event)),
            "run": self._run,
        }
        fields = to_plain(event)
        fields.pop("type")
        if isinstance(event, TaskReported):
            fields["line"] = clean(event.line)
        if (task := fields.pop("task", None)) is not None:
            head |= {"task": task, "host": self._hosts.get(task), "step": step_of(TaskId(task))}
        try:
            self._stream.write(json.dumps(head | fields, separators=(",", ":")) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # The reader is gone or the disk is full; a rollout must not fail for that.
            self._stream = None


def event_type(kind: type) -> str:
    """``TaskSettled`` is ``task-settled``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


def step_of(task: TaskId) -> str:
    """The part of a task's id after its host."""
    return task.partition("/")[2] or task


@contextmanager
def open_events(target: str) -> Iterator[TextIO]:
    """Standard output for ``-``; else a file that only its owner may read, appended to.

    Raises:
        UsageError: the file cannot be opened.
    """
    if target == "-":
        yield sys.stdout
        return
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise UsageError(
            f"--events {target}: {error.strerror}", hint="name a file in a directory that exists, or - for stdout"
        ) from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        yield stream
