"""What a person who types something wrong is told: one clear error, exit 2, never a traceback."""

import json
import os
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.lab.rig import ROOT, run

BAD = {
    "empty": "",
    "tabs": "cluster:\n\tname: x\n",
    "duplicate key": "cluster: {name: x}\ncluster: {name: y}\n",
    "unknown key": "cluster: {name: x, distributon: k3s}\nflake: .\nhosts: {}\n",
    "wrong type": "cluster: [a]\nflake: .\nhosts: {}\n",
    "bomb": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
    "cycle": "cluster: &c\n  name: *c\n",
    "duplicate address": "cluster: {name: x}\nflake: .\ngroups: {g: {role: worker}}\n"
    "hosts:\n  a: {address: 10.0.0.1, groups: [g]}\n  b: {address: 10.0.0.1, groups: [g]}\n",
    "no group": "cluster: {name: x}\nflake: .\ngroups: {g: {role: worker}}\nhosts: {a: {address: 10.0.0.1}}\n",
    "unknown group": "cluster: {name: x}\nflake: .\ngroups: {g: {role: worker}}\n"
    "hosts: {a: {address: 10.0.0.1, groups: [h]}}\n",
    "plain secret": "cluster: {name: x}\nflake: .\ngroups: {g: {role: worker}}\n"
    "hosts: {a: {address: 10.0.0.1, groups: [g], privilege: sudo, privilege_password: hunter2}}\n",
}


@pytest.fixture
def deploy(tmp_path):
    environment = {**os.environ, "NIXKUBE_DEPLOY_STATE": str(tmp_path / "state"), "NO_COLOR": "1"}

    def call(*arguments: str | Path):
        import sys

        return run([sys.executable, "-m", "nixkube_deploy", *map(str, arguments)], environment, check=False)

    return call


@pytest.mark.parametrize("kind", BAD)
def test_bad_inventories_give_one_clear_error(deploy, tmp_path, kind):
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(BAD[kind])
    done = deploy("apply", inventory, "--yes")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {inventory}:"), done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    assert done.stdout == ""


def test_an_inventory_that_is_not_text_is_refused(deploy, tmp_path):
    inventory = tmp_path / "inventory.yaml"
    inventory.write_bytes(b"\xff\xfe\x00cluster")
    done = deploy("check", inventory, "--static")
    assert done.returncode == 2
    assert "UTF-8" in done.stderr


def test_an_inventory_of_ten_megabytes_is_refused_at_once(deploy, tmp_path):
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text("# " + "x" * 11_000_000)
    done = deploy("check", inventory, "--static")
    assert done.returncode == 2
    assert "larger than" in done.stderr


def test_a_missing_inventory_is_named(deploy, tmp_path):
    done = deploy("plan", tmp_path / "nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistyped_command_is_guessed(deploy):
    done = deploy("aply", "x.yaml")
    assert done.returncode == 2
    assert "Did you mean 'apply'?" in done.stderr


def test_a_mistyped_selector_is_guessed(deploy):
    done = deploy("check", ROOT / "inventories" / "lab.yaml", "--static", "--on", "@worker")
    assert done.returncode == 2
    assert "workers" in done.stderr


def test_a_bad_limit_is_refused(deploy):
    done = deploy("plan", ROOT / "inventories" / "lab.yaml", "--max-unavailable", "a few")
    assert done.returncode == 2
    assert "--max-unavailable" in done.stderr


def test_nothing_to_resume_is_said(deploy):
    done = deploy("resume")
    assert done.returncode == 2
    assert "no run was cut off" in done.stderr


def test_something_else_than_a_plan_is_refused(deploy, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text('{"fingerprint": "x", "version": 99}')
    done = deploy("apply", plan, "--yes")
    assert done.returncode == 2
    assert "not a usable plan" in done.stderr


@pytest.mark.parametrize("name", ["homelab.yaml", "lab.yaml", "fleet.yaml"])
def test_the_example_inventories_fit_the_schema(deploy, name):
    schema = json.loads(deploy("schema").stdout)
    inventory = yaml.safe_load((ROOT / "inventories" / name).read_text())
    jsonschema.Draft202012Validator(schema).validate(inventory)
    assert deploy("check", ROOT / "inventories" / name, "--static").returncode == 0


def test_every_command_has_help_with_examples(deploy):
    from nixkube_deploy.cli.root import COMMANDS

    for name in COMMANDS:
        if name == "lab":
            continue
        done = deploy(name, "--help")
        assert done.returncode == 0, done.stderr
        assert f"deploy {name}" in done.stdout.split("Options:")[0].split("\n", 1)[1], name
