from dataclasses import replace

import pytest

from nixkube_deploy.plan.difference import (
    boot_differences,
    in_short,
    short,
    step,
    store_name,
    switch_obstacles,
    unit_differences,
    words,
)
from tests.builders import a_system, store_path


def test_a_store_object_is_named_whatever_file_in_it_is_meant():
    path = store_path("linux-6.12.7")
    assert store_name(path + "/bzImage") == (path[11:43], "linux-6.12.7")
    assert store_name(path) == (path[11:43], "linux-6.12.7")


@pytest.mark.parametrize("path", ["/boot/kernel", "kernel", "/nix/store/short-kernel"])
def test_what_is_no_store_object_keeps_its_last_part(path):
    assert store_name(path)[0] == ""
    assert short(path).endswith("kernel")


def test_a_short_path_keeps_eight_characters_of_the_hash():
    path = store_path("systemd-257.1")
    assert short(path) == f"{path[11:19]}-systemd-257.1"


def test_different_names_are_shown_without_hashes():
    assert step(store_path("linux-6.12.7"), store_path("linux-6.12.8")) == "linux-6.12.7 -> linux-6.12.8"


def test_equal_names_are_told_apart_by_short_hashes():
    old, new = store_path("linux-6.12.7", "1"), store_path("linux-6.12.7", "2")
    assert step(old, new) == f"{old[11:19]}-linux-6.12.7 -> {new[11:19]}-linux-6.12.7"


def test_paths_whose_short_forms_are_equal_are_shown_in_full():
    path = store_path("linux-6.12.7")
    assert step(path + "/bzImage", path + "/Image") == f"{path}/bzImage -> {path}/Image"


def test_an_absent_part_is_none():
    assert step("", store_path("linux-6.12.8")) == "none -> linux-6.12.8"
    assert step(store_path("linux-6.12.8"), "") == "linux-6.12.8 -> none"


def test_texts_differ_word_by_word():
    assert words("quiet a b", "a b splash") == "-quiet +splash"
    assert words("a b", "b a") == "the same words in another order"


def test_a_long_difference_is_cut():
    assert words("", "1 2 3 4 5 6 7") == "+1 +2 +3 +4 +5 and 2 more"


def test_boot_time_parts_are_kernel_initrd_modules_and_parameters():
    old = a_system()
    new = replace(a_system(kernel="6.12.8"), kernel_params="loglevel=4 quiet")
    assert boot_differences(old, new) == (
        "kernel: linux-6.12.7 -> linux-6.12.8",
        "initrd: initrd-linux-6.12.7 -> initrd-linux-6.12.8",
        "kernel modules: linux-6.12.7-modules -> linux-6.12.8-modules",
        "kernel parameters: -lsm=landlock,yama,bpf +quiet",
    )
    assert boot_differences(old, a_system(salt="2")) == ()


def test_systemd_and_inhibitors_stand_in_the_way_of_a_switch():
    old = replace(a_system(), inhibitors="dbus")
    new = replace(a_system(), inhibitors="dbus-broker", systemd=store_path("systemd-258"))
    assert switch_obstacles(old, new) == (
        "systemd: systemd-257.1 -> systemd-258",
        "switch inhibitors: -dbus +dbus-broker",
    )
    assert switch_obstacles(old, old) == ()


def test_units_are_added_changed_and_removed():
    old = replace(a_system(), units={"a.service": "1", "b.service": "1", "same.service": "1"})
    new = replace(a_system(), units={"b.service": "2", "c.service": "1", "same.service": "1", "other.service": "9"})
    units = frozenset({"a.service", "b.service", "c.service", "same.service"})
    assert unit_differences(old, new, units) == (
        "unit a.service removed",
        "unit b.service changed",
        "unit c.service added",
    )


def test_several_differences_are_said_in_one_line():
    assert in_short(()) == ()
    assert in_short(("kernel: a -> b",)) == ("kernel: a -> b",)
    assert in_short(("kernel: a -> b", "initrd: c -> d", "kernel modules: e -> f")) == (
        "kernel: a -> b; also initrd, kernel modules",
    )


def test_another_dbus_implementation_stands_in_the_way_and_a_newer_one_does_not():
    units = "etc/systemd/system"
    old = replace(a_system(), dbus=f"{store_path('dbus-1.14')}/{units}/dbus-daemon.service")
    newer = replace(a_system(), dbus=f"{store_path('dbus-1.16')}/{units}/dbus-daemon.service")
    other = replace(a_system(), dbus=f"{store_path('dbus-broker-36')}/{units}/dbus-broker.service")
    assert switch_obstacles(old, newer) == ()
    assert switch_obstacles(old, other) == ("D-Bus implementation: dbus-daemon.service -> dbus-broker.service",)


def test_another_init_interface_waits_for_the_next_boot():
    old = replace(a_system(), init_interface="")
    new = replace(a_system(), init_interface="systemd 2")
    assert switch_obstacles(old, new) == ("init interface: none -> systemd 2",)


def test_inhibitors_that_both_systems_have_are_compared_one_by_one():
    old = replace(a_system(), inhibitors='{"dbus": "dbus", "gone": "1"}')
    new = replace(a_system(), inhibitors='{"dbus": "broker", "come": "1"}')
    assert switch_obstacles(old, new) == ("switch inhibitor dbus: dbus -> broker",)


def test_a_drop_in_is_part_of_its_unit():
    drop_in = "a.service.d/overrides.conf"
    old = replace(a_system(), units={"a.service": "1", drop_in: "1"})
    new = replace(a_system(), units={"a.service": "1", drop_in: "2"})
    assert unit_differences(old, new, frozenset({"a.service"})) == ("unit a.service: drop-in changed",)
