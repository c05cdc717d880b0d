"""The main job as a person does it: a rollout, the same again, and a plan for each kind of change to the flake."""

import json
import time

import pytest

from tests.lab.rig import Rig, a_lab

HOSTS = ["cp1", "cp2", "cp3", *(f"w{n}" for n in range(1, 10))]
ROLLOUT_SECONDS = 30
AGAIN_SECONDS = 3

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with a_lab(tmp_path_factory.mktemp("apply"), "lab.yaml") as rig:
        rig.first = rig.deploy("apply", rig.inventory, "--yes", "--json")
        yield rig


def planned(rig: Rig) -> dict[str, str]:
    """Host to class of change, for every host that the plan would touch."""
    done = rig.deploy("plan", rig.inventory, "--json")
    assert done.returncode == 0, done.stderr
    hosts = json.loads(done.stdout)["hosts"]
    assert [host["host"] for host in hosts] == HOSTS
    return {host["host"]: host["change"]["kind"] for host in hosts if host["wave"] is not None}


def test_a_rollout_changes_every_host_that_differs_and_says_what_it_did(rig):
    assert rig.first.returncode == 0, rig.first.stderr
    report = json.loads(rig.first.stdout)
    assert report["outcome"] == "converged"
    assert report["seconds"] < ROLLOUT_SECONDS
    states = {host["host"]: (host["change"], host["state"]) for host in report["hosts"]}
    assert states == {
        **dict.fromkeys(HOSTS[:3], ("node-restart", "done")),
        **dict.fromkeys(HOSTS[3:10], ("reboot", "done")),
        "w8": ("live", "done"),
        "w9": ("unchanged", "unchanged"),
    }
    assert all(f"{host} " in rig.first.stderr or f"{host}/" in rig.first.stderr for host in HOSTS[:11])


def test_every_host_took_as_long_as_its_own_steps_and_not_as_long_as_its_turn_was_off(rig):
    for host in json.loads(rig.first.stdout)["hosts"]:
        steps = sum(step["seconds"] or 0 for step in host["steps"] if step["step"] != "copy")
        if host["seconds"] is not None:
            assert host["seconds"] == pytest.approx(steps, abs=0.5), host["host"]


def test_a_second_apply_finds_nothing_to_do_and_is_quick_about_it(rig):
    began = time.monotonic()
    done = rig.deploy("apply", rig.inventory, "--yes")
    took = time.monotonic() - began
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith("nothing to do")]
    rows = rows or [line.split() for line in done.stderr.splitlines() if line.endswith("nothing to do")]
    assert [row[0] for row in rows] == HOSTS
    assert took < AGAIN_SECONDS


def test_a_plan_shows_exactly_the_hosts_and_classes_that_an_edit_of_the_flake_affects(rig):
    assert planned(rig) == {}
    for path, change, expected in (
        ("hosts/w3.json", {"packages": {"htop": "3.4.2"}}, {"w3": "live"}),
        ("hosts/w4.json", {"kernelParams": ["quiet"]}, {"w4": "reboot"}),
        ("roles/control-plane.json", {"units": {"k3s.service": "1.31.5"}}, dict.fromkeys(HOSTS[:3], "node-restart")),
        ("roles/worker.json", {"packages": {"openiscsi": "2.1.12"}}, dict.fromkeys(HOSTS[3:], "live")),
        ("common.json", {"kernel": "6.12.9"}, dict.fromkeys(HOSTS, "reboot")),
    ):
        file = rig.flake / path
        before = file.read_text()
        file.write_text(json.dumps({**json.loads(before), **change}))
        assert planned(rig) == expected, path
        file.write_text(before)
    assert planned(rig) == {}
