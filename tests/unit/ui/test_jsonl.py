"""The event stream for programs, and the page that documents it."""

import io
import json
import stat
import typing
from pathlib import Path

import jsonschema
import pytest

from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.event import Event, TaskReported
from nixkube_deploy.model.names import TaskId
from nixkube_deploy.ui.eventdocs import events_markdown
from nixkube_deploy.ui.jsonl import EVENTS_VERSION, EventStream, event_type, open_events
from tests.unit.ui.stories import RUN, a_story, bad_run, golden

EVENT = {
    "type": "object",
    "required": ["version", "seq", "at", "type", "run"],
    "properties": {
        "version": {"const": EVENTS_VERSION},
        "seq": {"type": ["integer", "null"], "minimum": 0},
        "at": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"},
        "type": {"enum": [event_type(t) for t in (*typing.get_args(Event), TaskReported)]},
        "run": {"type": ["string", "null"]},
    },
    "if": {"properties": {"type": {"pattern": "^task-"}}},
    "then": {"required": ["task", "host", "step"]},
}


def streamed() -> list[dict[str, object]]:
    out = io.StringIO()
    story = a_story(lambda plan, clock: EventStream(plan, clock, out))
    bad_run(story)
    story.say("w1/copy", "copying\x1b[2J 1/3\n")
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_line_has_the_documented_shape_and_the_sequence_has_no_gaps() -> None:
    events = streamed()
    for event in events:
        jsonschema.validate(event, EVENT)
    numbers = [e["seq"] for e in events if e["seq"] is not None]
    assert numbers == list(range(len(numbers)))
    assert {e["run"] for e in events} == {RUN}


def test_a_settled_task_tells_host_step_verdict_and_failure() -> None:
    failed = next(e for e in streamed() if e.get("verdict") == "failed")
    assert {key: failed[key] for key in ("type", "task", "host", "step", "skip")} == {
        "type": "task-settled",
        "task": "w1/activate",
        "host": "w1",
        "step": "activate",
        "skip": None,
    }
    assert failed["failure"]["kind"] == "activation"  # type: ignore[index]


def test_a_task_of_the_whole_fleet_has_no_host_of_its_own() -> None:
    staged = next(e for e in streamed() if e.get("task") == "fleet/staged")
    assert (staged["host"], staged["step"]) == (None, "staged")


def test_lines_of_progress_are_there_without_a_number_and_clean() -> None:
    reported = streamed()[-1]
    assert (reported["type"], reported["seq"], reported["line"]) == ("task-reported", None, "copying 1/3 ")


def test_a_reader_that_went_away_does_not_hurt_the_run() -> None:
    out = io.StringIO()
    story = a_story(lambda plan, clock: EventStream(plan, clock, out))
    out.close()
    story.begin()
    story.do("w1/copy")


def test_the_file_is_the_owners_alone_and_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for _ in range(2):
        with open_events(str(path)) as stream:
            stream.write("{}\n")
    assert path.read_text() == "{}\n{}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with open_events("-") as stream:
        stream.write("x")
    assert capsys.readouterr().out == "x"


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"), open_events(str(tmp_path / "no" / "file")):
        pass


def test_the_page_tells_every_type_and_every_field() -> None:
    page = events_markdown()
    golden("events.md", page.removesuffix("\n"))
    for kind in (*typing.get_args(Event), TaskReported):
        assert f"### `{event_type(kind)}`" in page
    for word in ("`disk-full`", "`not-needed`: A rollback", "| `exit_code` | integer or null |", "`rolled-back`"):
        assert word in page


def test_steps_come_from_ids() -> None:
    assert TaskId("w1/rollback-gate").partition("/")[2] == "rollback-gate"
