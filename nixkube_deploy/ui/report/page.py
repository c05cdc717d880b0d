"""One run as one page: what came of it, what failed, when what was done, what changed, what was planned, every event.

Made of a plan and its records alone. It asks nobody, loads nothing, and forbids itself scripts and requests.
"""

from collections.abc import Iterable, Iterator, Sequence

from nixkube_deploy.model.closure import FlakeState
from nixkube_deploy.model.event import (
    Outcome,
    Record,
    RunDraining,
    RunFinished,
    RunStarted,
    TaskInterrupted,
    TaskRetrying,
    TaskSettled,
    TaskStarted,
)
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.packages import PackageChange
from nixkube_deploy.model.rollout import HostPlan, Plan
from nixkube_deploy.model.size import growth_text, size_text
from nixkube_deploy.ui.durations import duration, iso
from nixkube_deploy.ui.report.bars import picture
from nixkube_deploy.ui.report.markup import Markup, joined, pairs, row, section, table, tag, text
from nixkube_deploy.ui.report.style import STYLE
from nixkube_deploy.ui.report.timeline import Timeline, timeline
from nixkube_deploy.ui.sanitize import clean_lines
from nixkube_deploy.ui.summary import HostSummary, RunReport, summarise

EVENTS = 2000
"""The last so many events are on the page; the journal has all."""
_SYSTEMS = ("Host", "Ended", "Why", "From", "To", "Size")
EVIDENCE = 60
"""Lines of one failure's evidence."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(run: RunId, plan: Plan, records: Iterable[Record], alive: str = "") -> Markup:
    """The page. ``alive`` says who is at work on the run just now; empty: nobody is."""
    seen = tuple(records)
    summary, times = summarise(plan, seen), timeline(plan, seen)
    body = joined(
        (
            _header(run, plan, summary, times, alive),
            section("Failures", *_failures(summary), label="failures"),
            section("Timeline", picture(plan, summary.hosts, times), label="timeline"),
            section("What changed", *_changes(plan, summary), label="changes"),
            section("The plan", *_plan(plan), label="plan"),
            section("Events", _events(seen, times), label="events"),
        ),
        "\n",
    )
    head = (
        f'<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{text(f'Run {run}: {_outcome(summary, alive)}')}</title>\n<style>{STYLE}</style>"
    )
    foot = tag("footer", text(f"Made by nixkube-deploy from the journal of run {run}; times are UTC."))
    return Markup(
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n{foot}\n</body>\n</html>\n"
    )


def _outcome(summary: RunReport, alive: str) -> str:
    if summary.outcome is not None:
        return summary.outcome.value
    return "still running" if alive else "cut off"


def _header(run: RunId, plan: Plan, summary: RunReport, times: Timeline, alive: str) -> Markup:
    ended = summary.outcome is not None
    style = "good" if summary.outcome is Outcome.CONVERGED else "bad" if ended and not alive else "warn"
    code = f"{summary.outcome.exit_code}" if summary.outcome is not None else ""
    sentence = summary.sentence
    if not ended:
        sentence = f"Still running: {alive}. This page shows it as of its last event." if alive else summary.sentence
    begun = iso(times.start) if times.marks else "never"
    facts = (
        ("Inventory", tag("code", text(plan.inventory))),
        ("Flake", tag("code", text(_flake(plan.flake)))),
        ("Started", text(begun)),
        ("Last event" if not ended else "Ended", text(iso(times.end) if times.marks else "")),
        ("Took", text(duration(times.seconds) if times.marks else "")),
        ("Mode", text(plan.mode.value)),
        ("Exit code", text(code)),
        ("On the way", joined((text(f"{duration(at - times.start)}: {what}") for at, what in times.marks), "<br>")),
    )
    counts = (tag("li", tag("b", text(str(n))), text(state)) for state, n in summary.totals.items())
    return tag(
        "header",
        tag("h1", text(f"Run {run}")),
        tag("p", tag("span", text(_outcome(summary, alive)), class_=f"outcome {style}")),
        tag("p", text(sentence)),
        pairs(facts),
        tag("ul", tag("li", tag("b", text(str(len(summary.hosts)))), text("hosts")), *counts, class_="counts"),
    )


def _flake(flake: FlakeState) -> str:
    return f"{flake.url} at {flake.revision}{' (dirty tree)' if flake.dirty else ''}"


def _failures(summary: RunReport) -> Iterator[Markup]:
    for host in summary.hosts:
        if host.failure is not None:
            yield _failure(host, host.failure)


def _failure(host: HostSummary, failure: Failure) -> Markup:
    code = "" if failure.exit_code is None else f" (exit code {failure.exit_code})"
    command = f"{failure.command}{code}".strip()
    parts = (
        ("Expected", text(failure.expected)),
        ("Seen", text(failure.seen)),
        ("Command", tag("code", text(command)) if command else Markup("")),
        ("Evidence", _lines(failure.evidence[-EVIDENCE:])),
        ("Did", text(failure.did)),
        ("Next", _lines(failure.next.splitlines())),
    )
    title = tag("h3", text(f"{host.failed or host.host} failed: {failure.message}"))
    return tag("article", title, pairs(parts), class_="failure")


def _lines(lines: Sequence[str]) -> Markup:
    told = joined((text(line) for line in clean_lines(lines)), "\n")
    return tag("pre", told) if told else Markup("")


def _changes(plan: Plan, summary: RunReport) -> Iterator[Markup]:
    for shared in plan.differences:
        rows = (_package(each) for each in shared.changes.packages)
        yield table(f"Packages of {', '.join(shared.hosts)}", ("Package", "Old", "New", "Size"), rows)
        if shared.changes.rebuilt:
            rebuilt = tag("p", text(", ".join(shared.changes.rebuilt)))
            many = tag("summary", text(f"{len(shared.changes.rebuilt)} packages rebuilt in the same version"))
            yield tag("details", many, rebuilt)
    changed = [host for host in plan.hosts if host.target is not None and host.target != host.current]
    if changed:
        ended = {host.host: host.state.value for host in summary.hosts}
        rows = (_system(host, ended.get(host.host, "")) for host in changed)
        yield table("Systems: what each host was to change, and how it ended", _SYSTEMS, rows)


def _package(change: PackageChange) -> Markup:
    old, new = ", ".join(change.old), ", ".join(change.new)
    grows = tag("span", text(growth_text(change.delta)), class_="nums")
    return row(text(change.name), text(old or change.fate), text(new or change.fate), grows)


def _system(host: HostPlan, ended: str) -> Markup:
    reasons = () if host.change is None else host.change.reasons
    size = ""
    if host.sizes is not None and host.sizes.after is not None:
        before = host.sizes.before
        grows = "" if before is None else f" ({growth_text(host.sizes.after - before)})"
        size = size_text(host.sizes.after) + grows
    why = joined((text(reason) for reason in reasons), "<br>")
    return row(text(host.host), text(ended), why, _path(host.current), _path(host.target), text(size))


def _path(path: str | None) -> Markup:
    return tag("code", text(path)) if path else Markup("")


def _plan(plan: Plan) -> Iterator[Markup]:
    waves: dict[int, list[str]] = {}
    for section_ in plan.graph.sections.values():
        waves.setdefault(section_.wave, []).append(section_.host)
    if waves:
        rows = (row(text(str(number)), text(", ".join(waves[number]))) for number in sorted(waves))
        yield table("Waves", ("Wave", "Hosts"), rows)
    budgets = tuple(budget.name for budget in plan.graph.rules.budgets)
    if told := (*budgets, *plan.notes):
        yield joined((tag("h3", text("Rules and notes")), tag("ul", *(tag("li", text(line)) for line in told))))
    risks: dict[str, list[str]] = {}
    for host in plan.hosts:
        for risk in host.risks:
            risks.setdefault(risk, []).append(host.host)
    if risks:
        rows = (row(text(risk), text(", ".join(hosts))) for risk, hosts in risks.items())
        yield table("Risks", ("Risk", "Hosts"), rows)


def _events(records: Sequence[Record], times: Timeline) -> Markup:
    if not records:
        return tag("p", text("Nothing has happened yet."))
    shown = records[-EVENTS:]
    left = f"; the last {EVENTS:,} of them, the journal has all" if len(shown) < len(records) else ""
    summary = tag("summary", text(f"{len(records):,} events{left}"))
    rows = (_event(record, times) for record in shown)
    return tag("details", summary, table("Events", ("No.", "After", "What", "Task", "Detail"), rows))


def _event(record: Record, times: Timeline) -> Markup:
    what, task, detail = _told(record)
    after = duration(record.at - times.start)
    return row(text(str(record.seq)), text(after), text(what), text(task), text(detail))


def _told(record: Record) -> tuple[str, str, str]:
    match record.event:
        case RunStarted(resumed=resumed):
            return "run resumed" if resumed else "run started", "", ""
        case TaskStarted(task=task, attempt=attempt):
            return "started", task, f"attempt {attempt}" if attempt > 1 else ""
        case TaskRetrying(task=task, failure=failure, delay=delay):
            return "will be tried again", task, f"in {duration(delay)}: {failure.message}"
        case TaskSettled(task=task, verdict=verdict, detail=detail, failure=failure):
            return verdict.value, task, failure.message if failure is not None else detail
        case TaskInterrupted(task=task):
            return "interrupted", task, ""
        case RunDraining(reason=reason):
            return "stops starting anything", "", reason
        case RunFinished(outcome=outcome):
            return "run ended", "", outcome.value
