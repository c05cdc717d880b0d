"""``deploy plan`` and saved plans: what is shown, what a program reads, and when a reviewed plan is refused."""

import json
import re

import pytest

from nixkube_deploy.model.graph_codec import plan_from_plain, plan_to_plain
from tests.cli.fleets import CLUSTER
from tests.cli.terminal import in_a_terminal
from tests.lab.rig import a_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    (folder / "small.yaml").write_text(CLUSTER)
    with a_lab(folder, folder / "small.yaml") as rig:
        yield rig


@pytest.fixture(scope="module")
def saved(rig):
    """A plan of everything, as it was before any test moved the world."""
    path = rig.directory / "plan.json"
    done = rig.deploy("plan", rig.inventory, "-o", path)
    assert done.returncode == 0, done.stderr
    return path


def test_the_plan_is_data_and_the_progress_is_not(rig):
    done = rig.deploy("plan", rig.inventory)
    assert done.returncode == 0, done.stderr
    assert "2 reboot, 1 node-restart" in done.stdout
    assert "wave 1: cp1" in done.stdout
    assert "kernel: linux-6.12.7 -> linux-6.12.8" in done.stdout
    assert "probed 3 of 3 hosts" in done.stderr
    assert "probed" not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_a_planned_change_has_an_exit_code_when_it_is_asked_for(rig):
    assert rig.deploy("plan", rig.inventory, "--detailed-exitcode").returncode == 2


def test_the_json_is_the_plan(rig):
    done = rig.deploy("plan", rig.inventory, "--json")
    plain = json.loads(done.stdout)
    plan = plan_from_plain(plain)
    assert plan_to_plain(plan) == plain
    assert [host.host for host in plan.hosts] == ["cp1", "w1", "w2"]
    assert all(host.wave for host in plan.hosts)


def test_what_changes_inside_the_closures_is_shown_when_it_is_asked_for(rig):
    done = rig.deploy("plan", rig.inventory, "--diff")
    assert done.returncode == 0, done.stderr
    assert "compared closures; asked 3 of 3 hosts what they lack" in done.stderr
    packages = done.stdout[done.stdout.index("\nPackages\n") :]
    assert re.search(r"\n  cp1: closure still \d+ MiB; will travel: \d+ paths, [\d.]+ MiB\n", packages)
    workers = packages[packages.index("\n  w1, w2: ") :]
    assert re.search(r"\n    linux +6\.12\.7 -> 6\.12\.8 ", workers)
    assert re.search(r"\n    k3s +1\.31\.3 -> 1\.31\.4 ", workers)
    assert "rebuilt, same version: etc, system-units, unit-k3s.service" in workers


def test_what_changes_inside_the_closures_is_data_too(rig, tmp_path):
    done = rig.deploy("plan", rig.inventory, "--diff", "--json", "-o", tmp_path / "plan.json")
    plain = json.loads(done.stdout)
    assert json.loads((tmp_path / "plan.json").read_text()) == plain
    assert [shared["hosts"] for shared in plain["differences"]] == [["cp1"], ["w1", "w2"]]
    rows = {row["name"]: row for row in plain["differences"][1]["changes"]["packages"]}
    assert (rows["linux"]["old"], rows["linux"]["new"], rows["linux"]["fate"]) == (["6.12.7"], ["6.12.8"], "changed")
    sizes = plain["hosts"][1]["sizes"]
    assert 0 < sizes["travels"] < sizes["after"]
    assert plan_to_plain(plan_from_plain(plain)) == plain


def test_hosts_are_asked_nothing_more_unless_it_is_asked_for(rig):
    def asked() -> int:
        return sum("check-validity" in deed["command"] for deed in rig.machines()["w1"]["commands"])

    before = asked()
    rig.deploy("plan", rig.inventory)
    assert asked() == before
    rig.deploy("plan", rig.inventory, "--diff")
    assert asked() == before + 1


@pytest.mark.parametrize(("kind", "head"), [("mermaid", "flowchart"), ("dot", "digraph")])
def test_the_graph_is_a_diagram(rig, kind, head):
    done = rig.deploy("plan", rig.inventory, "--graph", kind)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(head)
    assert "w1, w2" in done.stdout
    assert "reboot: cordon, drain, activate, reboot" in done.stdout


def test_only_what_is_selected_is_planned(rig):
    plain = json.loads(rig.deploy("plan", rig.inventory, "--json", "--on", "zone=a&!cp1").stdout)
    assert [host["host"] for host in plain["hosts"]] == ["w1"]


def test_a_host_that_cannot_be_planned_is_named_with_exit_code_3(rig):
    rig.lab("fault", "add", "w2:unreachable")
    try:
        done = rig.deploy("plan", rig.inventory)
    finally:
        rig.lab("fault", "clear")
    assert done.returncode == 3
    assert "1 reboot, 1 node-restart, 1 cannot be planned" in done.stdout
    assert "cannot be planned: w2\n" in done.stdout
    assert "connection refused" in done.stdout


