"""A run's journal: an append-only file in which an event is on disk before anybody acts on it.

It keeps what it is given and decides nothing; what events mean is the engine's business.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nixkube_deploy.journal.layout import (
    header_line,
    journal_path,
    read_header,
    read_records,
    record_line,
    sound_lines,
)
from nixkube_deploy.journal.lock import closing, explained, held, lock_inventory, private_directory
from nixkube_deploy.model.error import DeployError, Refused
from nixkube_deploy.model.event import Event, Record, TaskSettled, Verdict
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ports.clock import Clock

__all__ = ["JournalFile", "lock_inventory", "open_journal"]

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


class JournalFile:
    """A ``Ledger`` on disk. Each append is one write and one fsync; after one that failed there is no other.

    A skip alone is not waited for: nobody acts on it, and a fold that lost it in a power cut draws the same conclusion
    again. So halting ten thousand hosts does not stop the event loop for eighty thousand fsyncs.
    """

    def __init__(self, descriptor: int, path: Path, past: tuple[Record, ...], clock: Clock) -> None:
        self.path = path
        self._descriptor, self._past, self._clock = descriptor, past, clock
        self._count = len(past)
        self._broken: DeployError | None = None

    @property
    def past(self) -> tuple[Record, ...]:
        """What was on disk when the journal was opened."""
        return self._past

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written."""
        return self._count == 0

    def records(self) -> tuple[Record, ...]:
        """Everything that is on disk now, read back."""
        return read_records(self.path, sound_lines(self.path.read_bytes()))

    def append(self, event: Event) -> Record:
        """Make one event durable before returning.

        Raises:
            DeployError: it could not be; what is half written is taken back, and no later append is tried.
        """
        if self._broken is not None:
            raise self._broken
        record = Record(seq=self._count, at=self._clock.now().timestamp(), event=event)
        size = os.fstat(self._descriptor).st_size
        try:
            with explained(self.path):
                _write(self._descriptor, record_line(record))
                if not _is_skip(event):
                    os.fsync(self._descriptor)
        except DeployError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, size)
            self._broken = error
            raise
        self._count += 1
        return record


@contextmanager
def open_journal(state: Path, run: RunId, plan: Plan, clock: Clock) -> Iterator[JournalFile]:
    """The journal of ``run``, locked for the length of the block: a new one, or the one on disk, to be continued.

    A new one in which nothing was written is taken away again: there was no such run.

    Raises:
        Locked: another controller has it open; the message names it.
        Refused: what is on disk belongs to another plan.
        DeployError: it cannot be written, is damaged, or is of another version.
    """
    path = journal_path(state, run)
    private_directory(path.parent)
    with explained(path):
        is_new = not path.exists()
        descriptor = _create(path, header_line(run, plan)) if is_new else os.open(path, _FLAGS)
    with closing(descriptor), held(descriptor, path, f"run {run}", clock):
        journal = JournalFile(descriptor, path, () if is_new else _take_up(descriptor, path, plan), clock)
        try:
            yield journal
        finally:
            if is_new and journal.is_empty:
                path.unlink(missing_ok=True)


def _create(path: Path, header: bytes) -> int:
    """A new journal under its name: with its whole header, or not at all."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, _FLAGS | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write(descriptor, header)
        os.fsync(descriptor)
        draft.replace(path)
        _sync_directory(path.parent)
        _sync_directory(path.parent.parent)
    except OSError:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
        raise
    return descriptor


def _take_up(descriptor: int, path: Path, plan: Plan) -> tuple[Record, ...]:
    """What is on disk, after a torn tail was cut off."""
    with explained(path):
        lines = sound_lines(path.read_bytes())
        header, past = read_header(path, lines), read_records(path, lines)
        if header.plain_plan.get("fingerprint") != plan.graph.fingerprint:
            raise Refused(f"run {header.run} is executing another plan than this one", hint="deploy apply")
        os.ftruncate(descriptor, sum(len(line) + 1 for line in lines))
        os.fsync(descriptor)
    return past


def _is_skip(event: Event) -> bool:
    return isinstance(event, TaskSettled) and event.verdict is Verdict.SKIPPED


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:  # A short write is a disk about to be full: the next one says so.
        left = left[os.write(descriptor, left) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with closing(descriptor):
        os.fsync(descriptor)
