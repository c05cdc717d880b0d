from dataclasses import replace

import pytest

from nixkube_deploy.model.action import InstallNixos, InstallPhase
from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import BootstrapSettings, HardwareReport, InstallDeadlines
from nixkube_deploy.model.secret import SecretFromEnv
from nixkube_deploy.plan.outline import chains
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_flake, a_fleet, closures_for, facts_for, with_hosts

DISKS = BootstrapSettings(disks=("/dev/disk/by-id/nvme-A",), expect_serial="SN-w1")
BOOTSTRAP = Choices(bootstrap=True)
UNVERIFIED = "nixos-anywhere verifies no host key: until the first boot, which is verified, the network is trusted"


def one(bootstrap=DISKS):
    return with_hosts(a_fleet("cp1 | w1"), "w1", bootstrap=bootstrap)


def plan_of(fleet, *, choices=BOOTSTRAP, bare="w1", facts=None, closures=None):
    found = facts_for(fleet, bare=bare)
    if facts is not None:
        found["w1"] = replace(found["w1"], **facts)
    built = closures or closures_for(fleet, changed=f"{bare}=install")
    return rollout(fleet, Prepared(flake=a_flake(), facts=found, closures=built), choices)


def line(plan, host="w1"):
    return next(each for each in plan.hosts if each.host == host)


def refusal(plan):
    problem = line(plan).problem
    assert not plan.changes_anything
    assert problem.kind is FailureKind.WIPE_GUARD
    return problem


def test_without_being_asked_to_a_bare_machine_is_skipped_with_what_to_type():
    plan = plan_of(one(), choices=Choices())
    assert line(plan).change.kind is ChangeClass.INSTALL
    assert line(plan).skipped == (
        "not installed without being asked to: deploy bootstrap /etc/fleet/inventory.yaml --on w1"
    )
    assert not plan.changes_anything


def test_an_install_goes_through_every_phase_then_proves_and_gates_the_new_host():
    plan = plan_of(one())
    assert chains(plan)["w1"] == (
        "install-kexec", "install-disko", "install-install", "install-reboot", "prove", "gate", "soak",
    )  # fmt: skip
    closure = closures_for(one(), changed="w1=install")["w1"]
    assert plan.graph["w1/install-disko"].action == InstallNixos(
        host="w1",
        phase=InstallPhase.DISKO,
        closure=closure.out,
        disko=closure.disko,
        boot_id=facts_for(one(), bare="w1")["w1"].boot_id,
        serial="SN-w1",
    )
    assert plan.graph["w1/gate"].action.expect_node is True
    assert plan.graph["w1/gate"].action.rebooted_from == facts_for(one(), bare="w1")["w1"].boot_id
    assert plan.graph["w1/prove"].retry.attempts > 10, "nixos-anywhere does not wait for the new system"
    assert plan.graph.sections["w1"].exits == {"w1/soak"}


def test_a_machine_that_joins_is_in_no_group_s_budget():
    plan = plan_of(with_hosts(a_fleet("cp1 | w1..w4"), "w1", bootstrap=DISKS))
    assert plan.graph.rules.budgets == ()
    assert plan.graph.rules.canaries == {"w1"}


def test_what_is_wiped_is_a_risk():
    assert line(plan_of(one())).risks == ("wipes /dev/disk/by-id/nvme-A", UNVERIFIED)
    unproven = plan_of(one(BootstrapSettings(disks=("/dev/sda", "/dev/sdb"))))
    assert line(unproven).risks == (
        "wipes /dev/sda, /dev/sdb",
        UNVERIFIED,
        "only its address says that this is the right machine: bootstrap.expect_serial would prove it",
    )


def test_a_machine_that_runs_nixos_is_switched_not_installed():
    plan = plan_of(one(), bare="", closures=closures_for(one(), changed="w1=live"))
    assert line(plan).change.kind is ChangeClass.LIVE


def test_an_installer_is_a_bare_machine():
    plan = plan_of(
        one(), bare="", facts={"variant": "installer", "node": None}, closures=closures_for(one(), changed="w1=install")
    )
    assert line(plan).change.reasons == ("runs a NixOS installer",)
    assert "w1/install-kexec" in plan.graph


@pytest.mark.parametrize("settings", [None, BootstrapSettings()])
def test_a_machine_whose_disks_nobody_named_is_not_wiped(settings):
    problem = refusal(plan_of(one(settings)))
    assert problem.message == "w1 is not wiped: the inventory does not say which disks may be"
    assert problem.next == "hosts.w1.bootstrap: {disks: [/dev/disk/by-id/...]}"


def test_a_machine_with_another_serial_number_is_not_wiped():
    problem = refusal(plan_of(one(), facts={"serial": "SN-other"}))
    assert problem.message == "w1 is not wiped: its serial number is not the expected one"
    assert (problem.expected, problem.seen) == ("SN-w1", "SN-other")
    assert problem.next == "check that w1.lan is the right machine; --yes-wipe w1 overrides this"


def test_a_serial_number_that_cannot_be_read_proves_nothing():
    problem = refusal(plan_of(one(), facts={"serial": ""}))
    assert problem.message == "w1 is not wiped: its serial number could not be read"


