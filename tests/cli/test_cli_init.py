"""``deploy init x && cd x && deploy check``, and a rehearsal of what was written, on a machine without network."""

import json
import os
import subprocess
import sys

import pytest

from tests.lab.rig import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture
def deploy(tmp_path):
    """``deploy`` as somebody types it who has no nix and no SSH key."""
    (tmp_path / "home").mkdir()
    environment = {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "NIXKUBE_DEPLOY_STATE": str(tmp_path / "state"),
        "NIXKUBE_NIX": str(tmp_path / "nix"),
        "NO_COLOR": "1",
        "PYTHONPATH": str(ROOT),
    }

    def typed(*words, cwd=tmp_path, **changed):
        return subprocess.run(
            [sys.executable, "-m", "nixkube_deploy", *words],
            cwd=cwd,
            env={**environment, **changed},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return typed


def test_a_new_fleet_is_checked_offline_and_what_was_not_looked_at_is_named(deploy, tmp_path):
    made = deploy("init", "x")
    assert made.returncode == 0, made.stderr
    assert "cluster.nix" in made.stdout
    assert "no SSH public key was found" in made.stdout
    for line in ("cd x", "git init", "git add .", "nix flake lock", "deploy check", "deploy rehearse"):
        assert f"\n  {line}" in made.stdout

    done = deploy("check", cwd=tmp_path / "x")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inventory  reads        ok           3 hosts" in done.stdout
    assert "flake, evaluates: no nix: nix is not installed on this machine" in done.stdout
    assert "cluster, API answers: no control-plane host could be asked" in done.stdout
    for host in ("cp1", "w1", "pi1"):
        assert f"{host}, reachable: 203.0.113." in done.stdout
    assert done.stdout.endswith("1 of 6 checks passed; 5 could not be made from here.\n")
    assert deploy("check", "--strict", cwd=tmp_path / "x").returncode == 3

    rows = json.loads(deploy("check", "--json", cwd=tmp_path / "x").stdout)
    assert [row["check"] for row in rows if row["unchecked"]] == ["evaluates", "API answers", *["reachable"] * 3]
    assert not [row for row in rows if row["failure"]]


def test_a_new_fleet_can_be_rehearsed_at_once(deploy, tmp_path):
    hosts = ("--control-plane", "cp1=10.0.0.1", "--worker", "pi1=10.0.0.2,raspberry-pi-4")
    assert deploy("init", "x", "--distribution", "kubernetes", *hosts).returncode == 0
    done = deploy("rehearse", cwd=tmp_path / "x")
    assert done.returncode == 0, done.stderr
    assert "2 hosts: 2 done." in done.stderr + done.stdout


def test_a_host_that_could_be_asked_and_says_no_is_a_failure(deploy, tmp_path):
    assert deploy("init", "x", "--control-plane", "cp1=127.0.0.1").returncode == 0
    inventory = tmp_path / "x/inventory.yaml"
    inventory.write_text(inventory.read_text().replace("user: deploy", "user: deploy, port: 1"))
    done = deploy("check", cwd=tmp_path / "x")
    assert done.returncode == 3
    assert "cp1: reachable failed" in done.stdout
    assert "cluster: API answers failed" in done.stdout


def test_no_inventory_named_and_none_here(deploy):
    for words in (["check"], ["plan"], ["apply"], ["rehearse"], ["status"], ["reboot"], ["rollback"]):
        done = deploy(*words)
        assert done.returncode == 2
        assert "there is no inventory.yaml here (deploy init DIR makes one)" in done.stderr, words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--control-plane", "cp1"], "--control-plane cp1: write NAME=ADDRESS"),
        (["--worker", "w1=10.0.0.1"], "a cluster needs a control plane"),
        (["--control-plane", "cp1=10.0.0.1,amiga"], "there is no hardware 'amiga'"),
        (["--control-plane", "cp1=10.0.0.1", "--worker", "cp1=10.0.0.2"], "cp1"),
        (["--control-plane", "cp1=ten o'clock"], "the inventory would be wrong"),
        (["--name", "a b"], "the inventory would be wrong"),
    ],
)
def test_what_cannot_be_a_fleet_is_refused_and_leaves_nothing(deploy, tmp_path, words, said):
    done = deploy("init", "x", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()
