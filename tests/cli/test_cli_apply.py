"""``apply`` and what comes after it: events, logs, runs, show, reboot, rollback, in the order of a working day."""

import json
import re

import pytest

from tests.cli.fleets import CLUSTER
from tests.cli.terminal import in_a_terminal
from tests.lab.rig import a_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apply")
    (folder / "small.yaml").write_text(CLUSTER)
    with a_lab(folder, folder / "small.yaml") as rig:
        yield rig


@pytest.fixture(scope="module")
def first(rig):
    """The first apply, of one worker: stdout is the summary, events and logs go to files."""
    before = systems(rig)
    done = rig.deploy(
        "apply", rig.inventory, "--on", "w1", "--yes", "--json",
        "--events", rig.directory / "events.jsonl", "--log", rig.directory / "log.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, before


def systems(rig):
    return {name: machine["current"] for name, machine in rig.machines().items()}


def latest(rig):
    return json.loads(rig.deploy("runs", "--json").stdout)[0]["run"]


def test_only_the_selected_host_is_changed_and_the_summary_is_json(rig, first):
    done, before = first
    report = json.loads(done.stdout)
    assert report["outcome"] == "converged"
    assert [(host["host"], host["state"]) for host in report["hosts"]] == [("w1", "done")]
    now = systems(rig)
    assert {name for name in now if now[name] != before[name]} == {"w1"}


def test_plain_lines_say_what_happens_and_never_redraw(first):
    done, _ = first
    assert re.search(r"^\[00:0\d\] w1/drain  succeeded in ", done.stderr, re.MULTILINE)
    assert done.stderr.count("run 2") == 1
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr


def test_events_are_typed_numbered_and_in_order(rig, first):
    events = [json.loads(line) for line in (rig.directory / "events.jsonl").read_text().splitlines()]
    assert events[0]["type"] == "run-started"
    assert events[-1]["type"] == "run-finished"
    assert events[-1]["outcome"] == "converged"
    numbered = [event["seq"] for event in events if event["seq"] is not None]
    assert numbered == list(range(len(numbered)))
    assert {event["run"] for event in events} == {events[0]["run"]}
    settled = [event["task"] for event in events if event["type"] == "task-settled" and event["verdict"] == "succeeded"]
    assert settled.index("w1/drain") < settled.index("w1/activate") < settled.index("w1/uncordon")
    assert (rig.directory / "events.jsonl").stat().st_mode & 0o077 == 0


def test_logs_are_json_with_ids(rig, first):
    lines = [json.loads(line) for line in (rig.directory / "log.jsonl").read_text().splitlines()]
    run = latest(rig)
    settled = [line for line in lines if line["event"] == "task settled" and line.get("task") == "w1/activate"]
    assert settled[0]["run"] == run
    assert settled[0]["host"] == "w1"
    assert settled[0]["level"] == "info"


def test_events_on_standard_output_are_all_there_is(rig, first):
    done = rig.deploy("apply", rig.inventory, "--on", "w2", "--yes", "--events", "-")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()][-1] == "run-finished"
    assert "Converged" in done.stderr


def test_json_and_events_do_not_share_standard_output(rig):
    done = rig.deploy("apply", rig.inventory, "--yes", "--json", "--events", "-")
    assert done.returncode == 2
    assert "--events FILE" in done.stderr


@pytest.mark.parametrize("option", ["--events", "--log"])
def test_a_place_that_cannot_be_written_is_said_before_anything_else(rig, tmp_path, option):
    done = rig.deploy("apply", rig.inventory, "--yes", option, tmp_path / "nowhere" / "file")
    assert done.returncode == 2
    assert "probed" not in done.stderr
    assert "nowhere" in done.stderr


def test_a_person_is_asked_and_sees_the_run_live(rig, first):
    code, said = in_a_terminal(
        rig.command("apply", rig.inventory), {**rig.environment, "NO_COLOR": ""}, answer="y\n", when="Do this?"
    )
    assert code == 0, said
    assert "cp1" in said
    assert "\x1b[" in said
    assert "Converged" in said
    assert "Traceback" not in said


