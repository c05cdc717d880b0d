from dataclasses import replace

import pytest

from nixkube_deploy.model.change import Change, ChangeClass
from nixkube_deploy.model.fleet import Distribution
from nixkube_deploy.model.strategy import HostPolicy, RebootPolicy
from nixkube_deploy.plan.classify import classify, foreign, pending_reboot, profile_drifted
from tests.builders import a_fleet, a_host, a_system, closures_for, facts_of, store_path

KERNEL = (
    "kernel: linux-6.12.7 -> linux-6.12.8",
    "initrd: initrd-linux-6.12.7 -> initrd-linux-6.12.8",
    "kernel modules: linux-6.12.7-modules -> linux-6.12.8-modules",
)


def change_to(contents, *, facts=None, reboot=RebootPolicy.AUTO, distribution=Distribution.K3S) -> Change:
    fleet = a_fleet("w1", distribution=distribution)
    closure = replace(closures_for(fleet)["w1"], contents=contents)
    facts = facts or facts_of(a_host("w1"), distribution=distribution)
    return classify(facts, closure, distribution, HostPolicy(reboot=reboot))


def booted(kernel):
    facts = facts_of(a_host("w1"))
    return replace(facts, booted=a_system("w1", kernel=kernel))


def test_the_same_system_is_unchanged():
    assert change_to(a_system("w1")) == Change(kind=ChangeClass.UNCHANGED)


def test_a_system_with_the_same_kernel_and_units_is_switched_live():
    change = change_to(a_system("w1", salt="2"))
    assert change == Change(kind=ChangeClass.LIVE, reasons=("no kernel, systemd or node unit changes",))


def test_a_changed_node_unit_restarts_the_node():
    change = change_to(a_system("w1", kubernetes="1.31.5"))
    assert change == Change(kind=ChangeClass.NODE_RESTART, reasons=("unit k3s.service changed",))


def test_without_kubernetes_there_are_no_node_units():
    change = change_to(a_system("w1", kubernetes="1.31.5"), distribution=Distribution.NONE)
    assert change.kind is ChangeClass.LIVE


def test_a_new_kernel_reboots():
    assert change_to(a_system("w1", kernel="6.12.8")) == Change(kind=ChangeClass.REBOOT, reasons=KERNEL)


def test_units_are_reasons_of_a_reboot_too():
    change = change_to(a_system("w1", kernel="6.12.8", kubernetes="1.31.5"))
    assert change.reasons == (*KERNEL, "unit k3s.service changed")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("systemd", store_path("systemd-258"), "systemd: systemd-257.1 -> systemd-258"),
        ("inhibitors", "dbus-broker", "switch inhibitors: +dbus-broker"),
        ("kernel_params", "loglevel=7", "kernel parameters: -loglevel=4 -lsm=landlock,yama,bpf +loglevel=7"),
    ],
)
def test_systemd_inhibitors_and_parameters_reboot(field, value, reason):
    change = change_to(a_system("w1", **{field: value}))
    assert change == Change(kind=ChangeClass.REBOOT, reasons=(reason,))


def test_a_kernel_that_was_switched_to_but_never_booted_is_a_pending_reboot():
    change = change_to(a_system("w1"), facts=booted("6.12.1"))
    assert change.kind is ChangeClass.REBOOT
    assert change.reasons == (
        "running system was never booted: kernel: linux-6.12.1 -> linux-6.12.7; also initrd, kernel modules",
    )


def test_the_booted_kernel_is_what_a_new_system_is_compared_with():
    facts = replace(facts_of(a_host("w1")), booted=a_system("w1", kernel="6.12.8"))
    assert change_to(a_system("w1", kernel="6.12.8"), facts=facts).kind is ChangeClass.LIVE
    assert change_to(a_system("w1", salt="2"), facts=facts).kind is ChangeClass.REBOOT


def test_where_the_booted_system_is_unknown_the_running_one_stands_for_it():
    facts = replace(facts_of(a_host("w1")), booted=None)
    assert pending_reboot(facts) == ()
    assert change_to(a_system("w1", kernel="6.12.8"), facts=facts).reasons == KERNEL


def test_reboot_never_leaves_what_the_switch_alone_would_be():
    change = change_to(a_system("w1", kernel="6.12.8"), reboot=RebootPolicy.NEVER)
    assert change.kind is ChangeClass.LIVE
    never = "(not booted: the strategy says reboot: never)"
    kernel = f"kernel: linux-6.12.7 -> linux-6.12.8; also initrd, kernel modules {never}"
    assert change.reasons == ("no node unit changes", kernel)
    change = change_to(a_system("w1", kernel="6.12.8", kubernetes="1.31.5"), reboot=RebootPolicy.NEVER)
    assert change.kind is ChangeClass.NODE_RESTART
    assert change.reasons[0] == "unit k3s.service changed"


def test_reboot_never_leaves_a_pending_reboot_pending_and_says_so():
    change = change_to(a_system("w1"), facts=booted("6.12.1"), reboot=RebootPolicy.NEVER)
    assert change.kind is ChangeClass.UNCHANGED
    assert change.reasons[0].endswith("also initrd, kernel modules (not booted: the strategy says reboot: never)")


def test_reboot_always_reboots_for_any_change_and_for_none_not():
    change = change_to(a_system("w1", kubernetes="1.31.5"), reboot=RebootPolicy.ALWAYS)
    assert change.kind is ChangeClass.REBOOT
    assert change.reasons == ("the strategy says reboot: always", "unit k3s.service changed")
    assert change_to(a_system("w1"), reboot=RebootPolicy.ALWAYS).kind is ChangeClass.UNCHANGED


def test_a_profile_that_would_boot_another_system_is_set_right():
    facts = replace(facts_of(a_host("w1")), profile=store_path("nixos-system-w1-24.11"))
    change = change_to(a_system("w1"), facts=facts)
    assert change.kind is ChangeClass.LIVE
    assert change.reasons[0].startswith("the next boot would start ")
    assert change.reasons[0].endswith("-nixos-system-w1-24.11 instead")


def test_a_deploy_rs_profile_around_the_running_system_is_no_drift():
    facts = replace(facts_of(a_host("w1")), profile=store_path("activatable-nixos-system-w1-25.11"))
    assert not profile_drifted(facts)
    assert not profile_drifted(replace(facts, profile=None))
    assert not profile_drifted(facts_of(a_host("w1"), bare=True))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"os_id": "debian"}, "does not run NixOS (debian)"),
        ({"os_id": "nixos", "variant": "installer"}, "runs a NixOS installer"),
        ({"current": a_system("w1")}, "runs NixOS, and is wiped because --yes-wipe names it"),
    ],
)
def test_a_machine_that_is_to_be_installed_says_what_it_is_now(fields, reason):
    facts = replace(facts_of(a_host("w1"), bare=True), **fields)
    assert foreign(facts) == Change(kind=ChangeClass.INSTALL, reasons=(reason,))


def test_a_bare_machine_and_an_installer_are_installed():
    bare = facts_of(a_host("w1"), bare=True)
    assert change_to(a_system("w1"), facts=bare).kind is ChangeClass.INSTALL
    installer = replace(facts_of(a_host("w1")), variant="installer")
    assert change_to(a_system("w1"), facts=installer).kind is ChangeClass.INSTALL
