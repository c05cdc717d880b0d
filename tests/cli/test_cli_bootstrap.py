"""``deploy bootstrap``: a bare machine is installed, joins the cluster and is from then on a host like any other."""

import json

import pytest

from tests.cli.fleets import CLUSTER
from tests.lab.rig import a_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    (folder / "small.yaml").write_text(CLUSTER)
    with a_lab(folder, folder / "small.yaml", "--bare", "w2") as rig:
        yield rig


def test_apply_leaves_a_bare_machine_alone_and_says_how_to_install_it(rig):
    done = rig.deploy("apply", rig.inventory, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    hosts = {host["host"]: host for host in json.loads(done.stdout)["hosts"]}
    assert hosts["cp1"]["state"] == hosts["w1"]["state"] == "done"
    assert f"deploy bootstrap {rig.inventory} --on w2" in done.stderr
    assert rig.machines()["w2"]["current"] is None


def test_bootstrapping_wants_to_be_told_which_machines(rig):
    done = rig.deploy("bootstrap", rig.inventory, "--yes")
    assert done.returncode == 2
    assert "--on" in done.stderr


def test_the_wrong_machine_is_not_wiped(rig):
    before = rig.inventory.read_text()
    rig.inventory.write_text(before.replace("      disks:", "      expect_serial: ANOTHER\n      disks:"))
    try:
        done = rig.deploy("bootstrap", rig.inventory, "--on", "w2", "--yes")
    finally:
        rig.inventory.write_text(before)
    assert done.returncode == 3, done.stderr
    assert "w2 is not wiped: its serial number is not the expected one" in done.stderr
    assert "expected  ANOTHER" in done.stderr
    assert "--yes-wipe w2" in done.stderr
    assert rig.machines()["w2"]["current"] is None


def test_a_machine_whose_disks_nobody_named_is_not_wiped(rig):
    before = rig.inventory.read_text()
    start = before.index("    bootstrap:")
    end = before.index("    ssh:", start)
    rig.inventory.write_text(before[:start] + before[end:])
    try:
        done = rig.deploy("bootstrap", rig.inventory, "--on", "w2", "--yes-wipe", "w2", "--yes")
    finally:
        rig.inventory.write_text(before)
    assert done.returncode == 3, done.stderr
    assert "the inventory does not say which disks may be" in done.stderr


def test_a_bare_machine_is_installed_and_joins(rig):
    done = rig.deploy("bootstrap", rig.inventory, "--on", "w2", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    (host,) = json.loads(done.stdout)["hosts"]
    assert (host["host"], host["change"], host["state"]) == ("w2", "install", "done")
    assert rig.machines()["w2"]["node"]["ready"]
    assert "w2" in rig.deploy("status", rig.inventory).stdout
    assert rig.deploy("status", rig.inventory).returncode == 0


def test_an_installed_machine_is_a_host_like_any_other(rig):
    again = rig.deploy("bootstrap", rig.inventory, "--on", "w2", "--yes", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["totals"] == {"unchanged": 1}
    every = rig.deploy("apply", rig.inventory, "--yes", "--json")
    assert json.loads(every.stdout)["totals"] == {"unchanged": 3}


def test_a_member_of_the_cluster_is_not_wiped_unless_that_is_said_by_name(rig):
    boots = rig.machines()["w2"]["boot_id"]
    assert rig.deploy("bootstrap", rig.inventory, "--on", "w2", "--yes", "--yes-wipe", "w1").returncode == 0
    assert rig.machines()["w2"]["boot_id"] == boots
