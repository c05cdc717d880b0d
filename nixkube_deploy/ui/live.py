"""A run on a terminal: a table that is redrawn in place, a progress line, and each failure in full above it, once.

One writer: records only change state, a single task draws. It deliberately shows no more rows than fit; what is left
out is counted.
"""

from collections import deque
from contextlib import suppress

import anyio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from nixkube_deploy.model.event import Record, RunDraining, TaskReported, TaskSettled, Verdict
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ui.columns import Column, columns_text
from nixkube_deploy.ui.durations import age, elapsed
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
        self._drawn = Text()

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
        """Draw until cancelled. The last picture stays on the screen; a screen that is gone is left alone."""
        with suppress(OSError):
            await self._redraw()

    async def _redraw(self) -> None:
        live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        with live:
            try:
                while True:
                    self._draw(live)
                    await anyio.sleep(FRAME)
            finally:
                self._draw(live)

    def picture(self) -> Text:
        """The picture now, for this console's size."""
        now = self._clock.now().timestamp()
        width, height = self._console.size
        rows = sorted((h for h in self._view.hosts if h.state in _RANK), key=_order)
        shown = rows[: max(1, height - _AROUND)]
        parts = [_headline(self._view, now, width)]
        if shown:
            parts.append(columns_text(_columns(width), [_cells(h, now, width) for h in shown], width))
        parts.append(_rest(self._view, len(rows) - len(shown), width))
        return Text("\n", no_wrap=True, overflow="crop").join(parts)

    def _draw(self, live: Live) -> None:
        while self._news:
            self._console.print(self._news.popleft(), soft_wrap=True)
            self._console.print()
        picture = self.picture()
        if picture != self._drawn or picture.spans != self._drawn.spans:
            # Rendering is what costs; a run in which nothing moves is drawn once a second.
            self._drawn = picture
            live.update(picture, refresh=True)


def _order(host: HostView) -> tuple[int, float, str]:
    """Failed first, then what has run longest."""
    return _RANK[host.state], host.opened or host.started or 0.0, host.host


def _headline(view: RunView, now: float, width: int) -> Text:
    """Where the run stands, on one line: the wave at work, a bar, the clock and the estimate."""
    waves = view.waves
    total, settled = sum(w.total for w in waves), sum(w.settled for w in waves)
    text = Text(no_wrap=True, overflow="ellipsis")
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
        tail += f"  about {age(left)} left"
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


def _columns(width: int) -> list[Column]:
    columns = [Column("HOST", gives=True, least=8), Column("STATE", least=11), Column("STEP", least=8)]
    if width >= _ROOMY:
        columns = [columns[0], Column("WAVE", right=True, least=4), *columns[1:], Column("TRY", right=True, least=3)]
    columns.append(Column("SINCE", right=True, least=6))
    return [*columns, Column("LAST LINE", gives=True, least=9)] if width >= _NARROW else columns


def _cells(host: HostView, now: float, width: int) -> list[Text | str]:
    style = STYLES[host.state]
    name = host.host if len(host.host) <= width // 4 else f"{host.host[: width // 4 - 1]}…"
    cells: list[Text | str] = [name, Text(host.state.value, style=style), Text(_step(host), style=style)]
    if width >= _ROOMY:
        cells = [cells[0], "" if host.wave is None else str(host.wave), *cells[1:], str(host.attempt or "")]
    cells.append(_since(host, now))
    return [*cells, Text(host.line, style="dim")] if width >= _NARROW else cells


def _step(host: HostView) -> str:
    return host.failed_step if host.state is HostState.FAILED else host.step


def _since(host: HostView, now: float) -> str:
    if host.since is None:
        return ""
    if host.state.is_settled:
        return "" if host.seconds is None else age(host.seconds)
    return age(now - host.since)


def _rest(view: RunView, hidden: int, width: int) -> Text:
    """How many hosts are where, and how many rows did not fit."""
    counts = [(f"{number} {state.value}", STYLES[state]) for state, number in view.counts.items()]
    text = Text("  ", no_wrap=True, overflow="ellipsis")
    text.append_text(Text(", ").join(Text(words, style=style) for words, style in counts))
    if hidden:
        text.append(f"; {hidden} more rows not shown", style="dim")
    text.truncate(width, overflow="ellipsis")
    return text
