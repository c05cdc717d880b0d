"""A reboot by kexec on a machine with a kernel of its own, through the command line.

A machine apart from the story's: its minute is not counted there.
"""

import pytest

pytestmark = [pytest.mark.timeout(180)]
FIRMWARE = "BdsDxe: starting"
"""What it says on the console whenever it starts a boot loader."""


def test_kexec_starts_the_new_kernel_past_the_firmware_and_the_gate_makes_it_the_default(story):
    machine = story.machine
    before, console = machine.boot_id, len(machine.console)
    wanted = story.wants(kernel="6.12.9")
    done = story.deploy("apply", reboot_method="kexec")
    assert done.returncode == 0, done.stderr
    assert machine.boot_id != before
    assert machine.systems == (wanted, wanted, wanted)
    assert machine.started == wanted
    assert FIRMWARE not in machine.console[console:]
    assert machine.default == "nixos-generation-2.conf"
    assert machine.one_shot == ""
