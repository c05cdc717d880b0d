"""What commands that only look print: rows for people, or the values themselves as JSON."""

from collections.abc import Iterable

from nixkube_deploy.app.check import Finding
from nixkube_deploy.app.dryrun import DryRun
from nixkube_deploy.app.everywhere import HostOutput
from nixkube_deploy.app.status import HostStatus
from nixkube_deploy.cli.console import TerminalConsole
from nixkube_deploy.journal.history import RunSummary, Stored
from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.event import Verdict
from nixkube_deploy.model.names import HostName
from nixkube_deploy.plan.wording import host_list
from nixkube_deploy.ui.reports import (
    FindingRow,
    OutputRow,
    RunRow,
    StatusRow,
    findings_text,
    output_text,
    runs_text,
    status_text,
)
from nixkube_deploy.ui.summary import summarise, summary_text


def show_status(console: TerminalConsole, statuses: Iterable[HostStatus]) -> None:
    """One row a host."""
    rows = tuple(statuses)
    if console.as_json:
        console.print_json(rows)
    else:
        console.data.show(status_text([_status_row(row) for row in rows], console.data.width))


def show_again(console: TerminalConsole, statuses: Iterable[HostStatus]) -> None:
    """The next picture of ``--watch``."""
    if not console.as_json:
        console.data.wipe()
    show_status(console, statuses)


def show_findings(console: TerminalConsole, findings: Iterable[Finding]) -> None:
    """What was checked, failures in full."""
    found = tuple(findings)
    if console.as_json:
        console.print_json(found)
        return
    console.data.show(findings_text(_finding_rows(found), console.data.width))


def show_output(console: TerminalConsole, output: HostOutput) -> None:
    """One host's output as soon as it is whole; nothing when the end will be JSON."""
    if console.as_json:
        return
    result = output.result
    row = OutputRow(
        host=output.host,
        exit_code=result.exit_code if result else None,
        output=result.stdout + result.stderr if result else "",
        failure=output.failure,
    )
    console.data.show(output_text(row, console.data.width))


def show_dry_runs(console: TerminalConsole, found: Iterable[DryRun]) -> None:
    """What a switch would do, host by host."""
    dry_runs = tuple(found)
    if console.as_json:
        console.print_json(dry_runs)
        return
    for each in dry_runs:
        if each.failure is not None:
            row = OutputRow(host=each.host, exit_code=None, output="", failure=each.failure)
            console.data.show(output_text(row, console.data.width))
    alike: dict[tuple[str, ...], list[HostName]] = {}
    for each in dry_runs:
        nothing = "unchanged" if each.change is ChangeClass.UNCHANGED else "nothing would be stopped or started"
        told = [line for line in each.lines if line.startswith("would ")] or list(each.lines) or [nothing]
        if each.failure is None:
            alike.setdefault(tuple(told), []).append(each.host)
    for lines, hosts in alike.items():
        rest = "".join(f"\n  {line}" for line in lines) if len(lines) > 1 else f" {lines[0]}"
        console.data.tell(f"{host_list(hosts)}:{rest}")


def show_runs(console: TerminalConsole, runs: Iterable[RunSummary]) -> None:
    """The runs this controller knows."""
    known = tuple(runs)
    if console.as_json:
        console.print_json(known)
    else:
        console.data.show(runs_text([_run_row(run) for run in known], console.data.width))


def show_run(console: TerminalConsole, stored: Stored) -> None:
    """One run, summed up."""
    summary = summarise(stored.plan, stored.records)
    if console.as_json:
        console.print_json(summary)
    else:
        console.data.show(summary_text(summary, console.data.width))


def _finding_rows(found: Iterable[Finding]) -> list[FindingRow]:
    """What is fine in the same way on several hosts is one row; what is not is a row each, and comes last."""
    alike: dict[tuple[str, str], list[HostName]] = {}
    gaps: list[FindingRow] = []
    wrong: list[FindingRow] = []
    for f in found:
        if f.unchecked is not None:
            gaps.append(FindingRow(subject=f.subject, check=f.check, unchecked=f.unchecked))
        elif f.failure is None:
            alike.setdefault((f.check, f.detail), []).append(HostName(f.subject))
        else:
            wrong.append(FindingRow(subject=f.subject, check=f.check, detail=f.detail, failure=f.failure))
    fine = [
        FindingRow(subject=host_list(subjects), check=check, detail=detail, count=len(subjects))
        for (check, detail), subjects in alike.items()
    ]
    return fine + gaps + wrong


def _status_row(status: HostStatus) -> StatusRow:
    notes = ["on trial: a reboot goes back"] if status.on_trial else []
    notes += [] if status.etcd_ok else [f"etcd: {status.etcd}"]
    notes += [f"failed: {', '.join(status.failed_units)}"] if status.failed_units else []
    return StatusRow(
        host=status.host,
        reachable=status.reachable,
        generation=status.generation,
        drift=status.drifted if status.wanted is not None and status.reachable else None,
        kernel=status.kernel,
        reboot_pending=status.reboot_pending,
        kubelet=status.kubelet_version,
        ready=status.ready,
        cordoned=(status.cordoned_by or "yes") if status.cordoned else "",
        disk=status.store_free,
        note=status.problem.message if status.problem else "; ".join(notes),
    )


def _run_row(run: RunSummary) -> RunRow:
    seconds = run.finished - run.started if run.finished is not None and run.started is not None else None
    return RunRow(
        run=run.run,
        inventory=run.inventory,
        started=run.started,
        seconds=seconds,
        outcome=run.outcome,
        hosts=run.hosts,
        failed=run.counts.get(Verdict.FAILED, 0),
        note=run.unreadable,
    )
