"""Which eyes are opened for which stream, what NO_COLOR does, and where logs go."""

import io
import json
import logging
import stat
from pathlib import Path

import anyio
import pytest
import structlog
from rich.text import Text

from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.event import Outcome
from nixkube_deploy.model.names import HostName, RunId, TaskId
from nixkube_deploy.model.secret import Secret
from nixkube_deploy.ui.eyes import Watching, watch
from nixkube_deploy.ui.live import LiveScreen
from nixkube_deploy.ui.logs import log_context, logging_to
from nixkube_deploy.ui.plain import PlainLines
from nixkube_deploy.ui.reports import RunRow, runs_text, status_text
from nixkube_deploy.ui.terminal import open_terminal
from tests.fakes.clock import ManualClock
from tests.unit.ui.stories import Story, a_plan
from tests.unit.ui.test_summary import STATUS


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "interactive", "coloured"),
    [
        (Tty(), {"TERM": "xterm-256color"}, True, True),
        (Tty(), {"TERM": "xterm-256color", "NO_COLOR": "1"}, True, False),
        (Tty(), {"TERM": "xterm-256color", "NO_COLOR": ""}, True, True),
        (Tty(), {"TERM": "dumb"}, False, False),
        (Tty(), {"TERM": "xterm", "CI": "true"}, False, True),
        (io.StringIO(), {"TERM": "xterm-256color"}, False, False),
    ],
)
def test_a_terminal_is_what_stream_and_environment_say(
    stream: io.StringIO, environment: dict[str, str], interactive: bool, coloured: bool
) -> None:
    terminal = open_terminal(stream, environment)
    assert terminal.interactive is interactive
    terminal.show(status_text(STATUS, 160))
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_a_pipe_gets_whole_lines() -> None:
    out = io.StringIO()
    terminal = open_terminal(out, {})
    terminal.show(status_text(STATUS, terminal.width))
    assert out.getvalue() == status_text(STATUS, terminal.width).plain + "\n"


@pytest.mark.parametrize(("stream", "kind"), [(io.StringIO(), PlainLines), (Tty(), LiveScreen)])
async def test_a_person_at_a_terminal_gets_the_screen_and_everybody_else_lines(
    stream: io.StringIO, kind: type, tmp_path: Path
) -> None:
    clock = ManualClock()
    story = Story(a_plan(), clock)
    terminal = open_terminal(stream, {"TERM": "xterm"})
    events = tmp_path / "events.jsonl"
    with anyio.fail_after(10):
        async with watch(story.plan, clock, Watching(terminal=terminal, events=str(events))) as sinks:
            assert isinstance(sinks[0], kind)
            story.sinks = list(sinks)
            story.begin()
            story.do("w1/copy")
            story.end(Outcome.INTERRUPTED)
    assert len(events.read_text().splitlines()) == 4
    assert "interrupted" in stream.getvalue()


async def test_an_error_inside_the_block_is_not_swallowed() -> None:
    terminal = open_terminal(io.StringIO(), {})
    with pytest.raises(ExceptionGroup) as caught:
        async with watch(a_plan(), ManualClock(), Watching(terminal=terminal)):
            raise ZeroDivisionError
    assert caught.group_contains(ZeroDivisionError)


async def test_a_picture_that_cannot_be_drawn_is_told_when_the_run_is_over(monkeypatch) -> None:
    async def fails(_eyes: PlainLines) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(PlainLines, "run", fails)
    finished: list[bool] = []

    async def watched() -> None:
        async with watch(a_plan(), ManualClock(), Watching(terminal=open_terminal(io.StringIO(), {}))):
            await anyio.sleep(0.01)
            finished.append(True)

    with pytest.raises(ZeroDivisionError):
        await watched()
    assert finished


def test_long_lines_are_folded_further_in_where_somebody_reads_them() -> None:
    words = "Notes\n  " + "seven of nine " * 8
    piped, tty = io.StringIO(), Tty()
    open_terminal(piped, {}).tell(words)
    open_terminal(tty, {"TERM": "xterm", "COLUMNS": "60"}).tell(words)
    assert piped.getvalue() == f"{words}\n"
    notes, first, *rest = tty.getvalue().splitlines()
    assert (notes, first[:9]) == ("Notes", "  seven o")
    assert rest
    assert all(line.startswith("    ") and len(line) <= 60 for line in rest)


def test_only_a_screen_is_wiped() -> None:
    piped, tty = io.StringIO(), Tty()
    open_terminal(piped, {"TERM": "xterm"}).wipe()
    open_terminal(tty, {"TERM": "xterm"}).wipe()
    assert piped.getvalue() == ""
    assert "\x1b[2J" in tty.getvalue()


def test_a_reader_that_is_gone_is_an_error_to_handle_and_no_exit() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        open_terminal(Gone(), {}).show(Text("anybody?"))


@pytest.mark.parametrize("width", [80, 120])
def test_a_runs_id_is_never_cut_and_of_a_path_the_end_is_kept(width: int) -> None:
    row = RunRow(run="20261122T204931Z-3fa9", inventory="/srv/fleets/" + "deep/" * 20 + "inventory.yaml", started=0.0)
    _, line = runs_text([row], width).plain.splitlines()
    assert line.startswith("20261122T204931Z-3fa9 ")
    assert line.endswith("inventory.yaml")
    assert len(line) <= width


def test_logs_are_json_lines_with_ids_and_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with logging_to(path):
        log = structlog.get_logger("nixkube_deploy.test")
        with log_context(run=RunId("r"), host=HostName("w1"), task=TaskId("w1/copy")):
            log.info("copied", paths=3, password=Secret("hunter2"), nested=[Secret("hunter2")])
        log.debug("not at this level")
        logging.getLogger("asyncssh").warning("from a library: %s", "\x1b[2J")
    logging.getLogger("asyncssh").warning("after the end")
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert {key: first[key] for key in ("event", "level", "run", "host", "task", "paths", "password")} == {
        "event": "copied",
        "level": "info",
        "run": "r",
        "host": "w1",
        "task": "w1/copy",
        "paths": 3,
        "password": "***",
    }
    assert "hunter2" not in path.read_text()
    assert "run" not in second
    assert second["logger"] == "asyncssh"
    assert "\x1b" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_logs_carry_exceptions_as_data() -> None:
    out = io.StringIO()
    with logging_to(out, "debug"):
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            structlog.get_logger().exception("bug")
    line = json.loads(out.getvalue())
    assert line["exception"][0]["exc_type"] == "ZeroDivisionError"


def test_a_level_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no log level"), logging_to(io.StringIO(), "loud"):
        pass
