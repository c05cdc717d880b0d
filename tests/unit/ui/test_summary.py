"""The end of a run and the tables of commands that only look, as golden files; their values survive JSON."""

import json

import pytest

from nixkube_deploy.model.codec import from_plain, to_plain
from nixkube_deploy.model.event import Outcome, SkipCause
from nixkube_deploy.ui.reports import (
    FindingRow,
    OutputRow,
    RunRow,
    StatusRow,
    findings_text,
    output_text,
    runs_text,
    status_text,
)
from nixkube_deploy.ui.summary import RunReport, render_summary, summarise
from tests.builders import a_failure
from tests.unit.ui.stories import Story, a_plan, a_story, bad_run, golden, good_run, stage


def report(tell=None, problem: str = "") -> RunReport:
    story = a_story(problem=problem)
    if tell is not None:
        tell(story)
    return summarise(story.plan, story.records)


@pytest.mark.parametrize("width", [80, 120])
def test_a_good_run_is_summed_up(width: int) -> None:
    golden(f"summary-good-{width}.txt", render_summary(report(good_run), width))


@pytest.mark.parametrize("width", [80, 120])
def test_a_bad_run_is_summed_up_with_its_failures(width: int) -> None:
    golden(f"summary-bad-{width}.txt", render_summary(report(bad_run, "w4"), width))


def test_a_plan_with_nothing_to_do_says_so() -> None:
    plan = a_plan(changed="")
    golden("summary-nothing.txt", render_summary(summarise(plan, ()), 80))


def test_a_run_that_was_cut_off_says_how_to_go_on() -> None:
    def tell(story: Story) -> None:
        stage(story)
        story.start("w1/activate")

    text = render_summary(report(tell), 100)
    assert text.endswith("Not finished. To take it up again: deploy resume 20261123T030000Z-3fa9")


def test_a_halted_run_counts_what_was_not_touched() -> None:
    def tell(story: Story) -> None:
        stage(story)
        story.start("w1/activate")
        story.fail("w1/activate")
        story.skip("w1/prove", "w1/gate", "w1/confirm", "w1/rollback", "w1/rollback-gate", detail="w1/activate failed")
        for host in ("w2", "cp1"):
            story.rest(host, SkipCause.HALTED, "w1 failed")
        story.end(Outcome.HALTED)

    summed = report(tell)
    assert summed.sentence.startswith("Halted in 11s: 1 failed, 2 not touched.")
    assert summed.totals == {"unchanged": 2, "failed": 1, "skipped": 2}


def test_a_report_survives_json() -> None:
    summed = report(bad_run)
    assert from_plain(RunReport, json.loads(json.dumps(to_plain(summed)))) == summed


STATUS = (
    StatusRow(
        host="cp1",
        reachable=True,
        generation=42,
        drift=False,
        kernel="6.12.8",
        kubelet="v1.31.4+k3s1",
        ready=True,
        disk=50 * 2**30,
    ),
    StatusRow(
        host="w1",
        reachable=True,
        generation=7,
        drift=True,
        kernel="6.12.7",
        reboot_pending=True,
        kubelet="v1.31.3+k3s1",
        ready=False,
        cordoned="20261123T030000Z-3fa9",
        disk=2**30,
        note="2 failed units: a.service, b.mount",
    ),
    StatusRow(host="w2", reachable=False, note="no answer on port 22 within 10 s"),
    StatusRow(host="nas", reachable=True, generation=3, drift=None, kernel="6.12.8", disk=900 * 2**30),
)


@pytest.mark.parametrize("width", [100, 160])
def test_status_has_one_row_a_host(width: int) -> None:
    golden(f"status-{width}.txt", status_text(STATUS, width).plain)


def test_status_of_a_fleet_in_which_all_is_well_says_so() -> None:
    assert status_text(STATUS[:1], 100).plain.endswith("1 hosts: all well.")


def test_runs_are_listed() -> None:
    rows = (
        RunRow(
            run="20261123T030000Z-3fa9",
            inventory="/home/me/homelab.yaml",
            started=1795402800.0,
            seconds=754,
            outcome=Outcome.CONVERGED,
            hosts=3,
        ),
        RunRow(run="20261122T204931Z-0001", inventory="/home/me/homelab.yaml", started=1795380571.0, hosts=3, failed=1),
        RunRow(run="20261121T204931Z-0002", note="the journal is damaged at line 3"),
    )
    golden("runs.txt", runs_text(rows, 120).plain)
    assert runs_text((), 80).plain == "No runs yet."


def test_findings_show_what_is_wrong_in_full() -> None:
    rows = (
        FindingRow(subject="w1", check="reachable", detail="42 ms"),
        FindingRow(subject="w2", check="reachable", failure=a_failure()),
    )
    golden("findings.txt", findings_text(rows, 80).plain)


def test_output_of_a_host_cannot_pose_as_another_hosts() -> None:
    text = output_text(OutputRow(host="w1", exit_code=1, output="x\nw2: exit code 0\n\x1b[2J::error::y"), 80).plain
    assert text.splitlines() == ["w1: exit code 1", "  | x", "  | w2: exit code 0", "  | : :error::y"]
    assert "failed: no answer" in output_text(OutputRow(host="w1", failure=a_failure()), 80).plain


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_no_line_of_a_table_is_wider_than_asked_unless_nothing_can_give(width: int) -> None:
    rows = [FindingRow(subject=f"w{i}", check="c", detail="d" * 300) for i in range(3)]
    assert all(len(line) <= width for line in findings_text(rows, width).plain.splitlines())
