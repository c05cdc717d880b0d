"""Lines for CI logs: what is told, what is not, and the heartbeat on a clock that costs nothing."""

import io
from collections.abc import Callable

import anyio
import pytest
import trio.testing

from nixkube_deploy.model.event import Outcome
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ui.plain import PlainLines
from tests.fakes.clock import LoopClock
from tests.unit.ui.stories import Story, a_plan, a_story, bad_run, golden, good_run, stage


def told(tell: Callable[[Story], None], problem: str = "w4") -> str:
    out = io.StringIO()
    story = a_story(lambda plan, clock: PlainLines(plan, clock, out), problem=problem)
    tell(story)
    return out.getvalue()


def test_a_good_run_reads_as_one_line_a_step() -> None:
    golden("plain-good.txt", told(good_run))


def test_a_bad_run_shows_each_failure_in_full_once() -> None:
    text = told(bad_run)
    golden("plain-bad.txt", text)
    assert text.count("chown: invalid user") == 1


def test_how_long_a_failure_took_ends_its_sentence_where_that_is_wrapped() -> None:
    out = io.StringIO()
    bad_run(a_story(lambda plan, clock: PlainLines(plan, clock, out, width=40), problem="w4"))
    golden("plain-bad-narrow.txt", out.getvalue())


def test_a_drain_and_an_interrupt_are_said() -> None:
    def tell(story: Story) -> None:
        story.begin()
        story.start("w1/copy")
        story.drain("SIGINT received")
        story.interrupt("w1/copy")
        story.end(Outcome.INTERRUPTED)

    lines = told(tell).splitlines()
    assert lines[1] == "[00:00] no new host is started: SIGINT received"
    assert lines[2] == "[00:00] run interrupted: 2 waiting, 1 unchanged, 1 skipped, 1 interrupted"


def test_no_line_acts_on_a_terminal_or_a_ci_runner() -> None:
    def tell(story: Story) -> None:
        story.begin()
        story.do("w1/copy", detail="\x1b[2J::set-output::x\r\n::error::y")
        story.start("w2/copy")
        hostile = Failure(kind=FailureKind.COPY, message="\x1b]0;x\x07m", evidence=("::error::e", "##vso[x]\x9b2J"))
        story.fail("w2/copy", hostile)

    text = told(tell)
    assert not any(ord(c) < 32 and c != "\n" for c in text)
    assert not any(line.lstrip().startswith(("::", "##")) for line in text.splitlines())


def test_a_closed_stream_does_not_hurt_the_run() -> None:
    out = io.StringIO()
    story = a_story(lambda plan, clock: PlainLines(plan, clock, out))
    story.begin()
    out.close()
    story.do("w1/copy")


def test_past_records_of_a_resumed_run_are_known_but_not_told_again() -> None:
    earlier = a_story()
    stage(earlier)
    out = io.StringIO()
    lines = PlainLines(earlier.plan, earlier.clock, out)
    for record in earlier.records:
        lines.replay(record)
    assert out.getvalue() == ""
    earlier.sinks = [lines]
    earlier.begin(resumed=True)
    assert out.getvalue() == "[00:00] run 20261123T030000Z-3fa9 resumed\n"


class TestHeartbeat:
    @pytest.fixture
    def anyio_backend(self) -> object:
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}

    async def test_every_thirty_seconds_it_names_what_runs_and_for_how_long(self) -> None:
        out = io.StringIO()
        clock = LoopClock()
        story = Story(a_plan(), clock=clock)  # type: ignore[arg-type]
        lines = PlainLines(story.plan, clock, out)
        story.sinks = [lines]
        async with anyio.create_task_group() as group:
            group.start_soon(lines.run)
            story.begin()
            story.start("w1/copy")
            await anyio.sleep(20)
            story.start("w2/copy")
            story.say("w2/copy", "copying path 3/9")
            await anyio.sleep(15)
            story.ok("w1/copy")
            await anyio.sleep(30)
            story.ok("w2/copy")
            await anyio.sleep(60)
            group.cancel_scope.cancel()
        beats = [line for line in out.getvalue().splitlines() if "still running" in line]
        assert beats == [
            "[00:30] still running: w1/copy 30s, w2/copy 10s (copying path 3/9); 1 waiting, 2 running, 2 unchanged",
            "[01:00] still running: w2/copy 40s (copying path 3/9); 2 waiting, 1 running, 2 unchanged",
        ]


def test_a_heartbeat_of_a_large_fleet_names_a_few_and_counts_the_rest() -> None:
    out = io.StringIO()
    story = Story(a_plan("w1..w40", "w1..w40=live"))
    lines = PlainLines(story.plan, story.clock, out)
    story.sinks = [lines]
    story.begin()
    story.start(*(f"w{i}/copy" for i in range(1, 41)))
    lines.beat()
    assert "w8/copy 0.0s, and 32 more; 40 running" in out.getvalue()
