"""The state machine of one simulated NixOS host: profile, boot loader, power, plain data."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixkube_deploy.lab.machine import Deed, Machine, machine_from_plain
from nixkube_deploy.lab.units import Timer, Unit, missing_properties

A, B, C = (f"/nix/store/{letter * 32}-nixos-system-w1-25.11" for letter in "abc")


def a_machine(**fields):
    given_fields = {
        "name": "w1",
        "hostname": "w1",
        "port": 2022,
        "architecture": "x86_64-linux",
        "machine_id": "0" * 32,
        "boot_id": "first",
        "serial": "LAB-W1",
    }
    machine = Machine(**{**given_fields, **fields})
    machine.set_profile(A, 1.0)
    machine.install_loader((A,))
    machine.current = machine.booted = A
    return machine


def test_setting_the_profile_adds_a_generation():
    machine = a_machine()
    assert machine.set_profile(B, 2.0) == 2
    assert machine.profile_system == B
    assert [generation.system for generation in machine.generations.values()] == [A, B]


def test_setting_the_newest_system_again_adds_none():
    machine = a_machine()
    assert machine.set_profile(A, 2.0) == 1
    assert len(machine.generations) == 1


def test_going_back_to_an_older_system_is_a_new_generation():
    machine = a_machine()
    machine.set_profile(B, 2.0)
    assert machine.set_profile(A, 3.0) == 3


def test_a_rollback_points_at_the_generation_before():
    machine = a_machine()
    machine.set_profile(B, 2.0)
    assert machine.previous_generation() == 1
    assert machine.switch_generation(1)
    assert machine.profile_system == A
    assert machine.previous_generation() is None
    assert not machine.switch_generation(9)


def test_the_boot_loader_learns_of_a_generation_only_when_it_is_installed():
    machine = a_machine()
    machine.set_profile(B, 2.0)
    assert machine.loader.entries == [1]
    assert machine.take_boot_entry() == A
    machine.install_loader((B,))
    assert machine.loader.entries == [1, 2]
    assert machine.take_boot_entry() == B


def test_a_one_shot_entry_is_used_up_by_one_boot():
    machine = a_machine()
    machine.set_profile(B, 2.0)
    machine.install_loader((B,))
    machine.loader.default, machine.loader.one_shot = 1, 2
    assert machine.take_boot_entry() == B
    assert machine.take_boot_entry() == A


def test_a_reboot_forgets_what_lived_in_memory():
    machine = a_machine()
    machine.files = {"/run/x": "", "/tmp/y": "", "/var/lib/z": "kept"}
    machine.folders = {"/run/d", "/var/lib/d"}
    machine.units["t.service"] = Unit(name="t.service")
    machine.timers["d.timer"] = Timer(name="d.timer", due=9.0, argv=("true",), service="d.service")
    machine.shut_down()
    assert not machine.powered
    assert (machine.files, machine.folders) == ({"/var/lib/z": "kept"}, {"/var/lib/d"})
    assert not machine.units
    assert not machine.timers
    machine.start_up(B, boot_id="second", kernel_release="6.12.8", now=5.0)
    assert (machine.current, machine.booted, machine.boot_id, machine.boots) == (B, B, "second", 2)


def test_activations_are_counted_by_system_and_verb():
    machine = a_machine()
    for verb in ("boot", "switch", "switch"):
        machine.record_activation(B, verb)
    assert machine.activations == {B: {"boot": 1, "switch": 2}}


def test_the_record_of_commands_and_journals_is_bounded():
    machine = a_machine()
    for number in range(1000):
        machine.record_command(Deed(at=float(number), user="root", command=f"echo {number}"))
        machine.log("k3s.service", f"line {number}\n")
    assert len(machine.commands) == 200
    assert machine.commands[-1].command == "echo 999"
    assert machine.journal["k3s.service"][-1] == "line 999"
    assert len(machine.journal["k3s.service"]) == 60


@pytest.mark.parametrize(
    ("unit", "code", "state"),
    [
        (Unit(name="u", kind="oneshot", remain=True), 0, ("active", "exited", "success")),
        (Unit(name="u", kind="oneshot"), 0, ("inactive", "dead", "success")),
        (Unit(name="u", kind="oneshot", remain=True), 4, ("failed", "failed", "exit-code")),
    ],
)
def test_a_transient_unit_ends_as_systemd_says(unit, code, state):
    unit.run(1.0, 99)
    assert (unit.active, unit.sub) == ("activating", "start")
    unit.end(code, 2.0)
    assert (unit.active, unit.sub, unit.result) == state
    assert unit.properties()["ExecMainStatus"] == str(code)


def test_a_unit_that_does_not_exist_is_shown_as_not_found():
    shown = missing_properties("x.service")
    assert (shown["LoadState"], shown["ActiveState"], shown["SubState"]) == ("not-found", "inactive", "dead")


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.sampled_from([A, B, C])),
            st.tuples(st.just("install"), st.sampled_from([A, B, C])),
            st.tuples(st.just("rollback"), st.none()),
            st.tuples(st.just("one-shot"), st.integers(1, 4)),
            st.tuples(st.just("reboot"), st.none()),
        ),
        max_size=20,
    )
)
def test_whatever_happens_a_machine_survives_its_own_plain_form(steps):
    machine = a_machine()
    for index, (step, value) in enumerate(steps):
        match step:
            case "set":
                machine.set_profile(value, float(index))
            case "install":
                machine.install_loader((value,))
            case "rollback":
                machine.switch_generation(machine.previous_generation() or machine.profile)
            case "one-shot":
                machine.loader.one_shot = value if value in machine.generations else None
            case "reboot":
                system = machine.take_boot_entry()
                machine.shut_down()
                machine.start_up(system, boot_id=f"boot-{index}", kernel_release="6", now=float(index))
                assert machine.current in {generation.system for generation in machine.generations.values()}
    machine.timers["d.timer"] = Timer(name="d.timer", due=9.0, argv=("sh", "-c", "true"), service="d.service")
    machine.units["u.service"] = Unit(name="u.service")
    assert machine_from_plain(json.loads(json.dumps(machine.to_plain()))) == machine
    assert machine.profile in machine.generations
