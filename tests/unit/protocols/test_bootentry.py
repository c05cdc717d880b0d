"""The new entry once, the old one the default until the gate has passed: whatever is cut off in between."""

from contextlib import suppress

import pytest
from trio.testing import MockClock

from nixkube_deploy.model.action import PromoteEntry, ProveHost, RebootHost, RollBack, WayBack
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.protocols.bootentry import arm, promote
from nixkube_deploy.protocols.patience import PatientShell
from nixkube_deploy.protocols.reboot import Rebooted, prove, reboot
from nixkube_deploy.protocols.wayback import roll_back
from tests.builders import a_host, store_path
from tests.fakes.clock import LoopClock
from tests.fakes.nixos import BOOT_1, BOOT_2
from tests.fakes.systemd_boot import CONF, RECORD, SystemdBootHost

OLD, NEW, OTHER = (store_path(f"nixos-system-w1-{name}") for name in ("old", "new", "other"))
HOST = a_host("w1")
ACTION = RebootHost(host=HOST.name, closure=NEW, boot_id=BOOT_1, fallback=(OLD,))
ALL = 64
"""More commands than all of it takes."""
PROMOTION = PromoteEntry(host=HOST.name, closure=NEW)
PROOF = ProveHost(host=HOST.name, closure=NEW, rebooted_from=BOOT_1)
OLD_ENTRY, NEW_ENTRY = "nixos-generation-41.conf", "nixos-generation-42.conf"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def a_machine(**fields) -> SystemdBootHost:
    """As ``switch-to-configuration boot`` of the new system leaves it."""
    host = SystemdBootHost(OLD, loader=NEW, **{"entries": {OLD_ENTRY: OLD, NEW_ENTRY: NEW}, **fields})
    host.profile = NEW
    host.install(NEW_ENTRY)
    return host


def patient(host: SystemdBootHost) -> PatientShell:
    return PatientShell(host.shell(), HOST, LoopClock())


async def armed(host: SystemdBootHost, action: RebootHost = ACTION, **options) -> str:
    said: list[str] = []
    await arm(patient(host), action, said.append, **options)
    return "\n".join(said)


async def rebooted(host: SystemdBootHost, action: RebootHost = ACTION) -> Rebooted:
    return await reboot(host.shell(), LoopClock(), HOST, action, 300.0, lambda _line: None)


async def whole(host: SystemdBootHost) -> None:
    """From the reboot to the promotion."""
    await rebooted(host)
    await prove(host.shell(), LoopClock(), HOST, PROOF)
    await promote(patient(host), PROMOTION)


async def refuted(host: SystemdBootHost) -> Failure:
    with pytest.raises(TaskError) as caught:
        await prove(host.shell(), LoopClock(), HOST, PROOF)
    return caught.value.failure


# --- arming ----------------------------------------------------------------------------------------------------------


async def test_the_new_entry_is_for_one_boot_and_the_old_one_is_the_default():
    host = a_machine()
    assert await armed(host) == f"boot loader: {NEW_ENTRY} for the next boot only, {OLD_ENTRY} stays the default"
    assert (host.one_shot, host.default) == (NEW_ENTRY, OLD_ENTRY)
    assert [host.boots(), host.boots()] == [NEW, OLD]


async def test_nothing_but_the_default_line_changes_in_loader_conf():
    host = a_machine()
    before = host.text()
    await armed(host)
    assert host.text() == before.replace(NEW_ENTRY, OLD_ENTRY)


async def test_a_loader_conf_without_a_default_gets_one_and_loses_it_again():
    host = a_machine()
    host.files[CONF] = before = "timeout 5\nconsole-mode keep\n"
    await armed(host)
    assert host.default == OLD_ENTRY
    await promote(patient(host), PROMOTION)
    assert host.text() == before


async def test_a_pattern_that_the_installer_had_written_comes_back():
    host = a_machine()
    host.install("nixos-*")
    await armed(host)
    assert host.default == OLD_ENTRY
    assert await promote(patient(host), PROMOTION) == (True, "nixos-* is the default now")


async def test_of_several_entries_of_a_system_the_default_one_counts_and_else_the_newest():
    host = a_machine(entries={"nixos-generation-9.conf": OLD, "nixos-generation-10.conf": OLD, NEW_ENTRY: NEW})
    host.entries["nixos-generation-43.conf"] = NEW
    await armed(host)
    assert (host.one_shot, host.default) == (NEW_ENTRY, "nixos-generation-10.conf")


async def test_the_first_system_that_has_an_entry_is_what_is_fallen_back_to():
    host = a_machine()
    action = RebootHost(host=HOST.name, closure=NEW, boot_id=BOOT_1, fallback=(OTHER, OLD))
    assert OLD_ENTRY in await armed(host, action)


