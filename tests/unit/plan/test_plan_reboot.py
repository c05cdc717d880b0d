from dataclasses import replace

from nixkube_deploy.model.action import RebootHost, SwitchMode
from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.plan.outline import chains
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.reboot import reboot
from tests.builders import a_failure, a_flake, a_fleet, a_system, facts_for, names, store_path


def plan_of(fleet, hosts, *, edit=None, bare="", problems=None, choices=None):
    facts = facts_for(fleet, bare=bare)
    for host, fields in (edit or {}).items():
        facts[host] = replace(facts[host], **fields)
    prepared = Prepared(flake=a_flake(), facts=facts, problems=problems or {})
    return reboot(fleet, prepared, frozenset(names(hosts)), choices or Choices())


def line(plan, host="w1"):
    return next(each for each in plan.hosts if each.host == host)


def test_a_reboot_goes_into_the_system_that_runs():
    fleet = a_fleet("w1 w2")
    facts = facts_for(fleet)["w1"]
    plan = plan_of(fleet, "w1")
    assert chains(plan)["w1"] == ("cordon", "drain", "reboot", "prove", "gate", "uncordon", "soak", "undrain")
    assert plan.graph["w1/reboot"].action == RebootHost(host="w1", closure=facts.current.path, boot_id=facts.boot_id)
    assert line(plan).change.reasons == ("a reboot was asked for",)
    assert line(plan, "w2").change.kind is ChangeClass.UNCHANGED


def test_a_reboot_that_changes_nothing_has_nothing_to_go_back_to():
    plan = plan_of(a_fleet("w1"), "w1")
    assert line(plan).risks == (
        "never taken back automatically: the system stays what it is, there is no other to go back to",
    )


def test_a_pending_kernel_is_the_reason_and_the_booted_system_the_way_back():
    booted = a_system("w1", kernel="6.12.1")
    plan = plan_of(a_fleet("w1"), "w1", edit={"w1": {"booted": booted}})
    assert line(plan).change.reasons[0].startswith("running system was never booted: kernel: linux-6.12.1")
    assert plan.graph["w1/rollback"].action.way_back.system == booted.path


def test_a_system_that_was_made_the_next_boots_is_what_a_reboot_brings():
    new = store_path("nixos-system-w1-26.05")
    plan = plan_of(a_fleet("w1"), "w1", edit={"w1": {"profile": new}})
    old = facts_for(a_fleet("w1"))["w1"].current.path
    assert plan.graph["w1/activate"].action.mode is SwitchMode.BOOT
    assert plan.graph["w1/reboot"].action.closure == plan.graph["w1/prove"].action.closure == new
    assert plan.graph["w1/rollback"].action.way_back.system == old
    assert line(plan).change.reasons[0].endswith("-nixos-system-w1-26.05 is the next boot's system")


def test_a_specialisation_ends_with_a_reboot_and_the_plan_says_so():
    top, inner = store_path("nixos-system-w1-top"), facts_for(a_fleet("w1"))["w1"].current.path
    plan = plan_of(a_fleet("w1"), "w1", edit={"w1": {"profile": top, "specialisations": (inner,)}})
    assert plan.graph["w1/prove"].action.closure == top
    assert plan.graph["w1/rollback"].action.way_back.profile == top
    assert "deploy apply brings it back" in line(plan).risks[0]


def test_other_machines_and_silent_hosts_are_listed():
    plan = plan_of(a_fleet("w1 w2"), "w1 w2", bare="w1", problems={"w2": a_failure()})
    assert line(plan).skipped == "does not run NixOS"
    assert line(plan, "w2").problem == a_failure()


def test_a_reboot_can_leave_out_the_drain():
    assert "w1/drain" not in plan_of(a_fleet("w1"), "w1", choices=Choices(no_drain=True)).graph
