"""The end of a run: what every host did, totals, and one sentence; the same for ``show RUN`` long after.

``summarise`` makes a value (its JSON is the codec's), ``summary_text`` the picture. It deliberately reads no journal.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from rich.text import Text

from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.event import Outcome, Record, Verdict
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName, RunId, TaskId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ui.aftermath import aftermath
from nixkube_deploy.ui.columns import Column, columns_text
from nixkube_deploy.ui.durations import duration
from nixkube_deploy.ui.failure import failure_text
from nixkube_deploy.ui.rows import HostState, HostView, TaskView
from nixkube_deploy.ui.sanitize import clean
from nixkube_deploy.ui.styles import STYLES
from nixkube_deploy.ui.view import RunView

_ROUTINE = frozenset(
    {
        "blockers",
        "copy",
        "cordon",
        "etcd",
        "prove",
        "promote",
        "confirm",
        "uncordon",
        "undrain",
        "untouched",
        "rollback-uncordon",
    }
)
"""Steps that say nothing about a host unless they fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary:
    """One step of one host."""

    step: str
    verdict: Verdict
    seconds: float | None = None
    attempts: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSummary:
    """What a run made of one host."""

    host: HostName
    state: HostState
    change: ChangeClass | None = None
    wave: int | None = None
    seconds: float | None = None
    """How long the host itself was worked on, from the first step of its section to the last."""
    steps: tuple[StepSummary, ...] = ()
    reason: str = ""
    """Why nothing was done, when nothing was."""
    failed: TaskId | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """A whole run, summed up."""

    run: RunId | None
    inventory: str
    outcome: Outcome | None
    """None: it is still going on, or was cut off."""
    sentence: str
    seconds: float | None = None
    hosts: tuple[HostSummary, ...] = ()
    totals: Mapping[str, int] = field(default_factory=dict)
    """Hosts by state."""


def summarise(plan: Plan, records: Iterable[Record]) -> RunReport:
    """Sum a run up from its plan and its records."""
    view = RunView(plan)
    for record in records:
        view.apply(record)
    seconds = None
    if view.started is not None and view.finished is not None:
        seconds = view.finished - view.started
    nothing = view.run is None and not plan.changes_anything
    return RunReport(
        run=view.run,
        inventory=plan.inventory,
        outcome=Outcome.CONVERGED if nothing else view.outcome,
        sentence=_sentence(view, seconds, nothing=nothing),
        seconds=seconds,
        hosts=tuple(_host(view, host) for host in view.hosts),
        totals={state.value: number for state, number in view.counts.items()},
    )


def render_summary(report: RunReport, width: int) -> str:
    """The summary as plain text."""
    return summary_text(report, width).plain


def summary_text(report: RunReport, width: int) -> Text:
    """One row a host, each failure in full, the totals and the sentence."""
    columns = [
        Column("HOST"),
        Column("CHANGE"),
        Column("WAVE", right=True),
        Column("STATE"),
        Column("TOOK", right=True),
        Column("WHAT WAS DONE", gives=True),
    ]
    parts = [columns_text(columns, [_cells(host) for host in report.hosts], width)]
    parts += [failure_text(h.failed or h.host, h.failure, width) for h in report.hosts if h.failure is not None]
    totals = ", ".join(f"{number} {state}" for state, number in report.totals.items())
    style = "bold green" if report.outcome is Outcome.CONVERGED else "bold red"
    parts.append(Text.assemble(f"{len(report.hosts)} hosts: {totals}.\n", (report.sentence, style)))
    return Text("\n\n").join(parts)


def _host(view: RunView, host: HostView) -> HostSummary:
    steps = tuple(_step(t) for t in view.tasks_of(host.host) if t.matters and t.is_settled)
    return HostSummary(
        host=host.host,
        state=host.state,
        change=host.change,
        wave=host.wave,
        seconds=host.seconds,
        steps=steps,
        reason=host.reason,
        failed=TaskId(f"{host.host}/{host.failed_step}") if host.failed_step else None,
        failure=_told_in_full(host.failure, aftermath(view.tasks_of(host.host))),
    )


def _told_in_full(failure: Failure | None, after: str) -> Failure | None:
    if failure is None or not after:
        return failure
    return replace(failure, did="; ".join(part for part in (failure.did, after) if part))


def _step(task: TaskView) -> StepSummary:
    assert task.verdict is not None
    return StepSummary(
        step=task.step, verdict=task.verdict, seconds=task.seconds, attempts=task.attempt, detail=task.detail
    )


def _cells(host: HostSummary) -> list[Text | str]:
    return [
        host.host,
        "" if host.change is None else host.change.value,
        "" if host.wave is None else str(host.wave),
        Text(host.state.value, style=STYLES[host.state]),
        "" if host.seconds is None else duration(host.seconds),
        Text(_told(host), style="dim"),
    ]


def _told(host: HostSummary) -> str:
    """The steps that mattered: where it broke, then what took the host's time."""
    if host.state is HostState.UNCHANGED:
        return clean(f"nothing to do: {host.reason}" if host.reason else "nothing to do")
    if host.reason:
        return clean(host.reason)
    broken = [f"{step.step} FAILED" for step in host.steps if step.verdict is Verdict.FAILED]
    told = [
        f"{step.step} {duration(step.seconds)}"
        for step in host.steps
        if step.verdict is Verdict.SUCCEEDED and step.seconds is not None and step.step not in _ROUTINE
    ]
    return ", ".join([*broken, *told])


def _sentence(view: RunView, seconds: float | None, *, nothing: bool) -> str:
    if nothing:
        return "Nothing to do: no host needs a change."
    took = "" if seconds is None else f" in {duration(seconds)}"
    run = f" Details: deploy show {view.run}" if view.run else ""
    failed = view.counts.get(HostState.FAILED, 0)
    back = view.counts.get(HostState.ROLLED_BACK, 0)
    skipped = view.counts.get(HostState.SKIPPED, 0)
    untouched = f", {skipped} not touched" if skipped else ""
    match view.outcome:
        case Outcome.CONVERGED:
            return f"Converged{took}: {_hosts(view, HostState.DONE)} changed."
        case Outcome.HALTED:
            return f"Halted{took}: {failed} failed{untouched}.{run}"
        case Outcome.ROLLED_BACK:
            lost = f", {failed} failed" if failed else ""
            return f"Failed and rolled back{took}: {back} taken back to what worked{lost}{untouched}.{run}"
        case Outcome.INTERRUPTED:
            return f"Interrupted{took}. To finish it: deploy resume {view.run}"
        case Outcome.BROKEN:
            return f"Stopped by a bug{took}. What was running is in the journal.{run}"
        case None:
            return f"Not finished. To take it up again: deploy resume {view.run}" if view.run else "Not started."


def _hosts(view: RunView, state: HostState) -> str:
    number = view.counts.get(state, 0)
    return f"{number} host{'' if number == 1 else 's'}"
