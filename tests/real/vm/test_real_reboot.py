"""The reboot protocol on a machine with a kernel, a firmware and a boot loader of its own, through the command line.

One story in five minutes: each test goes on from where the one before it left the machine.
"""

import re
import time

import pytest

pytestmark = [pytest.mark.timeout(300)]
WHOLE_STORY = 300.0
DEADLINE = 25.0
"""Given to a system that hangs."""
SLACK = 20.0
"""What a run takes beside its reboot: a look, an evaluation, a copy and a switch, all of it emulated."""


def test_a_plain_reboot_is_proved_by_a_new_boot_id(story):
    machine = story.machine
    before, systems = machine.boot_id, machine.systems
    done = story.deploy("reboot", "--all")
    assert done.returncode == 0, done.stderr
    assert machine.boot_id != before
    assert machine.systems == systems
    assert len(set(systems)) == 1
    assert "BdsDxe: starting" in machine.console, "through its firmware"


def test_a_new_kernel_boots_once_and_is_the_default_behind_its_gate(story):
    machine = story.machine
    before, old = machine.boot_id, machine.default
    witness = "cp /boot/loader/loader.conf /var/lib/as-it-booted"
    wanted = story.wants(
        kernel="6.12.9",
        units={"witness.service": "1.0"},
        services={"witness.service": {"Type": "oneshot", "ExecStart": f"/bin/sh -c '{witness}'"}},
    )
    done = story.deploy("apply")
    assert done.returncode == 0, done.stderr
    assert machine.boot_id != before
    assert machine.systems == (wanted, wanted, wanted)
    assert machine.started == wanted
    assert f"default {old}" in machine.run("cat /var/lib/as-it-booted"), "the old one, until the gate"
    assert machine.default == "nixos-generation-2.conf"
    assert old == "nixos-generation-1.conf"
    assert machine.one_shot == ""


def test_a_new_system_that_panics_falls_back_by_itself_and_is_reported_as_that(story):
    machine = story.machine
    before, old = machine.boot_id, machine.systems[0]
    broken = story.wants(kernel="6.12.10", stage2="echo broken on purpose; exit 1")
    console = len(machine.console)
    done = story.deploy("apply")
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert "the new entry nixos-generation-3.conf did not boot on n1" in said
    assert "the old one, nixos-generation-2.conf, did, by itself" in said
    assert "Attempted to kill init" in machine.console[console:], "it is what happened"
    assert machine.boot_id != before
    assert machine.systems == (old, old, old)
    assert machine.started == old != broken
    assert machine.default == "nixos-generation-2.conf"
    assert machine.one_shot == ""


def test_a_new_system_that_hangs_is_given_its_deadline_and_a_power_cut_brings_the_old_one(story):
    machine = story.machine
    before, old = machine.boot_id, machine.systems[0]
    story.wants(kernel="6.12.11", stage2="sleep 100000")
    began = time.monotonic()
    done = story.deploy("apply", "--on-failure", "halt", reboot_timeout=f"{DEADLINE:g}s")
    took = time.monotonic() - began
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    told = re.search(r"n1 did not come back within (\d+) s after its reboot", said)
    assert told is not None
    assert DEADLINE - 5 <= float(told[1]) <= DEADLINE, "what was left of it once the boot loader had been told"
    assert "then cut its power: it boots nixos-generation-2.conf, the old system, by itself" in said
    assert DEADLINE <= took <= DEADLINE + SLACK
    machine.reset()
    assert machine.wait_for_ssh(not_boot=before) != before
    assert machine.started == machine.systems[0] == old
    assert machine.default == "nixos-generation-2.conf"


def test_all_of_it_took_less_than_five_minutes(story):
    took = time.monotonic() - story.began
    print(f"the whole story: {took:.0f} s")  # noqa: T201
    assert took < WHOLE_STORY
