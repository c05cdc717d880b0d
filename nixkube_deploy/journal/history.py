"""Runs on disk: listed, read, summed up. Reading takes no lock and changes nothing, so a live run may be looked at."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nixkube_deploy.journal.layout import Header, journal_path, read_header, read_records, sound_lines
from nixkube_deploy.journal.lock import explained
from nixkube_deploy.model.codec import CodecError
from nixkube_deploy.model.error import DeployError, UsageError
from nixkube_deploy.model.event import Outcome, Record, RunFinished, RunStarted, SkipCause, TaskSettled, Verdict
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName, RunId, TaskId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.model.task import TaskGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One run as it is on disk."""

    run: RunId
    inventory: str
    digest: str
    plan: Plan
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run's line in the list of runs. Times are seconds since the epoch."""

    run: RunId
    inventory: str = ""
    started: float | None = None
    finished: float | None = None
    """None while it runs, and after it was cut off."""
    outcome: Outcome | None = None
    tasks: int = 0
    hosts: int = 0
    """How many hosts the plan changes."""
    counts: Mapping[Verdict, int] = field(default_factory=dict)
    """How many tasks settled how."""
    unreadable: str = ""
    """Why nothing is known of it; empty: it could be read."""

    @property
    def unsettled(self) -> int:
        """How many tasks are left."""
        return self.tasks - sum(self.counts.values())

    @property
    def is_unfinished(self) -> bool:
        """Whether there is something to resume."""
        if self.unreadable:
            return False
        ended_early = self.outcome in {Outcome.INTERRUPTED, Outcome.BROKEN} and self.unsettled > 0
        return self.outcome is None or ended_early


@dataclass(frozen=True, slots=True, kw_only=True)
class HostResult:
    """What a run made of one host."""

    host: HostName
    verdict: Verdict | None
    """None: not everything was done yet."""
    failures: tuple[tuple[TaskId, Failure], ...] = ()
    skipped: str = ""
    """Why something was left out; empty: nothing was."""


def runs(state: Path) -> tuple[RunSummary, ...]:
    """Every run on disk, newest first. A damaged journal is listed as unreadable; it hides no other."""
    return tuple(_newest_first(state))


def run_ids(state: Path) -> list[str]:
    """The id of every run on disk, newest first; no journal is opened."""
    return sorted((path.stem for path in (state / "runs").glob("*.jsonl")), reverse=True)


def unfinished(state: Path, inventory: str) -> RunSummary | None:
    """The inventory's latest run, when it was cut off. An earlier one is no longer worth finishing, nor reading."""
    latest = next((summary for summary in _newest_first(state) if summary.inventory == inventory), None)
    return latest if latest is not None and latest.is_unfinished else None


def is_over(state: Path, run: str) -> bool:
    """Whether this names a run of this controller that has ended. A name that is none here is not over."""
    try:
        path = journal_path(state, RunId(run))
    except UsageError:
        return False
    return path.is_file() and _summary(path).finished is not None


def _newest_first(state: Path) -> Iterator[RunSummary]:
    return (_summary(path) for path in sorted((state / "runs").glob("*.jsonl"), reverse=True))


def read(state: Path, run: RunId) -> Stored:
    """One run, whole.

    Raises:
        UsageError: there is no such run.
        DeployError: its journal is damaged or of another version.
    """
    path = journal_path(state, run)
    if not path.is_file():
        raise UsageError(f"there is no run {run} in {path.parent}", hint="deploy runs")
    header, records = _load(path)
    try:
        plan = header.plan
    except CodecError as error:
        raise DeployError(f"{path}:1: the plan is damaged: {error}", hint=f"move {path} away") from error
    return Stored(run=header.run, inventory=header.inventory, digest=header.digest, plan=plan, records=records)


def results(graph: TaskGraph, records: Iterable[Record]) -> Mapping[HostName, HostResult]:
    """What became of every host of the graph, in the graph's order."""
    settled = {r.event.task: r.event for r in records if isinstance(r.event, TaskSettled)}
    by_host: dict[HostName, list[TaskId]] = {}
    for task_id, task in graph.items():
        if task.host is not None:
            by_host.setdefault(task.host, []).append(task_id)
    return {host: _result(host, [settled.get(task_id) for task_id in ids]) for host, ids in by_host.items()}


def _result(host: HostName, events: list[TaskSettled | None]) -> HostResult:
    """Failure outweighs work left to do, that outweighs what was left out, that outweighs success."""
    known = [event for event in events if event is not None]
    verdicts = {event.verdict for event in known if event.skip is not SkipCause.NOT_NEEDED}
    ranked = (Verdict.FAILED, None, Verdict.SKIPPED, Verdict.SUCCEEDED, Verdict.UNCHANGED)
    present = verdicts | ({None} if len(known) < len(events) else set())
    skips = (event.detail for event in known if event.skip not in {None, SkipCause.NOT_NEEDED})
    return HostResult(
        host=host,
        verdict=next((verdict for verdict in ranked if verdict in present), Verdict.UNCHANGED),
        failures=tuple((event.task, event.failure) for event in known if event.failure is not None),
        skipped=next(skips, ""),
    )


def _load(path: Path) -> tuple[Header, tuple[Record, ...]]:
    with explained(path):
        lines = sound_lines(path.read_bytes())
    return read_header(path, lines), read_records(path, lines)


def _summary(path: Path) -> RunSummary:
    try:
        header, records = _load(path)
        hosts = header.task_hosts
    except (DeployError, CodecError) as error:
        return RunSummary(run=RunId(path.stem), unreadable=str(error))
    begun = [record.at for record in records if isinstance(record.event, RunStarted)]
    last = next((r for r in reversed(records) if isinstance(r.event, RunStarted | RunFinished)), None)
    ended = last.event if last is not None and isinstance(last.event, RunFinished) else None
    return RunSummary(
        run=header.run,
        inventory=header.inventory,
        started=begun[0] if begun else None,
        finished=last.at if last is not None and ended is not None else None,
        outcome=ended.outcome if ended is not None else None,
        tasks=len(hosts),
        hosts=len(set(hosts) - {None}),
        counts=Counter(record.event.verdict for record in records if isinstance(record.event, TaskSettled)),
    )
