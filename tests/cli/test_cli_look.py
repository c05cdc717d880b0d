"""Commands that only look: ``status``, ``check``, ``exec``. Data on standard output, everything else beside it."""

import json
import signal
import time

import pytest

from tests.cli.fleets import CLUSTER
from tests.cli.terminal import in_a_terminal
from tests.lab.rig import a_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("look")
    (folder / "small.yaml").write_text(CLUSTER)
    with a_lab(folder, folder / "small.yaml") as rig:
        yield rig


@pytest.fixture
def silent_w2(rig):
    rig.lab("fault", "add", "w2:unreachable")
    yield rig
    rig.lab("fault", "clear")


# --- status ----------------------------------------------------------------------------------------------------------


def test_status_is_a_row_a_host(rig):
    done = rig.deploy("status", rig.inventory)
    assert done.returncode == 4, "the hosts do not run what the flake says"
    rows = done.stdout.splitlines()
    assert rows[0].split() == ["HOST", "SSH", "GEN", "CONFIG", "KERNEL", "KUBELET", "NODE", "FREE"]
    assert rows[2].split()[:5] == ["w1", "up", "1", "drifted", "6.12.7"]
    assert rows[-1] == "3 hosts: 3 drifted."
    assert "probed" not in done.stdout


def test_status_for_programs_has_every_field(rig):
    done = rig.deploy("status", rig.inventory, "--json", "--on", "w*")
    rows = json.loads(done.stdout)
    assert [row["host"] for row in rows] == ["w1", "w2"]
    assert rows[0]["reachable"] is True
    assert rows[0]["current"] != rows[0]["wanted"]
    assert rows[0]["ready"] is True


def test_status_without_evaluation_knows_no_drift(rig):
    done = rig.deploy("status", rig.inventory, "--no-eval")
    assert done.returncode == 0
    assert "CONFIG" not in done.stdout


def test_a_silent_host_is_down_and_says_why(silent_w2):
    done = silent_w2.deploy("status", silent_w2.inventory, "--no-eval")
    assert done.returncode == 4
    assert "w2    down" in done.stdout
    assert "connection refused" in done.stdout
    assert "3 hosts: 1 down." in done.stdout


def test_watching_looks_again_until_it_is_interrupted(rig):
    process = rig.start("status", rig.inventory, "--watch", "--interval", "0.5", "--no-eval", "--json")
    looks, deadline = [], time.monotonic() + 30
    while len(looks) < 3 and time.monotonic() < deadline:
        looks.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert [row["host"] for row in looks[2]] == ["cp1", "w1", "w2"]
    assert process.returncode == 130
    assert "Traceback" not in err


# --- check -----------------------------------------------------------------------------------------------------------


def test_a_healthy_fleet_passes_every_check(rig):
    done = rig.deploy("check", rig.inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks passed" in done.stdout
    assert len(done.stdout.splitlines()) < 14, "what is the same everywhere is said once"


def test_a_failed_check_is_told_in_full(silent_w2):
    done = silent_w2.deploy("check", silent_w2.inventory)
    assert done.returncode == 3
    assert "w2: reachable failed" in done.stdout
    assert "ssh -p" in done.stdout


def test_checks_for_programs(rig):
    findings = json.loads(rig.deploy("check", rig.inventory, "--json").stdout)
    assert {finding["subject"] for finding in findings} == {"inventory", "flake", "cluster", "cp1", "w1", "w2"}
    assert all(finding["failure"] is None for finding in findings)


def test_a_full_disk_is_found_before_anything_is_copied(rig):
    rig.lab("fault", "add", "w1:disk-full")
    try:
        done = rig.deploy("check", rig.inventory)
    finally:
        rig.lab("fault", "clear")
    assert done.returncode == 3
    assert "/nix/store is nearly full" in done.stdout


def test_where_a_setting_comes_from_is_explained(rig):
    done = rig.deploy("check", rig.inventory, "--explain", "w1")
    assert done.returncode == 0, done.stderr
    assert "ssh.user" in done.stdout
    assert "inventory.yaml:" in done.stdout
    assert "default" in done.stdout


def test_an_unknown_host_to_explain_is_guessed(rig):
    done = rig.deploy("check", rig.inventory, "--explain", "w11")
    assert done.returncode == 2
    assert "w1" in done.stderr


# --- exec ------------------------------------------------------------------------------------------------------------


def test_words_are_one_program_with_its_arguments(rig):
    done = rig.deploy("exec", rig.inventory, "--", "echo", "two words", "$HOME;")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two words $HOME;") == 3
    assert done.stdout.count("exit code 0") == 3


def test_one_word_is_for_the_hosts_shell(rig):
    done = rig.deploy("exec", "--on", "w1", rig.inventory, "--", "echo one && echo two")
    assert [line.strip() for line in done.stdout.splitlines()] == ["w1: exit code 0", "| one", "| two"]


def test_a_command_that_fails_has_exit_code_4_and_shows_what_it_said(rig):
    done = rig.deploy("exec", rig.inventory, "--", "cat", "/nowhere")
    assert done.returncode == 4
    assert "w1: exit code 1" in done.stdout
    assert "No such file" in done.stdout


def test_root_is_who_runs_it_when_asked(rig):
    done = rig.deploy("exec", "--root", "--json", rig.inventory, "--", "id", "-u")
    assert [output["result"]["stdout"] for output in json.loads(done.stdout)] == ["0\n"] * 3


def test_a_host_that_does_not_answer_does_not_keep_the_others(silent_w2):
    done = silent_w2.deploy("exec", silent_w2.inventory, "--", "uname", "-r")
    assert done.returncode == 4
    assert "w1: exit code 0" in done.stdout
    assert "w2 failed: " in done.stdout
    assert "connection refused" in done.stdout


def test_nothing_to_run_is_said(rig):
    done = rig.deploy("exec", rig.inventory)
    assert done.returncode == 2
    assert "CMD" in done.stderr


def test_an_option_behind_the_inventory_is_refused_before_every_host_runs_it_as_a_command(rig):
    done = rig.deploy("exec", rig.inventory, "--on", "w1", "--", "reboot")
    assert done.returncode == 2
    assert "--on: options come before INVENTORY" in done.stderr


def test_what_a_host_prints_cannot_command_the_terminal(rig):
    done = rig.deploy("exec", "--on", "w1", rig.inventory, "--", "echo", "\x1b[2Jgone\x07")
    assert "\x1b" not in done.stdout
    assert "gone" in done.stdout


# --- the terminal ----------------------------------------------------------------------------------------------------


def test_colours_are_for_terminals_without_no_color(rig):
    coloured = {**rig.environment, "NO_COLOR": ""}
    command = rig.command("status", rig.inventory, "--no-eval")
    assert "\x1b[" in in_a_terminal(command, coloured)[1]
    assert "\x1b[" not in in_a_terminal(command, {**coloured, "NO_COLOR": "1"})[1]


def test_a_reader_that_goes_away_is_no_error(rig):
    process = rig.start("status", rig.inventory, "--no-eval")
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) in {0, 4}