async def test_the_counter_of_boot_counting_is_no_part_of_an_entry():
    host = a_machine(entries={OLD_ENTRY: OLD, "nixos-generation-42+3-1.conf": NEW})
    assert NEW_ENTRY in await armed(host)
    assert host.one_shot == NEW_ENTRY


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"esp": ""}, "no EFI system partition"),
        ({"esp": "/efi"}, "there is no /efi/loader/loader.conf"),
        ({"entries": {NEW_ENTRY: NEW}}, f"no entry of its own for {OLD}"),
        ({"entries": {OLD_ENTRY: OLD}}, f"no entry of its own for {NEW}"),
    ],
)
async def test_where_there_is_nothing_to_arm_it_is_a_plain_boot_and_said(fields, why):
    host = a_machine(**fields)
    said = await armed(host)
    assert said.startswith("plain boot")
    assert why in said
    assert (host.one_shot, host.record, host.default) == ("", None, NEW_ENTRY)


async def test_variables_that_cannot_be_written_make_it_a_plain_boot():
    host = a_machine(read_only=True)
    said = await armed(host)
    assert said.startswith("plain boot, nothing to fall back to: Failed to update EFI variable")
    assert (host.one_shot, host.record, host.default) == ("", None, NEW_ENTRY)


async def test_other_boot_loaders_are_not_asked_at_all():
    host = a_machine()
    assert await armed(host, RebootHost(host=HOST.name, closure=NEW, boot_id=BOOT_1)) == ""
    assert host.done == []


async def test_a_kexec_leaves_the_old_entry_the_default_and_arms_no_boot():
    host = a_machine(one_shot="left-over.conf")
    assert "no boot before the gate" in await armed(host, once=False)
    assert (host.one_shot, host.default) == ("", OLD_ENTRY)


# --- promoting -------------------------------------------------------------------------------------------------------


async def test_behind_the_gate_the_new_entry_becomes_the_default():
    host = a_machine()
    before = host.text()
    await rebooted(host)
    assert host.booted == NEW
    assert await promote(patient(host), PROMOTION) == (True, f"{NEW_ENTRY} is the default now")
    assert (host.text(), host.record) == (before, None)
    assert host.boots() == NEW


async def test_what_the_boot_loader_was_told_is_kept_with_the_step():
    done = await rebooted(a_machine())
    assert done.notes == (f"boot loader: {NEW_ENTRY} for the next boot only, {OLD_ENTRY} stays the default",)
    assert (await rebooted(a_machine(esp=""))).notes[0].startswith("plain boot, nothing to fall back to")


async def test_an_entry_that_was_never_read_is_no_longer_for_the_next_boot_once_it_is_promoted():
    host = a_machine(reads_variables=False)
    await armed(host)
    host.reboot(into=NEW)  # Past its boot loader: somebody had a kernel held ready by kexec.
    await promote(patient(host), PROMOTION)
    assert (host.one_shot, host.default) == ("", NEW_ENTRY)


async def test_a_promotion_may_be_done_twice():
    host = a_machine()
    await rebooted(host)
    await promote(patient(host), PROMOTION)
    assert await promote(patient(host), PROMOTION) == (False, "")


async def test_who_installed_a_boot_loader_since_has_decided_anew():
    host = a_machine()
    await rebooted(host)
    host.entries["nixos-generation-43.conf"] = OTHER
    host.install("nixos-generation-43.conf")
    assert await promote(patient(host), PROMOTION) == (False, "nixos-generation-43.conf is the default now")
    assert host.default == "nixos-generation-43.conf"


async def test_what_was_armed_for_another_system_is_not_promoted():
    host = a_machine()
    await armed(host)
    assert await promote(patient(host), PromoteEntry(host=HOST.name, closure=OTHER)) == (False, "")
    assert host.default == OLD_ENTRY


@pytest.mark.parametrize("text", ["", "{", "[]", '{"closure": 3}', '{"type": "Armed", "unknown": 1}'])
async def test_a_record_that_cannot_be_read_is_none(text):
    host = a_machine()
    host.files[RECORD] = text
    assert await promote(patient(host), PROMOTION) == (False, "")


