"""``nixkube-lab`` and what hands over to it: up, down, status, run, faults, and what a killed lab leaves behind."""

import json
import os
import signal
import sys
import time

import pytest

from tests.cli.fleets import CLUSTER
from tests.lab.rig import ROOT, Rig, a_lab, run

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture
def rig(tmp_path):
    (tmp_path / "small.yaml").write_text(CLUSTER)
    with a_lab(tmp_path, tmp_path / "small.yaml") as rig:
        yield rig


def test_a_lab_is_up_once(rig):
    again = rig.lab("up", str(rig.directory.parent / "small.yaml"), check=False)
    assert again.returncode == 2
    assert f"a lab is already up in {rig.directory}" in again.stderr
    assert "nixkube-lab down" in again.stderr


def test_what_hosts_run_outlives_the_lab(rig):
    assert rig.deploy("apply", rig.inventory, "--on", "w1", "--yes").returncode == 0
    before = rig.machines()["w1"]
    rig.lab("down")
    assert rig.lab("down", check=False).returncode == 2
    assert "is not up" in rig.lab("down", check=False).stderr
    assert rig.deploy("status", rig.inventory).returncode == 4, "nobody answers"
    rig.lab("up")
    after = rig.machines()["w1"]
    assert {key: after[key] for key in ("current", "booted", "generation", "boot_id")} == {
        key: before[key] for key in ("current", "booted", "generation", "boot_id")
    }


def test_a_lab_that_was_killed_comes_up_again(rig):
    os.kill(rig.state()["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while rig.lab("status", check=False).returncode == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "no lab is up" in rig.lab("status", check=False).stderr
    rig.lab("up")
    assert set(rig.machines()) == {"cp1", "w1", "w2"}


def test_status_is_for_people_and_for_programs(rig):
    rows = rig.lab("status").stdout.splitlines()
    assert rows[0].split() == ["HOST", "PORT", "POWER", "OS", "GEN", "KERNEL", "NODE", "SYSTEM"]
    assert rows[2].split()[0] == "w1"
    assert rig.state()["hosts"][1]["host"] == "w1"


def test_a_command_runs_in_the_lab_with_its_own_exit_code(rig):
    def run_in(*command):
        return run(
            [sys.executable, "-m", "nixkube_deploy.lab", "run", "--dir", str(rig.directory), "--", *command],
            None,
            False,
        )

    assert run_in("sh", "-c", "exit 7").returncode == 7
    assert run_in("printenv", "NIXKUBE_LAB_DIR").stdout == f"{rig.directory}\n"
    assert run_in("nix", "--version").returncode == 0
    assert run_in("no-such-program").returncode == 127
    assert "w1" in run_in("deploy", "status", rig.inventory, "--no-eval").stdout


def test_faults_are_listed_set_and_cleared(rig):
    listed = run([sys.executable, "-m", "nixkube_deploy.lab", "fault", "list"], None).stdout
    assert "HOST:switch=1|2|4|100|inhibitor" in listed
    assert rig.lab("fault", "add", "w1:slow=1", "w2:switch=4*1").returncode == 0
    assert "fault  w2:switch=4*1" in rig.lab("status").stdout
    assert "cleared w1:slow=1" in rig.lab("fault", "clear", "w1").stderr
    assert rig.state()["faults"] == ["w2:switch=4*1"]
    none = rig.lab("fault", "clear", "w2:slow", check=False)
    assert (none.returncode, "w2:slow has no fault" in none.stderr) == (2, True)
    assert "cleared w2:switch=4*1" in rig.lab("fault", "clear", "w2:switch=4*1").stderr
    wrong = rig.lab("fault", "add", "w1:swich=4", check=False)
    assert wrong.returncode == 2
    assert "did you mean switch?" in wrong.stderr


def test_deploy_lab_is_nixkube_lab(rig):
    done = rig.deploy("lab", "status", "--json")
    assert len(json.loads(done.stdout)["hosts"]) == 3
    assert "Usage: nixkube-lab" in rig.deploy("lab", "--help").stdout


def test_a_rehearsal_leaves_nothing_behind(tmp_path):
    (tmp_path / "small.yaml").write_text(CLUSTER)
    environment = {
        **os.environ,
        "NIXKUBE_DEPLOY_STATE": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path),
        "NO_COLOR": "1",
    }
    done = run(Rig(tmp_path).command("rehearse", tmp_path / "small.yaml", "--", "--on", "w1"), environment, False)
    assert done.returncode == 0, done.stderr
    assert "Converged" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml", "state"]


def test_a_rehearsed_fault_ends_as_it_would(tmp_path):
    (tmp_path / "small.yaml").write_text(CLUSTER)
    environment = {**os.environ, "NIXKUBE_DEPLOY_STATE": str(tmp_path / "state"), "NO_COLOR": "1"}
    command = Rig(tmp_path).command(
        "rehearse", tmp_path / "small.yaml", "--fault", "w1:reboot-old-kernel", "--", "--on", "w1"
    )
    done = run(command, environment, False)
    assert done.returncode == 5, done.stderr
    assert "did not boot on w1; the old one, nixos-generation-" in done.stderr


@pytest.mark.parametrize("name", ["homelab.yaml"])
def test_the_example_inventories_can_be_rehearsed(tmp_path, name):
    environment = {**os.environ, "NIXKUBE_DEPLOY_STATE": str(tmp_path / "state"), "NO_COLOR": "1"}
    done = run(Rig(tmp_path).command("rehearse", ROOT / "inventories" / name), environment, False)
    assert done.returncode == 0, done.stderr
    assert "3 hosts: 3 done." in done.stderr
