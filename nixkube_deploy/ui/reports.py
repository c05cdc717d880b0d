"""Tables for commands that only look: ``status``, ``runs``, ``check``, ``exec``.

Rows are plain values that the caller fills. It deliberately gathers nothing and knows no other room's types.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from nixkube_deploy.model.event import Outcome
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.ui.columns import Column, columns_text
from nixkube_deploy.ui.durations import day_and_time, duration
from nixkube_deploy.ui.failure import failure_text
from nixkube_deploy.ui.sanitize import clean, clean_lines

_GIB = 2**30
_LOW_DISK = 2 * _GIB
_UNBOUNDED = 10_000
_ROOMY_RUNS = 100
"""Columns from which on there is room for when each run began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow:
    """What ``status`` says of one host. None and empty mean: not known, or not asked."""

    host: str
    reachable: bool
    generation: int | None = None
    drift: bool | None = None
    """Whether it runs something else than its flake says."""
    kernel: str = ""
    reboot_pending: bool = False
    kubelet: str = ""
    ready: bool | None = None
    """None: no Node."""
    cordoned: str = ""
    """By whom, or ``yes``."""
    disk: int | None = None
    """Free bytes in the store."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run in the list of runs."""

    run: str
    inventory: str = ""
    started: float | None = None
    seconds: float | None = None
    outcome: Outcome | None = None
    """None: unfinished."""
    hosts: int = 0
    failed: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingRow:
    """One thing that was checked; ``failure`` and ``unchecked`` are None when it is fine."""

    subject: str
    """A host, or several that are alike."""
    check: str
    count: int = 1
    """How many it stands for."""
    detail: str = ""
    failure: Failure | None = None
    unchecked: Failure | None = None
    """Why it could not be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRow:
    """What a command printed on one host, or why there is nothing."""

    host: str
    exit_code: int | None = None
    output: str = ""
    failure: Failure | None = None


def status_text(rows: Sequence[StatusRow], width: int) -> Text:
    """One row a host, and a line of totals."""
    columns = [
        Column("HOST"),
        Column("SSH"),
        Column("GEN", right=True),
        Column("CONFIG"),
        Column("KERNEL"),
        Column("REBOOT"),
        Column("KUBELET"),
        Column("NODE"),
        Column("CORDONED", gives=True),
        Column("FREE", right=True),
        Column("NOTE", gives=True),
    ]
    cells = [_status_cells(row) for row in rows]
    totals = Text(_status_totals(rows))
    table = columns_text(columns, cells, _UNBOUNDED)
    if all(cell_len(line) <= width for line in table.plain.splitlines()):
        return Text("\n\n").join([table, totals])
    # Notes that do not fit beside the hosts go below them, since they are what a person looks for.
    table = columns_text(columns[:-1], [row[:-1] for row in cells], width)
    notes = Text("\n").join(
        Text.assemble((clean(row.host), "bold"), f": {clean(row.note)}") for row in rows if row.note
    )
    return Text("\n\n").join(part for part in (table, notes, totals) if part)


def runs_text(rows: Sequence[RunRow], width: int) -> Text:
    """The runs this controller knows."""
    if not rows:
        return Text("No runs yet.")
    columns = [
        Column("RUN"),
        Column("STARTED (UTC)"),
        Column("TOOK", right=True),
        Column("HOSTS", right=True),
        Column("FAILED", right=True),
        Column("OUTCOME"),
        Column("INVENTORY", gives=True, tail=True),
        Column("NOTE", gives=True),
    ]
    cells = [_run_cells(row) for row in rows]
    if width < _ROOMY_RUNS:  # An id has its start in it, and is what is typed: it is never cut.
        columns, cells = [columns[0], *columns[2:]], [[row[0], *row[2:]] for row in cells]
    return columns_text(columns, cells, width)


def findings_text(rows: Sequence[FindingRow], width: int) -> Text:
    """What was checked, then everything that is wrong or could not be looked at in full, then the count."""
    columns = [Column("SUBJECT", gives=True), Column("CHECK"), Column("RESULT"), Column("DETAIL", gives=True)]
    cells: list[list[Text | str]] = [
        [
            clean(row.subject),
            clean(row.check),
            _finding_result(row),
            clean(told.message if (told := row.failure or row.unchecked) else row.detail),
        ]
        for row in rows
    ]
    wrong = [row for row in rows if row.failure is not None]
    parts = [columns_text(columns, cells, width)]
    parts += [failure_text(f"{row.subject}: {row.check}", row.failure, width) for row in wrong if row.failure]
    unchecked = [row for row in rows if row.unchecked is not None]
    parts += [_unchecked_text(unchecked)] if unchecked else []
    total, gaps = sum(row.count for row in rows), sum(row.count for row in unchecked)
    rest = f"; {gaps} could not be made from here" if gaps else ""
    parts.append(Text(f"{total - len(wrong) - gaps} of {total} checks passed{rest}."))
    return Text("\n\n").join(parts)


def _finding_result(row: FindingRow) -> Text:
    if row.failure is not None:
        return Text("FAILED", style="bold red")
    return Text("ok", style="green") if row.unchecked is None else Text("not checked", style="yellow")


def _unchecked_text(rows: Sequence[FindingRow]) -> Text:
    text = Text.assemble(("Not checked:", "yellow"))
    for row in rows:
        if row.unchecked is not None:
            text.append(f"\n  {clean(row.subject)}, {clean(row.check)}: {clean(row.unchecked.message)}")
            text.append(f"\n    {clean(row.unchecked.next)}" if row.unchecked.next else "")
    return text


def output_text(row: OutputRow, width: int) -> Text:
    """One host's output under its name, each line marked so that no host can pose as another."""
    if row.failure is not None:
        return failure_text(row.host, row.failure, width)
    fine = row.exit_code == 0
    text = Text.assemble((f"{clean(row.host)}: exit code {row.exit_code}", "green" if fine else "bold red"))
    for line in clean_lines(row.output.splitlines()):
        text.append(f"\n  | {line}")
    return text


