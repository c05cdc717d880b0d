"""A reboot past the firmware: loaded as NixOS does, armed for what comes after, and given up for a plain one."""

import pytest
from trio.testing import MockClock

from nixkube_deploy.model.action import RebootHost
from nixkube_deploy.ports.shell import CommandResult
from nixkube_deploy.protocols.reboot import reboot
from tests.builders import a_host, store_path
from tests.fakes.clock import LoopClock
from tests.fakes.nixos import BOOT_1, BOOT_2, lost
from tests.fakes.systemd_boot import SystemdBootHost

OLD, NEW = store_path("nixos-system-w1-old"), store_path("nixos-system-w1-new")
OLD_ENTRY, NEW_ENTRY = "nixos-generation-41.conf", "nixos-generation-42.conf"
HOST = a_host("w1")
ACTION = RebootHost(host=HOST.name, closure=NEW, boot_id=BOOT_1, fallback=(OLD,), kexec=True)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def a_machine() -> SystemdBootHost:
    host = SystemdBootHost(OLD, entries={OLD_ENTRY: OLD, NEW_ENTRY: NEW})
    host.install(NEW_ENTRY)
    host.files[f"{NEW}/kernel-params"] = "loglevel=4 panic=5\n"
    return host


async def do(host: SystemdBootHost, loads: CommandResult) -> tuple[list[str], list[str]]:
    """What it said, and the commands that it ran for the reboot itself."""
    shell, said = host.shell(), []
    shell.answers("kexec", exit_code=loads.exit_code, stderr=loads.stderr)

    def kexec(_host, _command):
        host.reboot(into=NEW)
        raise lost("the connection went down")

    shell.answers("systemctl", "kexec", with_=kexec)
    done = await reboot(shell, LoopClock(), HOST, ACTION, 300.0, said.append)
    assert done.changed
    assert set(done.notes) < set(said)
    return said, [line for line in shell.lines() if line.startswith(("kexec", "systemctl kexec", "systemctl reboot"))]


async def test_the_kernel_is_loaded_with_its_own_parameters_and_the_loader_keeps_the_old_entry():
    host = a_machine()
    said, lines = await do(host, CommandResult(exit_code=0))
    assert lines == [
        f"kexec --load {NEW}/kernel --initrd={NEW}/initrd --command-line=init={NEW}/init loglevel=4 panic=5",
        "systemctl kexec",
    ]
    assert (host.booted, host.default, host.one_shot) == (NEW, OLD_ENTRY, "")
    assert said[-2:] == [f"rebooting by kexec (boot id {BOOT_1})", f"is back with boot id {BOOT_2}"]


async def test_where_no_kernel_can_be_loaded_it_is_a_reboot_with_a_one_shot_entry_and_said():
    host = a_machine()
    refused = CommandResult(exit_code=1, stderr="kexec_file_load failed: Operation not permitted\n")
    said, lines = await do(host, refused)
    assert said[0].endswith("not by kexec: kexec_file_load failed: Operation not permitted")
    assert lines[-1] == "systemctl reboot"
    assert (host.booted, host.default) == (NEW, OLD_ENTRY)


async def test_a_program_that_says_nothing_is_told_by_its_exit_code():
    said, _ = await do(a_machine(), CommandResult(exit_code=127))
    assert said[0].endswith("kexec --load: exit code 127")


async def test_an_initrd_whose_secrets_are_on_the_boot_partition_is_not_kexeced():
    host = a_machine()
    host.files[f"{NEW}/append-initrd-secrets"] = ""
    said, lines = await do(host, CommandResult(exit_code=0))
    assert "lacks the secrets" in said[0]
    assert lines == ["systemctl reboot"]
