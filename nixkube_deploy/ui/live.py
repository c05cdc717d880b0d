"""A run on a terminal: a table that is redrawn in place, a progress line, and each failure in full above it, once.

One writer: records only change state, a single task draws. It deliberately shows no more rows than fit; what is left
out is counted.
"""

from collections import deque
from collections.abc import Iterable

import anyio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nixkube_deploy.model.event import Record, RunDraining, TaskReported, TaskSettled, Verdict
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ui.durations import duration, elapsed
from nixkube_deploy.ui.failure import failure_text
from nixkube_deploy.ui.rows import HostState, HostView, WaveView
from nixkube_deploy.ui.sanitize import clean
from nixkube_deploy.ui.styles import STYLES
from nixkube_deploy.ui.view import RunView

FRAME = 1 / 8
"""Seconds between two pictures."""

_AROUND = 5
"""Lines that are no host: title, column heads, counts, and room for the cursor and a prompt."""
_ROOMY, _NARROW = 70, 50
_FIRST = (HostState.FAILED, HostState.INTERRUPTED, HostState.ROLLED_BACK, HostState.RUNNING)
_RANK = {state: rank for rank, state in enumerate(_FIRST)}


class LiveScreen:
    """A sink that keeps a picture; ``run`` draws it until cancelled, and once more at the end."""

    def __init__(self, plan: Plan, clock: Clock, console: Console) -> None:
        self._view = RunView(plan)
        self._clock = clock
        self._console = console
        self._news: deque[Text] = deque()

    def replay(self, record: Record) -> None:
        """Fold a record of an earlier controller without telling it again."""
        self._view.apply(record)

    def saw(self, record: Record) -> None:
        """Fold; failures and the beginning of a drain wait for the next picture."""
        self._view.apply(record)
        match record.event:
            case TaskSettled(task=task, verdict=Verdict.FAILED, failure=failure) if failure is not None:
                self._news.append(failure_text(task, failure, self._console.width))
            case RunDraining(reason=reason):
                self._news.append(Text(f"No new host is started: {clean(reason)}", style="bold magenta"))
            case _:
                pass

    def heard(self, report: TaskReported) -> None:
        """Keep a step's last line."""
        self._view.hear(report)

    async def run(self) -> None:
        """Draw until cancelled. The last picture stays on the screen."""
        live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self.picture,
        )
        with live:
            try:
                while True:
                    self._draw(live)
                    await anyio.sleep(FRAME)
            finally:
                self._draw(live)

    def picture(self) -> RenderableType:
        """The picture now, for this console's size."""
        now = self._clock.now().timestamp()
        width, height = self._console.size
        rows = sorted((h for h in self._view.hosts if h.state in _RANK), key=_order)
        room = max(1, height - _AROUND)
        shown = rows[:room]
        parts: list[RenderableType] = [_headline(self._view, now, width)]
        if shown:
            parts.append(_table(shown, now, width))
        parts.append(_rest(self._view, rows[len(shown) :], width))
        return Group(*parts)

    def _draw(self, live: Live) -> None:
        while self._news:
            self._console.print(self._news.popleft(), soft_wrap=True)
            self._console.print()
        live.refresh()


def _order(host: HostView) -> tuple[int, float, str]:
    """Failed first, then what has run longest."""
    return _RANK[host.state], host.opened or host.started or 0.0, host.host


def _headline(view: RunView, now: float, width: int) -> Text:
    """Where the run stands, on one line: the wave at work, a bar, the clock and the estimate."""
    waves = view.waves
    total, settled = sum(w.total for w in waves), sum(w.settled for w in waves)
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    text.append(_wave_words(waves), style="bold")
    text.append(f"  {settled}/{total} hosts  ")
    spent = elapsed((view.finished or now) - (now if view.started is None else view.started))
    tail = f"  {spent}"
    left = view.eta(now)
    if view.outcome is not None:
        tail += f"  {view.outcome.value}"
    elif view.draining:
        tail += "  draining"
    elif left is not None:
        tail += f"  about {duration(left)} left"
    room = width - len(text.plain) - len(tail) - 2
    if room >= 10:  # noqa: PLR2004 (a shorter bar says nothing)
        text.append_text(_bar(settled, total, min(room, 40)))
    text.append(tail)
    return text


def _wave_words(waves: tuple[WaveView, ...]) -> str:
    if not waves:
        return "staging"
    current = next((w for w in waves if not w.is_done), waves[-1])
    return f"wave {current.number}/{waves[-1].number}"


def _bar(done: int, total: int, width: int) -> Text:
    inner = width - 2
    full = inner * done // total if total else 0
    return Text.assemble("[", ("#" * full, "green"), ("-" * (inner - full), "dim"), "]")


def _table(hosts: Iterable[HostView], now: float, width: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, show_edge=False, header_style="dim")
    roomy, narrow = width >= _ROOMY, width < _NARROW
    table.add_column("HOST", no_wrap=True, max_width=max(8, width // 4), overflow="ellipsis")
    if roomy:
        table.add_column("WAVE", justify="right", no_wrap=True)
    table.add_column("STATE", no_wrap=True, overflow="ellipsis")
    table.add_column("STEP", no_wrap=True, overflow="ellipsis")
    if roomy:
        table.add_column("TRY", justify="right", no_wrap=True)
    table.add_column("SINCE", justify="right", no_wrap=True)
    if not narrow:
        table.add_column("LAST LINE", no_wrap=True, overflow="ellipsis", ratio=1)
    for host in hosts:
        style = STYLES[host.state]
        cells = [Text(host.host), Text(host.state.value, style=style), Text(_step(host), style=style)]
        since = Text(_since(host, now))
        if roomy:
            cells.insert(1, Text("" if host.wave is None else str(host.wave)))
            cells += [Text(str(host.attempt or "")), since]
        else:
            cells.append(since)
        table.add_row(*cells, *(() if narrow else (Text(host.line, style="dim"),)))
    return table


def _step(host: HostView) -> str:
    return host.failed_step if host.state is HostState.FAILED else host.step


def _since(host: HostView, now: float) -> str:
    if host.since is None:
        return ""
    if host.state.is_settled:
        return duration((host.finished or host.since) - (host.started or host.since))
    return duration(now - host.since)


def _rest(view: RunView, hidden: list[HostView], width: int) -> Text:
    """How many hosts are where, and how many rows did not fit."""
    counts = [(f"{number} {state.value}", STYLES[state]) for state, number in view.counts.items()]
    text = Text("  ", no_wrap=True, overflow="ellipsis", end="")
    text.append_text(Text(", ").join(Text(words, style=style) for words, style in counts))
    if hidden:
        text.append(f"; {len(hidden)} more rows not shown", style="dim")
    text.truncate(width, overflow="ellipsis")
    return text