async def test_a_variable_that_pins_another_entry_is_told_with_what_to_type():
    host = a_machine(pinned=OLD_ENTRY)
    await rebooted(host)
    changed, told = await promote(patient(host), PROMOTION)
    assert not changed
    assert "an EFI variable pins another one" in told
    assert told.endswith("bootctl set-default ''")


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ("No space left on device", FailureKind.DISK_FULL),
        ("Read-only file system", FailureKind.COMMAND),
    ],
)
async def test_a_configuration_that_cannot_be_written_fails_the_promotion(says, kind):
    host = a_machine()
    await rebooted(host)
    host.refuses["mv"] = f"mv: cannot move: {says}"
    with pytest.raises(TaskError) as caught:
        await promote(patient(host), PROMOTION)
    assert (caught.value.failure.kind, caught.value.failure.exit_code) == (kind, 1)
    assert host.record is not None


async def test_a_partition_that_is_gone_fails_the_promotion():
    host = a_machine()
    await rebooted(host)
    host.esp = ""
    with pytest.raises(TaskError, match="could not be told to boot its new system"):
        await promote(patient(host), PROMOTION)


# --- a controller that is killed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("commands", range(ALL))
async def test_killed_anywhere_the_host_boots_the_new_system_once_and_a_successor_gets_there(commands):
    host = a_machine()
    host.commands_left = commands
    with suppress(TaskError):
        await whole(host)
    host.commands_left = None
    await whole(host)
    assert (host.booted, host.default, host.one_shot, host.record) == (NEW, NEW_ENTRY, "", None)
    assert host.done.count(("systemctl", "reboot")) == 1


async def test_all_of_it_takes_fewer_commands_than_the_tests_cut_off():
    host = a_machine(commands_left=ALL)
    await whole(host)
    assert 0 < host.commands_left < ALL // 4


@pytest.mark.parametrize("commands", range(ALL))
async def test_killed_anywhere_a_broken_kernel_is_tried_once_and_named(commands):
    host = a_machine(broken=frozenset({NEW}))
    host.commands_left = commands
    with suppress(TaskError):
        await whole(host)
    host.commands_left = None
    await rebooted(host)
    failure = await refuted(host)
    assert failure.kind is FailureKind.FELL_BACK
    assert host.booted == OLD
    assert host.done.count(("systemctl", "reboot")) == 1
    assert failure.message.endswith("did, by itself")


# --- falling back ----------------------------------------------------------------------------------------------------


async def test_a_broken_new_entry_is_reported_as_exactly_that():
    left = BOOT_1.replace("-", "")
    host = a_machine(broken=frozenset({NEW}), listed_boots=f" -1 {left} Mon\n  0 now\n", last_words="Reached target")
    await rebooted(host)
    failure = await refuted(host)
    assert failure.message == f"the new entry {NEW_ENTRY} did not boot on w1; the old one, {OLD_ENTRY}, did, by itself"
    assert failure.expected == f"/run/booted-system to be {NEW}"
    assert failure.evidence == (f" -1 {left} Mon", "  0 now")
    assert OLD_ENTRY in failure.did


async def test_a_boot_that_failed_late_is_quoted_with_its_last_words():
    boots = " -2 left Mon\n -1 5f2a Mon\n  0 now Mon\n"
    host = a_machine(broken=frozenset({NEW}), listed_boots=boots, last_words="cannot mount /\nrebooting\n")
    await rebooted(host)
    assert (await refuted(host)).evidence == (*boots.splitlines(), "cannot mount /", "rebooting")


async def test_a_loader_that_never_read_the_entry_is_told_apart():
    host = a_machine(reads_variables=False)
    await rebooted(host)
    failure = await refuted(host)
    assert failure.kind is FailureKind.FELL_BACK
    assert "never read the one-shot entry" in failure.message


async def test_a_host_in_another_system_that_nobody_armed_is_just_that():
    host = a_machine(boot_id=BOOT_2)
    assert "came back on another system" in (await refuted(host)).message


async def test_a_host_that_is_lost_says_which_entry_a_power_cycle_boots():
    host = a_machine()
    shell = host.shell()
    shell.answers("systemctl", "reboot", with_=lambda _h, _c: shell.unreachable("w1") or host.answer(_c))
    with pytest.raises(TaskError) as caught:
        await reboot(shell, LoopClock(), HOST, ACTION, 60.0, lambda _line: None)
    assert f"it boots {OLD_ENTRY}, the old system, by itself" in caught.value.failure.next
    assert "did not come back within 60 s" in caught.value.failure.message


async def test_going_back_disarms_what_has_not_been_used_up():
    host = a_machine()
    await armed(host)
    back = WayBack(system=OLD, booted=OLD, generation=41, boot_id=BOOT_1)
    action = RollBack(host=HOST.name, way_back=back, reboot=True)
    await roll_back(host.shell(), LoopClock(), HOST, action, RunId("20261122T204931Z-3fa9"), lambda _line: None)
    assert (host.one_shot, host.record, host.current) == ("", None, OLD)
    assert ("kexec", "--unload") in host.done
