"""The live screen in a terminal emulator: it fits, each failure is told once, nothing hostile gets through."""

import io
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pyte
import pytest
import trio.testing
from rich.console import Console

from nixkube_deploy.model.event import Outcome
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.ui.live import LiveScreen
from tests.fakes.clock import LoopClock, ManualClock
from tests.unit.ui.stories import ACTIVATION, DRAIN, Story, a_plan, bad_run, golden

Tell = Callable[[Story], Awaitable[None]]


class Emulator:
    """A terminal of a size, with its scrollback. ``tap`` keeps the raw bytes too."""

    def __init__(self, width: int, height: int, **options: object) -> None:
        self.screen = pyte.HistoryScreen(width, height, history=5000, ratio=1.0)
        self.stream = pyte.Stream(self.screen)
        self.tap = io.StringIO()
        emulator = self

        class Tty(io.StringIO):
            def isatty(self) -> bool:
                return True

            def write(self, text: str) -> int:
                emulator.tap.write(text)
                # A real terminal driver turns a line feed into carriage return and line feed.
                emulator.stream.feed(text.replace("\n", "\r\n"))
                return len(text)

        self.console = Console(
            file=Tty(),
            force_terminal=True,
            width=width,
            height=height,
            highlight=False,
            markup=False,
            emoji=False,
            _environ={},
            **options,  # type: ignore[arg-type]
        )

    def lines(self) -> list[str]:
        """Everything a person can scroll back to, without the blanks at the ends of lines."""
        top = ["".join(row[x].data for x in range(self.screen.columns)).rstrip() for row in self.screen.history.top]
        return [*top, *(line.rstrip() for line in self.screen.display)]

    def visible(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]


@pytest.fixture
def anyio_backend() -> object:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def shown(emulator: Emulator, plan: Plan, tell: Tell, clock: Any = None) -> None:
    """Run the screen while ``tell`` (which may await) tells the story."""
    clock = clock or LoopClock()
    story = Story(plan, clock=clock)
    screen = LiveScreen(plan, clock, emulator.console)
    story.sinks = [screen]
    async with anyio.create_task_group() as group:
        group.start_soon(screen.run)
        await tell(story)
        await anyio.sleep(1)
        group.cancel_scope.cancel()


def hundred() -> Plan:
    return a_plan("cp1 | w1..w99", "cp1=live w1..w99=live")


async def a_busy_fleet(story: Story) -> None:
    """A hundred hosts: forty run, two fail for good, the rest waits or is done."""
    story.begin()
    for number in range(1, 100):
        story.ok(f"w{number}/copy")
    await anyio.sleep(1)
    for number in range(1, 61):
        story.start(f"w{number}/activate")
        story.say(f"w{number}/activate", f"setting up /etc on w{number}...")
    await anyio.sleep(12)
    for number in range(1, 19):
        story.ok(*(f"w{number}/{step}" for step in ("activate", "prove", "gate", "confirm")))
        story.spare(f"w{number}")
    for number in (20, 30):
        story.fail(f"w{number}/activate", ACTIVATION)
        for step in ("prove", "gate", "confirm"):
            story.skip(f"w{number}/{step}", detail="activate failed")
        story.start(f"w{number}/rollback")
        story.fail(f"w{number}/rollback", DRAIN)
        story.skip(f"w{number}/rollback-gate")
        await anyio.sleep(3)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (45, 12), (200, 60)])
async def test_a_hundred_hosts_fit_the_screen_with_failed_and_running_ones_first(width: int, height: int) -> None:
    emulator = Emulator(width, height)
    await shown(emulator, hundred(), a_busy_fleet)
    text = "\n".join(emulator.lines())
    heads = [i for i, line in enumerate(emulator.lines()) if line.startswith("HOST")]
    assert len(heads) == 1, "the table was drawn once more instead of in place"
    rows = emulator.lines()[heads[0] + 1 :]
    assert all(len(line) <= width for line in emulator.visible())
    assert rows[0].startswith("w20 ")
    assert rows[1].startswith("w30 ")
    assert "running" in rows[2]
    assert "40 waiting" in text
    assert ("more rows not shown" in text) == (height < 48 and width > 45)


async def test_each_failure_is_in_the_scrollback_exactly_once() -> None:
    emulator = Emulator(80, 24)
    await shown(emulator, hundred(), a_busy_fleet)
    text = "\n".join(emulator.lines())
    for task in ("w20/activate", "w30/activate", "w20/rollback", "w30/rollback"):
        assert text.count(f"{task} failed:") == 1
    assert text.count("Activation script snippet 'etcd' failed (1)") == 2


async def test_the_last_picture_stays() -> None:
    emulator = Emulator(80, 24)

    async def tell(story: Story) -> None:
        bad_run(story)

    await shown(emulator, a_plan(problem="w4"), tell, ManualClock())
    golden("live-bad-80x24.txt", "\n".join(emulator.lines()).rstrip())


async def test_a_picture_in_the_middle_of_a_run() -> None:
    emulator = Emulator(120, 40)

    async def tell(story: Story) -> None:
        story.begin()
        story.ok("w1/copy", "w2/copy", "cp1/copy", "fleet/staged")
        story.start("w1/activate")
        await anyio.sleep(20)
        story.ok("w1/activate", "w1/prove", "w1/gate", "w1/confirm")
        story.spare("w1")
        story.start("cp1/cordon")
        story.ok("cp1/cordon")
        story.start("cp1/drain")
        story.say("cp1/drain", "4 of 6 pods are gone; waiting for default/web-1 (budget default/web)")
        await anyio.sleep(6)

    await shown(emulator, a_plan(problem="w4"), tell)
    golden("live-middle-120x40.txt", "\n".join(emulator.lines()).rstrip())


async def test_control_characters_of_hosts_never_reach_the_terminal() -> None:
    emulator = Emulator(80, 24, no_color=True, color_system=None)
    hostile = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eevil\r\n::error::[bold]markup[/bold]"

    async def tell(story: Story) -> None:
        story.begin()
        story.start("w1/copy")
        story.say("w1/copy", hostile)
        await anyio.sleep(1)
        story.fail("w1/copy", Failure(kind=FailureKind.COPY, message=hostile, evidence=(hostile,), next=hostile))
        await anyio.sleep(1)

    await shown(emulator, a_plan(), tell)
    raw = emulator.tap.getvalue()
    assert "owned" not in raw
    assert "\x1b[2J" not in raw
    assert "\x1b]" not in raw
    assert "\u202e" not in raw
    assert "[bold]markup[/bold]" in raw


async def test_no_color_draws_the_same_words_without_colours() -> None:
    emulator = Emulator(80, 24, no_color=True, color_system=None)
    await shown(emulator, hundred(), a_busy_fleet)
    assert "\x1b[3" not in emulator.tap.getvalue()
    assert "\x1b[1;3" not in emulator.tap.getvalue()
    assert any("failed" in line for line in emulator.lines())


async def test_a_drain_is_said_above_the_table() -> None:
    emulator = Emulator(80, 24)

    async def tell(story: Story) -> None:
        story.begin()
        story.start("w1/copy")
        story.drain("SIGINT received")
        await anyio.sleep(1)
        story.end(Outcome.INTERRUPTED)

    await shown(emulator, a_plan(), tell)
    assert "No new host is started: SIGINT received" in emulator.lines()