def test_a_flake_that_does_not_evaluate_is_refused_with_its_error(rig):
    rig.lab("fault", "add", "w1:eval-fails=attribute 'k3s' missing")
    try:
        done = rig.deploy("plan", rig.inventory)
    finally:
        rig.lab("fault", "clear")
    assert done.returncode == 3
    assert "attribute 'k3s' missing" in done.stdout


def test_a_saved_plan_is_private_and_says_how_to_run_it(rig, tmp_path):
    done = rig.deploy("plan", rig.inventory, "-o", tmp_path / "plan.json")
    assert done.returncode == 0
    assert f"deploy apply {tmp_path / 'plan.json'}" in done.stderr
    assert (tmp_path / "plan.json").stat().st_mode & 0o077 == 0


def test_a_plan_that_cannot_be_saved_is_said_without_a_traceback(rig, tmp_path):
    done = rig.deploy("plan", rig.inventory, "-o", tmp_path / "nowhere" / "plan.json")
    assert done.returncode == 2
    assert "cannot be saved" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_saved_plan_takes_no_second_thoughts(rig, saved):
    done = rig.deploy("apply", saved, "--yes", "--on", "w1", "--canary", "1")
    assert done.returncode == 2
    assert "--on, --canary" in done.stderr


def test_an_edited_plan_is_refused(rig, saved, tmp_path):
    plain = json.loads(saved.read_text())
    plain["graph"]["tasks"][0]["action"]["closure"] = "/nix/store/00000000000000000000000000000000-another"
    (tmp_path / "plan.json").write_text(json.dumps(plain))
    done = rig.deploy("apply", tmp_path / "plan.json", "--yes")
    assert done.returncode == 2
    assert "was changed after the plan was written" in done.stderr


def test_without_a_terminal_nothing_is_done_unasked(rig, saved):
    for target in (rig.inventory, saved):
        done = rig.deploy("apply", target)
        assert done.returncode == 2
        assert "add --yes" in done.stderr
    assert rig.deploy("runs").stdout.strip() == "No runs yet."


def test_a_no_at_the_question_touches_nothing(rig, saved):
    code, said = in_a_terminal(rig.command("apply", saved), rig.environment, answer="n\n", when="Do this?")
    assert code == 3, said
    assert "2 reboot, 1 node-restart" in said
    assert "not approved; nothing was touched" in said


def test_a_plan_is_refused_when_the_inventory_was_edited(rig, saved):
    before = rig.inventory.read_text()
    rig.inventory.write_text(before + "# one more thought\n")
    try:
        done = rig.deploy("apply", saved, "--yes")
    finally:
        rig.inventory.write_text(before)
    digest = json.loads(saved.read_text())["digest"]
    _refused(done, "inventory failed: the inventory was edited", digest[:12])


def test_a_plan_is_refused_when_the_flake_has_changed(rig, saved):
    file = rig.flake / "hosts" / "w1.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), "kernel": "6.12.9"}))
    try:
        done = rig.deploy("apply", saved, "--yes")
    finally:
        file.write_text(before)
    _refused(done, "flake failed: the flake has changed", json.loads(saved.read_text())["flake"]["revision"])


def test_a_plan_is_refused_when_a_host_can_no_longer_be_drained(rig, saved):
    spec = {"nodeName": "w1", "containers": [{"name": "c", "image": "pause"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stray", "namespace": "default"}, "spec": spec}
    rig.kube("/api/v1/namespaces/default/pods", pod, "POST")
    try:
        done = rig.deploy("apply", saved, "--yes")
    finally:
        rig.kube("/api/v1/namespaces/default/pods/stray?gracePeriodSeconds=0", method="DELETE")
    assert done.returncode == 3, done.stderr
    assert "a host can no longer be drained; nothing was touched" in done.stderr
    assert "pod default/stray on Node w1 may not be removed" in done.stderr
    assert rig.deploy("runs").stdout.strip() == "No runs yet."


def test_a_plan_is_run_exactly_and_then_refused_because_its_hosts_have_moved(rig, saved):
    plain = json.loads(saved.read_text())
    done = rig.deploy("apply", saved, "--yes")
    assert done.returncode == 0, done.stderr
    targets = {host["host"]: host["target"] for host in plain["hosts"]}
    assert {name: machine["current"] for name, machine in rig.machines().items()} == targets
    again = rig.deploy("apply", saved, "--yes")
    _refused(again, "w1 failed: the host runs another system", targets["w1"])
    assert f"expected  {plain['hosts'][1]['current']}" in again.stderr
    assert "the host was rebooted" in again.stderr
    assert rig.deploy("plan", rig.inventory, "--detailed-exitcode").returncode == 0


def _refused(done, *words):
    assert done.returncode == 3, done.stderr
    assert "the world has moved since this plan was made; nothing was touched" in done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stderr.count("expected") == done.stderr.count("seen") >= 1
    assert done.stdout == ""
