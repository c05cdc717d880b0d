"""Hosts that build their own systems, in the lab: a build that fails, its log, sudo, and the command line."""

import json

import pytest

from tests.cli.fleets import PLAIN
from tests.lab.rig import Rig, a_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("building")
    (folder / "plain.yaml").write_text(
        PLAIN.replace("groups: [web]}", "groups: [web], build_on: target}").replace(
            "web3: {address: 10.0.0.3, groups: [web],", "web3: {address: 10.0.0.3, groups: [web], privilege: sudo,"
        )
    )
    with a_lab(folder, folder / "plain.yaml") as rig:
        yield rig


def outcome(rig: Rig, *arguments: str) -> dict:
    done = rig.deploy("apply", rig.inventory, "--yes", "--json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"said": done.stderr, **json.loads(done.stdout)}


def test_a_build_that_fails_shows_its_log_and_touches_nobody(rig):
    rig.configure("web2", kernelParams=["another"])
    rig.lab("fault", "add", "web2:build-fails=the compiler is on fire")
    before = rig.machines()
    done = rig.deploy("apply", rig.inventory, "--yes")
    assert done.returncode == 3, done.stdout + done.stderr
    told = done.stdout + done.stderr
    assert "web2's system was not built on web2: nixos-system-web2" in told
    assert "> the compiler is on fire" in told
    assert "on web2: nix log /nix/store/" in told
    assert {name: row["current"] for name, row in rig.machines().items()} == {
        name: row["current"] for name, row in before.items()
    }


def test_every_host_builds_for_itself_and_converges(rig):
    rig.lab("fault", "clear")
    report = outcome(rig)
    assert report["outcome"] == "converged"
    assert "web2: built 1 derivation" in report["said"]


def test_again_there_is_nothing_to_do(rig):
    report = outcome(rig)
    assert {host["state"] for host in report["hosts"]} == {"unchanged"}
    assert "built 1 derivation" not in report["said"]


def test_the_command_line_says_where_for_one_run(rig):
    rig.configure("web1", kernelParams=["a third"])
    report = outcome(rig, "--build-on", "controller")
    assert "web1: built" not in report["said"]
    assert report["outcome"] == "converged"
