"""The timeline as a picture: one row a host, one bar an attempt, grouped by wave.

Every bar also says in words what it is; it deliberately needs no script and no measurement of the window.
"""

from collections.abc import Iterator, Sequence

from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ui.durations import duration
from nixkube_deploy.ui.report.markup import Markup, joined, table, tag, text
from nixkube_deploy.ui.report.timeline import Bar, Ending, Timeline
from nixkube_deploy.ui.summary import HostSummary

_WIDE = 1000
_HIGH = 20
_THIN = 3.0
"""Units; what took no time at all is still seen."""
_TICKS = 5
_COLUMNS = 5

KINDS = {
    "copy": ("copy", "staging"),
    "drain": ("cordon", "drain", "blockers", "uncordon", "undrain"),
    "switch": ("activate", "switch", "confirm", "promote", "install", "kexec", "disko"),
    "reboot": ("reboot",),
    "gate": ("gate", "prove"),
    "soak": ("soak",),
    "back": ("rollback",),
}
"""Kind of work to the first words of the steps it covers; it is told by colour, and by name in each bar."""
_NAMES = {
    "copy": "copy",
    "drain": "cordon, drain, uncordon",
    "switch": "install, activate, confirm",
    "reboot": "reboot",
    "gate": "proof and gate",
    "soak": "soak",
    "back": "taking back",
    "other": "other steps",
}


def picture(plan: Plan, hosts: Sequence[HostSummary], times: Timeline) -> Markup:
    """The whole timeline; nothing where nothing was begun."""
    if not times.bars:
        return Markup("")
    head = ("Host", "Wave", "Change", "State", "Took")
    rows = joined(_waves(plan, hosts, times), "\n")
    whole = table("Every attempt of every step, by host and wave; hover over a bar for its words", head, (rows,))
    axis = tag("th", tag("div", *(_tick(times, n) for n in range(_TICKS)), class_="axis"), scope="col")
    whole = Markup(whole.replace("</tr></thead>", f"{axis}</tr></thead>", 1))
    for name in ("Wave", "Change"):
        whole = Markup(whole.replace(f'<th scope="col">{name}<', f'<th scope="col" class="wide">{name}<', 1))
    return joined((_legend(), whole), "\n")


def _tick(times: Timeline, number: int) -> Markup:
    return tag("span", text(duration(times.seconds * number / (_TICKS - 1)) if number else "0"))


def _waves(plan: Plan, hosts: Sequence[HostSummary], times: Timeline) -> Iterator[Markup]:
    numbers = sorted({host.wave for host in hosts if host.wave is not None})
    for number in (*numbers, None):
        members = [host for host in hosts if host.wave == number]
        if not members:
            continue
        canary = " (canary)" if plan.graph.rules.canaries and {h.host for h in members} <= _canaries(plan) else ""
        title = "No wave" if number is None else f"Wave {number}{canary}"
        count = f": {len(members)} host{'' if len(members) == 1 else 's'}"
        head = tag("th", text(title + count), scope="rowgroup", colspan=str(_COLUMNS + 1))
        yield tag("tbody", tag("tr", head, class_="wave"), *(_row(host, times) for host in members))


def _canaries(plan: Plan) -> frozenset[HostName]:
    return plan.graph.rules.canaries


def _row(host: HostSummary, times: Timeline) -> Markup:
    bars = times.bars.get(host.host, [])
    return tag(
        "tr",
        tag("th", text(host.host), scope="row"),
        tag("td", text("" if host.wave is None else str(host.wave)), class_="wide"),
        tag("td", text("" if host.change is None else host.change.value), class_="wide"),
        tag("td", text(host.state.value), class_="good" if host.state.went_well else "bad" if host.failure else "dim"),
        tag("td", text("" if host.seconds is None else duration(host.seconds)), class_="nums"),
        tag("td", _bars(host.host, bars, times), class_="bars"),
    )


def _bars(host: HostName, bars: Sequence[Bar], times: Timeline) -> Markup:
    if not bars:
        return Markup("")
    told = ", ".join(f"{bar.step} {duration(bar.end - bar.start)}{_how(bar)}" for bar in bars)
    return tag(
        "svg",
        *(_bar(bar, times) for bar in bars),
        viewBox=f"0 0 {_WIDE} {_HIGH}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{host}: {told}",
    )


def _bar(bar: Bar, times: Timeline) -> Markup:
    x = (bar.start - times.start) / times.seconds * _WIDE
    width = max((bar.end - bar.start) / times.seconds * _WIDE, _THIN)
    x = min(x, _WIDE - width)
    words = f"{bar.step}: {duration(bar.end - bar.start)}{_how(bar)}, at {duration(bar.start - times.start)}"
    detail = f" - {bar.detail}" if bar.detail else ""
    marks = {Ending.FAILED: "x", Ending.RETRIED: "r", Ending.WELL: "", Ending.UNCHANGED: ""}.get(bar.ending, "o")
    kind = "" if marks == "x" else f"k-{_kind(bar.step)}"
    # Failures are as high as the row, all else is not: they are told apart without colours.
    y, high = ("0", str(_HIGH)) if marks == "x" else ("4", str(_HIGH - 8))
    title = tag("title", text(words + detail))
    return tag(
        "rect",
        title,
        x=f"{x:.1f}",
        y=y,
        width=f"{width:.1f}",
        height=high,
        class_=" ".join(filter(None, (kind, marks))),
    )


def _how(bar: Bar) -> str:
    attempt = f", attempt {bar.attempt}" if bar.attempt > 1 else ""
    return attempt + ("" if bar.ending is Ending.WELL else f" ({bar.ending})")


def _kind(step: str) -> str:
    return next((kind for kind, words in KINDS.items() if step.startswith(words)), "other")


def _legend() -> Markup:
    entries = [(f"k-{kind}", name, "4", "12") for kind, name in _NAMES.items()]
    entries += [("x", "failed (full height)", "0", "20"), ("r", "failed, tried again", "4", "12")]
    entries += [("k-other o", "interrupted, or not ended", "4", "12")]
    return tag("ul", *(_entry(*entry) for entry in entries), class_="legend")


def _entry(kind: str, name: str, y: str, high: str) -> Markup:
    rect = tag("rect", x="1", y=y, width="18", height=high, class_=kind)
    return tag("li", tag("svg", rect, viewBox="0 0 20 20", preserveAspectRatio="none", aria_hidden="true"), text(name))
