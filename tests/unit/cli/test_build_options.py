"""How and where systems are built, said on the command line: it changes the inventory's settings for one run."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from nixkube_deploy.app.request import Overrides, read_target
from nixkube_deploy.cli.options import make_request
from nixkube_deploy.cli.root import root
from nixkube_deploy.model.building import BuildOn, BuildSettings
from nixkube_deploy.model.names import HostName

INVENTORY = """
cluster: {name: c, distribution: none}
flake: .
build: {max_jobs: 2, builders: "ssh://b", options: {sandbox: "true", timeout: "60"}}
groups:
  workers: {}
hosts:
  w1: {groups: [workers], address: 10.0.0.1}
  w2: {groups: [workers], address: 10.0.0.2, build_on: target}
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return path


def fleet(inventory: Path, **options: object):
    return read_target(make_request(inventory, **options)).fleet


def test_without_options_the_inventory_decides(inventory):
    found = fleet(inventory)
    assert found.build == BuildSettings(max_jobs=2, builders="ssh://b", options={"sandbox": "true", "timeout": "60"})
    assert [host.build_on for host in found.hosts.values()] == [BuildOn.CONTROLLER, BuildOn.TARGET]


def test_an_option_wins_and_other_nix_settings_are_added_up(inventory):
    found = fleet(inventory, max_jobs=0, cores=4, builders="", nix_options=(("timeout", "9"), ("keep-failed", "true")))
    assert found.build == BuildSettings(
        max_jobs=0, cores=4, builders="", options={"sandbox": "true", "timeout": "9", "keep-failed": "true"}
    )


@pytest.mark.parametrize("where", list(BuildOn))
def test_build_on_is_for_every_host_of_the_run(inventory, where):
    found = fleet(inventory, build_on=where.value)
    assert {host.build_on for host in found.hosts.values()} == {where}
    assert found.hosts[HostName("w1")].build_on is where


def test_nothing_said_is_nothing_overridden(inventory):
    assert make_request(inventory).overrides == Overrides()


@pytest.mark.parametrize("command", ["plan", "apply", "bootstrap"])
def test_every_command_that_builds_takes_them(command):
    said = CliRunner().invoke(root, [command, "--help"]).output
    for option in ("--build-on", "-j, --max-jobs", "--cores", "--builders", "--option"):
        assert option in said


@pytest.mark.parametrize("words", [["-j", "-1"], ["--build-on", "moon"], ["--option", "alone"]])
def test_what_makes_no_sense_is_refused(inventory, words):
    assert CliRunner().invoke(root, ["plan", str(inventory), *words]).exit_code == 2
