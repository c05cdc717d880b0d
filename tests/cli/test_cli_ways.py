"""The other ways: deploy-rs and nixos-rebuild, sudo with a password, a jump host, plain hosts without a cluster."""

import json

import pytest

from tests.cli.fleets import MIXED, PLAIN
from tests.lab.rig import a_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    (folder / "mixed.yaml").write_text(MIXED)
    with a_lab(folder, folder / "mixed.yaml") as rig:
        secret = rig.directory / "keys" / "sudo-password"
        twin = rig.inventory.read_text()
        assert f"file: {secret}" in twin
        rig.inventory.write_text(twin.replace(f"file: {secret}", "env: LAB_SUDO"))
        rig.environment["LAB_SUDO"] = secret.read_text().strip()
        yield rig


def test_a_secret_that_is_not_there_is_named_and_nothing_is_touched(rig):
    there = rig.environment.pop("LAB_SUDO")
    try:
        done = rig.deploy("check", rig.inventory, "--on", "asks")
    finally:
        rig.environment["LAB_SUDO"] = there
    assert done.returncode == 3
    assert "{env: LAB_SUDO} is not set" in done.stdout


def test_a_wrong_password_is_said_to_be_wrong_and_never_shown(rig):
    there = rig.environment["LAB_SUDO"]
    rig.environment["LAB_SUDO"] = "correct-horse"
    try:
        done = rig.deploy("check", rig.inventory, "--on", "asks")
    finally:
        rig.environment["LAB_SUDO"] = there
    assert done.returncode == 3
    assert "asks: becomes root (sudo) failed" in done.stdout
    assert "correct-horse" not in done.stdout + done.stderr


def test_a_host_behind_another_is_reached_alone(rig):
    done = rig.deploy("exec", "--on", "behind", rig.inventory, "--", "hostname")
    assert done.returncode == 0, done.stdout
    assert "| behind" in done.stdout


def test_what_an_activator_cannot_promise_is_in_the_plan(rig):
    said = rig.deploy("plan", rig.inventory).stdout
    assert "risk: nixos-rebuild arms nothing on the host" in said
    assert "risk: deploy-rs's magic rollback covers no reboot" in said


def test_every_way_converges_and_the_password_is_nowhere(rig):
    events, log = rig.directory / "events.jsonl", rig.directory / "log.jsonl"
    done = rig.deploy("apply", rig.inventory, "--yes", "--json", "--events", events, "--log", log)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["totals"] == {"done": 5}
    commands = {name: [c["command"] for c in m["commands"]] for name, m in rig.machines().items()}
    assert any("--unit=nixos-rebuild-switch-to-configuration" in command for command in commands["rebuilt"])
    assert any("activatable-nixos-system-rs" in command for command in commands["rs"])
    assert any("sudo -k -S" in command and "--unit=nixkube-deploy-boot" in command for command in commands["asks"])
    assert any("--unit=nixkube-deploy-switch" in command for command in commands["cp1"])
    state = [path.read_text() for path in (rig.directory.parent / "state").rglob("*") if path.is_file()]
    seen = [
        done.stdout,
        done.stderr,
        events.read_text(),
        log.read_text(),
        *state,
        *(c for each in commands.values() for c in each),
    ]
    assert not [text for text in seen if rig.environment["LAB_SUDO"] in text]
    again = rig.deploy("apply", rig.inventory, "--yes", "--json")
    assert json.loads(again.stdout)["totals"] == {"unchanged": 5}


def test_plain_hosts_need_no_cluster(tmp_path):
    (tmp_path / "plain.yaml").write_text(PLAIN)
    with a_lab(tmp_path, tmp_path / "plain.yaml") as rig:
        done = rig.deploy("apply", rig.inventory, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        hosts = json.loads(done.stdout)["hosts"]
        assert {host["state"] for host in hosts} == {"done"}
        assert not [s for host in hosts for s in host["steps"] if s["step"] in {"cordon", "drain", "uncordon"}]
        assert rig.deploy("check", rig.inventory).returncode == 0
        status = rig.deploy("status", rig.inventory)
        assert status.returncode == 0
        assert "NODE" not in status.stdout.splitlines()[0].split()
        assert rig.deploy("rollback", rig.inventory, "--yes").returncode == 0
        assert rig.deploy("reboot", rig.inventory, "--all", "--yes").returncode == 0
