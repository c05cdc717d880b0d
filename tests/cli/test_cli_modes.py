"""A trial, a next boot, a dry run and a generation to go back to, as a person types them."""

import json

import pytest

from tests.cli.fleets import PLAIN
from tests.lab.rig import Rig, a_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes")
    (folder / "plain.yaml").write_text(PLAIN)
    with a_lab(folder, folder / "plain.yaml") as rig:
        done = rig.deploy("apply", rig.inventory, "--yes")
        assert done.returncode == 0, done.stderr
        yield rig


def status_of(rig: Rig, host: str) -> dict:
    return next(row for row in json.loads(rig.deploy("status", rig.inventory, "--json").stdout) if row["host"] == host)


def generations(rig: Rig, host: str) -> str:
    argv = ("exec", "--on", host, rig.inventory, "--", "nix-env", "-p", "/nix/var/nix/profiles/system")
    return rig.deploy(*argv, "--list-generations").stdout


def test_a_dry_run_says_what_would_restart_and_changes_nothing(rig):
    before = rig.machines()["web1"]["current"]
    rig.configure("web1", units={"redis.service": "7.2"})
    done = rig.deploy("apply", rig.inventory, "--mode", "dry-activate")
    assert done.returncode == 0, done.stderr
    assert "would start the following units: redis.service" in done.stdout
    assert "web2, web3: unchanged" in done.stdout
    rows = json.loads(rig.deploy("apply", rig.inventory, "--mode", "dry-activate", "--json").stdout)
    assert [(row["host"], row["start"]) for row in rows if row["start"]] == [("web1", ["redis.service"])]
    assert rig.machines()["web1"]["current"] == before


def test_a_trial_runs_now_and_ends_with_the_next_boot_and_a_switch_makes_it_last(rig):
    rig.configure("web1", units={"nginx.service": "1.27.2"})
    before = status_of(rig, "web1")
    done = rig.deploy("apply", rig.inventory, "--yes", "--mode", "test")
    assert done.returncode == 0, done.stderr
    now = status_of(rig, "web1")
    assert (now["on_trial"], now["reboot_pending"], now["generation"]) == (True, False, before["generation"])
    assert now["current"] != before["current"]
    assert "on trial: a reboot goes back" in rig.deploy("status", rig.inventory).stdout
    assert rig.deploy("apply", rig.inventory, "--yes").returncode == 0
    now = status_of(rig, "web1")
    assert (now["on_trial"], now["generation"]) == (False, before["generation"] + 1)


def test_a_next_boot_is_pending_until_a_reboot_brings_it(rig):
    rig.configure("web2", kernel="6.12.99")
    before = status_of(rig, "web2")
    done = rig.deploy("apply", rig.inventory, "--yes", "--mode", "boot", "--on", "web2")
    assert done.returncode == 0, done.stderr
    assert "the next boot starts it" in done.stderr + done.stdout
    now = status_of(rig, "web2")
    assert (now["current"], now["reboot_pending"]) == (before["current"], True)
    assert now["wanted"] != now["current"]
    again = rig.deploy("apply", rig.inventory, "--yes", "--mode", "boot", "--on", "web2")
    assert again.returncode == 0
    assert "nothing to do: reboot pending" in again.stdout + again.stderr
    done = rig.deploy("reboot", rig.inventory, "--yes")
    assert done.returncode == 0, done.stderr
    now = status_of(rig, "web2")
    assert (now["kernel"], now["reboot_pending"], now["current"]) == ("6.12.99", False, now["wanted"])


def test_what_contradicts_itself_is_refused_with_what_to_type(rig):
    done = rig.deploy("apply", rig.inventory, "--mode", "test", "--reboot", "always")
    assert (done.returncode, "ends with a reboot" in done.stderr) == (2, True)
    rig.configure("web3", kernel="6.12.77")
    done = rig.deploy("apply", rig.inventory, "--yes", "--mode", "test", "--on", "web3")
    assert done.returncode == 3
    assert "deploy apply INVENTORY --on web3 --mode test --reboot never" in done.stderr


def test_a_saved_plan_keeps_its_mode(rig):
    plan = rig.directory / "plan.json"
    saved = rig.deploy("plan", rig.inventory, "--on", "web3", "--mode", "boot", "-o", plan)
    assert saved.returncode == 0, saved.stderr
    assert json.loads(plan.read_text())["mode"] == "boot"
    assert rig.deploy("apply", plan, "--mode", "test").returncode == 2
    assert rig.deploy("apply", plan, "--yes").returncode == 0
    assert status_of(rig, "web3")["reboot_pending"]
    assert rig.deploy("rollback", rig.inventory, "--yes", "--on", "web3").returncode == 0
    assert not status_of(rig, "web3")["reboot_pending"]


def test_a_rollback_to_a_generation_keeps_its_number(rig):
    wanted = status_of(rig, "web1")["generation"] - 1
    done = rig.deploy("rollback", rig.inventory, "--yes", "--on", "web1", "--to-generation", wanted)
    assert done.returncode == 0, done.stderr
    assert status_of(rig, "web1")["generation"] == wanted
    current = [line for line in generations(rig, "web1").splitlines() if "(current)" in line]
    assert [str(wanted) in line for line in current] == [True]


def test_a_generation_that_is_not_there_is_refused_naming_those_that_are(rig):
    done = rig.deploy("rollback", rig.inventory, "--yes", "--on", "web1", "--to-generation", 77)
    assert done.returncode == 3
    assert "web1 has no generation 77" in done.stderr
    assert "generations 1, 2" in done.stderr
    assert rig.deploy("rollback", rig.inventory, "--to-run", "x", "--to-generation", 1).returncode == 2