def test_a_second_apply_has_nothing_to_do(rig, first):
    done = rig.deploy("apply", rig.inventory, "--yes", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["totals"] == {"unchanged": 3}


def test_runs_are_listed_and_shown(rig, first):
    listed = rig.deploy("runs")
    assert listed.stdout.splitlines()[0].split()[0] == "RUN"
    assert listed.stderr == ""
    runs = json.loads(rig.deploy("runs", "--json").stdout)
    assert len(runs) == 3
    assert all(run["outcome"] == "converged" for run in runs)
    shown = rig.deploy("show", runs[-1]["run"])
    assert "Converged" in shown.stdout
    assert "w1 " in shown.stdout
    assert json.loads(rig.deploy("show", runs[-1]["run"], "--json").stdout)["run"] == runs[-1]["run"]
    assert json.loads(rig.deploy("show", "--json").stdout)["run"] == runs[0]["run"]


def test_an_unknown_run_is_said(rig):
    done = rig.deploy("show", "20200101T000000Z-0000")
    assert done.returncode == 2
    assert "there is no run 20200101T000000Z-0000" in done.stderr


def test_what_a_rollout_did_not_reboot_is_rebooted_when_it_is_asked_for(rig, first):
    for host in ("w1", "w2"):
        file = rig.flake / "hosts" / f"{host}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "kernelParams": ["quiet"]}))
    assert rig.deploy("apply", rig.inventory, "--yes", "--reboot", "never").returncode == 0
    assert "2 with a reboot pending" in rig.deploy("status", rig.inventory).stdout
    before = rig.machines()
    done = rig.deploy("reboot", rig.inventory, "--yes")
    assert done.returncode == 0, done.stderr
    assert "reboot: w1, w2\n" in done.stderr, "what is the same for several hosts is said once"
    now = rig.machines()
    assert {name for name in now if now[name]["boot_id"] != before[name]["boot_id"]} == {"w1", "w2"}
    assert rig.deploy("status", rig.inventory).returncode == 0


def test_nothing_needs_a_reboot_after_a_rollout(rig, first):
    done = rig.deploy("reboot", rig.inventory, "--yes")
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stderr


def test_all_of_a_selection_is_rebooted_when_that_is_asked(rig, first):
    before = rig.machines()
    done = rig.deploy("reboot", rig.inventory, "--all", "--on", "w1", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    now = rig.machines()
    assert {name for name in now if now[name]["boot_id"] != before[name]["boot_id"]} == {"w1"}
    assert now["w1"]["current"] == before["w1"]["current"]
    assert not now["w1"]["node"]["unschedulable"]


def test_a_rollback_goes_back_to_what_a_run_found(rig, first):
    done, before = first
    run = json.loads(done.stdout)["run"]
    back = rig.deploy("rollback", rig.inventory, "--to-run", run, "--yes", "--json")
    assert back.returncode == 0, back.stderr
    now = rig.machines()
    assert now["w1"]["current"] == now["w1"]["booted"] == before["w1"]
    assert {host["host"]: host["state"] for host in json.loads(back.stdout)["hosts"]}["w1"] == "done"
    assert now["w2"]["current"] != before["w2"]


def test_a_rollback_without_a_run_undoes_the_last_one(rig, first):
    changed = systems(rig)["w2"]
    assert rig.deploy("apply", rig.inventory, "--yes").returncode == 0
    after = systems(rig)
    back = rig.deploy("rollback", rig.inventory, "--yes")
    assert back.returncode == 0, back.stderr
    assert systems(rig)["w1"] == first[1]["w1"] != after["w1"]
    assert systems(rig)["w2"] == changed


def test_a_rollback_to_nowhere_is_said(rig):
    done = rig.deploy("rollback", rig.inventory, "--to-run", "20200101T000000Z-0000", "--yes")
    assert done.returncode == 2
    assert "unknown" in done.stderr