def test_a_machine_with_another_machine_id_is_not_wiped():
    problem = refusal(plan_of(one(replace(DISKS, expect_machine_id="abc"))))
    assert problem.message == "w1 is not wiped: its machine-id is not the expected one"


def test_a_member_of_the_cluster_is_not_wiped():
    node = facts_for(one())["w1"].node
    problem = refusal(plan_of(one(), facts={"node": node}))
    assert problem.message == "w1 is not wiped: it is already a member of the cluster, as Node w1"


def test_a_configuration_without_disko_cannot_be_installed():
    plan = plan_of(one(), closures=closures_for(one()))
    assert line(plan).problem.kind is FailureKind.INSTALL
    assert line(plan).problem.message == "w1 cannot be installed: its configuration has no disko script"


def test_yes_wipe_overrides_who_it_is_but_not_what_is_missing():
    agreed = Choices(bootstrap=True, yes_wipe=frozenset({"w1"}))
    assert "w1/install-kexec" in plan_of(one(), facts={"serial": "SN-other"}, choices=agreed).graph
    refusal(plan_of(one(None), choices=agreed))


def test_a_serving_member_that_is_to_be_wiped_is_drained_first_and_counts():
    agreed = Choices(bootstrap=True, yes_wipe=frozenset({"w1"}))
    fleet = with_hosts(a_fleet("cp1 | w1 w2"), "w1", bootstrap=DISKS)
    plan = plan_of(fleet, bare="", closures=closures_for(fleet, changed="w1=install"), choices=agreed)
    assert chains(plan)["w1"] == (
        "cordon", "drain", "install-kexec", "install-disko", "install-install", "install-reboot",
        "prove", "gate", "uncordon", "soak", "undrain",
    )  # fmt: skip
    assert line(plan).change.reasons == ("runs NixOS, and is wiped because --yes-wipe names it",)
    assert "the machine runs NixOS now; what is on its disks is lost" in line(plan).risks
    assert [budget.members for budget in plan.graph.rules.budgets] == [{"w1", "w2"}]


def test_yes_wipe_means_nothing_without_bootstrap():
    plan = plan_of(one(), bare="", choices=Choices(yes_wipe=frozenset({"w1"})), closures=closures_for(one()))
    assert line(plan).change.kind is ChangeClass.UNCHANGED


def test_a_host_key_that_the_inventory_pins_is_another_one_afterwards():
    pinned = replace(one(), hosts={n: replace(h, ssh=replace(h.ssh, host_key="k")) for n, h in one().hosts.items()})
    changes = "the host key that the inventory pins changes, unless extra_files brings it along"
    assert changes in line(plan_of(pinned)).risks
    given = with_hosts(pinned, "w1", bootstrap=replace(DISKS, host_key=SecretFromEnv(env="KEY")))
    assert changes not in line(plan_of(given)).risks


def test_a_machine_without_the_disk_that_may_be_wiped_is_refused_whatever_was_agreed():
    agreed = Choices(bootstrap=True, yes_wipe=frozenset({"w1"}))
    facts = {"missing_disks": DISKS.disks, "disks": ("/dev/disk/by-id/nvme-B",)}
    problem = refusal(plan_of(one(), facts=facts, choices=agreed))
    assert problem.message == "w1 is not wiped: it has no /dev/disk/by-id/nvme-A"
    assert problem.seen == "/dev/disk/by-id/nvme-B"
    assert refusal(plan_of(one(), facts={"missing_disks": DISKS.disks})).seen == "no disk with a stable name"


def test_a_machine_with_the_name_of_another_machine_s_node_is_not_wiped():
    problem = refusal(plan_of(one(), facts={"namesake": "w1"}))
    assert problem.message == "w1 is not wiped: the cluster has a Node w1 that is another machine"
    assert problem.next == "if that machine is gone: kubectl delete node w1; --yes-wipe w1 overrides this"


def test_bootstrap_switches_nothing():
    only = Choices(bootstrap=True, only_install=True)
    closures = closures_for(one(), changed="w1=live")
    problem = line(plan_of(one(), bare="", choices=only, closures=closures)).problem
    assert problem.kind is FailureKind.WIPE_GUARD
    assert problem.message == "w1 is not wiped: it already runs NixOS"
    assert "deploy apply" in problem.next
    there = plan_of(one(), bare="", choices=only, closures=closures_for(one()))
    assert line(there).change.kind is ChangeClass.UNCHANGED
    agreed = replace(only, yes_wipe=frozenset({"w1"}))
    closures = closures_for(one(), changed="w1=install")
    facts = {"node": None}
    assert "w1/install-disko" in plan_of(one(), bare="", choices=agreed, closures=closures, facts=facts).graph


def test_a_hardware_report_is_made_before_the_disks_are_touched():
    settings = replace(DISKS, hardware_report=HardwareReport(path="/flake/w1.json"))
    assert chains(plan_of(one(settings)))["w1"][:3] == ("install-kexec", "install-report", "install-disko")


def test_each_phase_has_the_inventory_s_deadline_and_room_to_report_it():
    settings = replace(DISKS, deadlines=InstallDeadlines(disko=10, reboot=20, boot=30))
    graph = plan_of(one(settings)).graph
    assert graph["w1/install-disko"].timeout == 3 * 10 + 60
    assert graph["w1/install-reboot"].timeout == 3 * 20 + 30 + 60
