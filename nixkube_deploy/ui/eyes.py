"""Everything that watches one run, opened together: a live screen or plain lines, and the event stream if asked for.

It deliberately does not sum the run up; that is printed after, on the stream the caller chooses.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio

from nixkube_deploy.model.event import Record
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.sink import Sink
from nixkube_deploy.ui.jsonl import EventStream, open_events
from nixkube_deploy.ui.live import LiveScreen
from nixkube_deploy.ui.plain import PlainLines
from nixkube_deploy.ui.terminal import Terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """Who watches and where."""

    terminal: Terminal
    """For people: standard error."""
    events: str | None = None
    """File name or ``-`` for the event stream."""
    past: Iterable[Record] = ()
    """What an earlier controller did of this run, known but not told again."""


@asynccontextmanager
async def watch(plan: Plan, clock: Clock, watching: Watching) -> AsyncIterator[tuple[Sink, ...]]:
    """Sinks for the engine; drawing starts with the block and the last picture is drawn when it ends.

    Raises:
        UsageError: the file for events cannot be opened.
    """
    terminal = watching.terminal
    eyes: LiveScreen | PlainLines
    if terminal.interactive:
        eyes = LiveScreen(plan, clock, terminal.console)
    else:
        eyes = PlainLines(plan, clock, terminal.stream, terminal.width)
    for record in watching.past:
        eyes.replay(record)
    sinks: tuple[Sink, ...] = (eyes,)
    async with AsyncExitStack() as stack:
        if watching.events is not None:
            stream = stack.enter_context(open_events(watching.events))
            sinks = (*sinks, EventStream(plan, clock, stream))
        blind: list[Exception] = []
        async with anyio.create_task_group() as group:
            group.start_soon(_draw, eyes, blind)
            try:
                yield sinks
            finally:
                group.cancel_scope.cancel()
        if blind:
            raise blind[0]


async def _draw(eyes: LiveScreen | PlainLines, blind: list[Exception]) -> None:
    """A picture that cannot be drawn is a bug to be told in the end; hosts are not dropped half-way for it."""
    try:
        await eyes.run()
    except Exception as bug:  # noqa: BLE001 (kept, and raised when the run is over)
        blind.append(bug)