def _status_cells(row: StatusRow) -> list[Text | str]:
    if not row.reachable:
        down = Text("down", style="bold red")
        return [clean(row.host), down, "", "", "", "", "", "", "", "", Text(clean(row.note), style="red")]
    return [
        clean(row.host),
        Text("up", style="green"),
        "" if row.generation is None else str(row.generation),
        "" if row.drift is None else Text("drifted", style="yellow") if row.drift else Text("current", style="green"),
        clean(row.kernel),
        Text("pending", style="yellow") if row.reboot_pending else "",
        clean(row.kubelet),
        "" if row.ready is None else Text("Ready", style="green") if row.ready else Text("NotReady", style="bold red"),
        Text(clean(row.cordoned), style="yellow"),
        _free(row.disk),
        clean(row.note),
    ]


def _free(disk: int | None) -> Text | str:
    if disk is None:
        return ""
    return Text(f"{disk / _GIB:.1f}G", style="bold red" if disk < _LOW_DISK else "")


def _status_totals(rows: Sequence[StatusRow]) -> str:
    counts = {
        "down": sum(not row.reachable for row in rows),
        "drifted": sum(row.drift is True for row in rows),
        "with a reboot pending": sum(row.reboot_pending for row in rows),
        "not Ready": sum(row.ready is False for row in rows),
        "cordoned": sum(bool(row.cordoned) for row in rows),
    }
    wrong = ", ".join(f"{number} {words}" for words, number in counts.items() if number)
    return f"{len(rows)} hosts: {wrong or 'all well'}."


def _run_cells(row: RunRow) -> list[Text | str]:
    outcome = row.outcome.value if row.outcome else "unreadable" if row.note else "unfinished"
    return [
        row.run,
        "" if row.started is None else day_and_time(row.started),
        "" if row.seconds is None else duration(row.seconds),
        str(row.hosts or ""),
        str(row.failed) if row.failed else "",
        Text(outcome, style="green" if row.outcome is Outcome.CONVERGED else "yellow"),
        clean(row.inventory),
        Text(clean(row.note), style="red"),
    ]
