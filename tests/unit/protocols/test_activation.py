"""The native activator against one scripted NixOS host: every exit code, every loss, every way to find it half done."""

import json
import re
from dataclasses import replace

import pytest
from trio.testing import MockClock

from nixkube_deploy.model.action import SwitchMode, WayBack
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.strategy import HostPolicy
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.shell import CommandResult
from nixkube_deploy.protocols.activation import NativeActivator
from nixkube_deploy.protocols.launch import WAY_BACK_FILE
from nixkube_deploy.protocols.patience import PatientShell
from nixkube_deploy.protocols.probe import PROFILE, TESTED
from nixkube_deploy.protocols.situation import FIRED
from nixkube_deploy.protocols.transient import dead_man_name, start_over, unit_name
from tests.builders import a_host, store_path
from tests.fakes.clock import LoopClock
from tests.fakes.nixos import BOOT_1, BOOT_2, NixosHost, Switch, Unit, broken, lost
from tests.fakes.shell import FakeShell

OLD, NEW = store_path("nixos-system-w1-old"), store_path("nixos-system-w1-new")
RUN = RunId("20261122T204931Z-3fa9")
SWITCH_UNIT = unit_name("switch", RUN, NEW)
BOOT_UNIT = unit_name("boot", RUN, NEW)
TIMER = dead_man_name(RUN, NEW) + ".timer"
HOST = a_host("w1")
INHIBITED = Switch(code=1, says=("Pre-switch check 'switchInhibitors' failed",))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def an_activation(mode: SwitchMode = SwitchMode.SWITCH, **fields: object) -> Activation:
    activation = Activation(
        run=RUN,
        host=HOST,
        closure=NEW,
        mode=mode,
        way_back=WayBack(system=OLD, booted=OLD, generation=41, boot_id=BOOT_1),
        flake="/flake",
        node_units=frozenset({"k3s.service"}),
    )
    return replace(activation, **fields)  # type: ignore[arg-type]


IMPATIENT = an_activation(host=replace(HOST, policy=HostPolicy(activation_timeout=5)))


async def activate(shell: FakeShell, activation: Activation | None = None) -> Activated:
    return await NativeActivator(shell, LoopClock()).activate(activation or an_activation())


async def failure_of(shell: FakeShell, activation: Activation | None = None) -> Failure:
    with pytest.raises(TaskError) as caught:
        await activate(shell, activation)
    return caught.value.failure


# --- it goes well ----------------------------------------------------------------------------------------------------


async def test_a_switch_records_arms_sets_the_profile_and_runs_in_that_order():
    host = NixosHost(OLD)
    shell = host.shell()
    assert await activate(shell) == Activated(changed=True, failed=())
    marks = re.findall(r"echo; echo @(\w+ing|end)$", shell.lines()[0], re.MULTILINE)
    assert marks == ["comparing", "recording", "arming", "setting", "starting", "end"]
    assert host.current == host.profile == NEW


async def test_a_switch_costs_one_round_trip_and_its_confirmation_another():
    host = NixosHost(OLD)
    shell = host.shell()
    await activate(shell)
    assert [ran.fresh for ran in shell.ran] == [False]
    await confirm(shell)
    assert [ran.fresh for ran in shell.ran] == [False, True]


@pytest.mark.parametrize(
    "otherwise",
    [{"current": NEW}, {"profile": NEW}, {"booted": NEW}, {"boot_id": BOOT_2}, {"timers": {TIMER: ("sh", "-c", "x")}}],
    ids=lambda fields: next(iter(fields)),
)
async def test_a_host_that_is_not_as_it_was_found_is_looked_at_before_anything_is_done_to_it(otherwise):
    host = NixosHost(OLD, **otherwise)
    seen: list[tuple[object, ...]] = []

    def note(_host, command):
        if len(seen) < 2:
            seen.append((*host.units, *host.files, host.profile))
        return host.answer(command)

    shell = host.shell().answers(with_=note)
    await activate(shell)
    assert seen[0] == seen[1]
    assert "@comparing" in shell.lines()[0]
    assert "@comparing" not in "".join(shell.lines()[1:])
    assert host.current == NEW


async def test_the_way_back_is_on_the_host_before_the_change():
    host = NixosHost(OLD)
    await activate(host.shell())
    record = json.loads(host.files[WAY_BACK_FILE])
    assert record["system"] == OLD
    assert (record["generation"], record["boot_id"], record["run"]) == (41, BOOT_1, RUN)


async def test_the_dead_man_timer_stays_armed_until_confirmed():
    host = NixosHost(OLD)
    await activate(host.shell())
    assert list(host.timers) == [TIMER]
    back = f"test {PROFILE}-41-link -ef {OLD} && nix-env -p {PROFILE} --switch-generation 41 || nix-env -p {PROFILE}"
    way = f"systemctl stop {SWITCH_UNIT} || true && {back} --set {OLD} || true && {OLD}/bin/switch-to"
    assert way in host.timers[TIMER][-1]


@pytest.mark.parametrize("mode", SwitchMode)
async def test_a_successor_of_a_killed_controller_reads_what_was_done_and_does_not_repeat_it(mode):
    host = NixosHost(OLD)
    await activate(host.shell(), an_activation(mode))
    shell = host.shell()
    failed = () if mode.runs_now else None
    assert await activate(shell, an_activation(mode)) == Activated(changed=True, failed=failed)
    assert switches_started(host) == 1


async def test_what_was_read_is_cleaned_up_when_it_is_confirmed():
    host = NixosHost(OLD)
    await activate(host.shell())
    assert list(host.units) == [f"{SWITCH_UNIT}.service"]
    await confirm(host.shell())
    assert host.units == {}


async def test_what_did_not_end_well_is_cleaned_up_at_once():
    host = NixosHost(OLD, switches=[Switch(code=1)])
    await failure_of(host.shell())
    assert host.units == {}


async def test_a_switch_that_hangs_is_told_with_its_last_words_and_left_to_whoever_goes_back():
    host = NixosHost(OLD, switches=[Switch(says=("waiting for dhcpcd.service",), looks=10_000)])
    failure = await failure_of(host.shell())
    assert failure.kind is FailureKind.TIMEOUT
    assert not failure.transient
    assert failure.message == "w1 was not activated: switch-to-configuration still runs after 900 s"
    assert failure.evidence == ("waiting for dhcpcd.service",)
    assert failure.did == f"left the host's own timer armed, which takes it back to {OLD}"
    assert list(host.units) == [f"{SWITCH_UNIT}.service"]


async def test_what_dead_runs_left_is_cleaned_up_before_a_change():
    left = Unit(argv=(f"{OLD}/bin/switch-to-configuration", "switch"), state="active")
    host = NixosHost(OLD, units={"nixkube-deploy-switch-20260101T000000Z-0000-abcdef01.service": left})
    await activate(host.shell())
    assert list(host.units) == [f"{SWITCH_UNIT}.service"]


async def test_a_slow_switch_is_followed_to_its_end():
    host = NixosHost(OLD, switches=[Switch(looks=40)])
    assert (await activate(host.shell())).changed


async def test_boot_mode_arms_no_timer_and_leaves_the_running_system():
    host = NixosHost(OLD)
    assert await activate(host.shell(), an_activation(SwitchMode.BOOT)) == Activated(changed=True, failed=None)
    assert (host.current, host.loader, host.timers) == (OLD, NEW, {})


async def test_a_host_that_is_there_already_is_left_alone():
    host = NixosHost(NEW)
    shell = host.shell()
    assert await activate(shell) == Activated(changed=False)
    assert switches_started(host) == 0
    assert len(shell.ran) == 2


async def test_boot_mode_is_done_only_when_the_closure_was_booted():
    host = NixosHost(NEW, booted=OLD)
    assert (await activate(host.shell(), an_activation(SwitchMode.BOOT))).changed
    host = NixosHost(NEW)
    assert not (await activate(host.shell(), an_activation(SwitchMode.BOOT))).changed


async def test_a_look_and_a_wait_need_no_privilege_and_what_changes_does():
    shell = NixosHost(OLD, switches=[Switch(code=4, looks=2, says=("the following units failed: a.service",))]).shell()
    await activate(shell)
    by_kind = {ran.argv[0] + ("" if ran.argv[0] != "sh" else " change" if "@starting" in ran.line else " look"): ran
               for ran in shell.ran if "systemctl stop" not in ran.line or "@starting" in ran.line}  # fmt: skip
    assert {kind: ran.command.privileged for kind, ran in by_kind.items()} == {
        "sh look": False,
        "sh change": True,
        "systemctl": False,
        "journalctl": True,
    }


# --- other modes -----------------------------------------------------------------------------------------------------


async def test_a_trial_leaves_the_profile_alone_and_the_timer_undoes_only_the_trial():
    host = NixosHost(OLD)
    await activate(host.shell(), an_activation(SwitchMode.TEST))
    assert (host.current, host.profile, host.loader) == (NEW, OLD, OLD)
    assert host.files[TESTED].strip() == NEW
    assert "nix-env" not in host.timers[TIMER][-1]
    host.fire_dead_man()
    assert (host.current, host.profile, host.loader) == (OLD, OLD, OLD)


async def test_a_trial_that_an_inhibitor_forbids_is_no_boot():
    host = NixosHost(OLD, switches=[INHIBITED])
    failure = await failure_of(host.shell(), an_activation(SwitchMode.TEST))
    assert failure.kind is FailureKind.INHIBITED
    assert (host.profile, host.loader, host.timers) == (OLD, OLD, {})


async def test_a_specialisation_runs_while_its_toplevel_is_booted_next():
    host, inner = NixosHost(OLD), store_path("nixos-system-w1-inner")
    await activate(host.shell(), an_activation(closure=inner, profile=NEW))
    assert (host.current, host.profile, host.loader) == (inner, NEW, NEW)


async def test_the_way_back_to_a_specialisation_sets_the_profile_to_its_toplevel():
    top = store_path("nixos-system-w1-top")
    back = WayBack(system=OLD, booted=top, generation=41, boot_id=BOOT_1, profile=top)
    host = NixosHost(OLD, booted=top, profile=top, loader=top, generations={41: top})
    await activate(host.shell(), an_activation(way_back=back))
    host.fire_dead_man()
    assert (host.current, host.profile, host.loader) == (OLD, top, top)


async def test_going_back_to_a_generation_keeps_its_number():
    host = NixosHost(OLD, generations={7: NEW})
    shell = host.shell()
    await activate(shell, an_activation(generation=7))
    assert host.profile == NEW
    assert "--switch-generation 7 ||" in shell.lines()[0]
    gone = NixosHost(OLD, generations={7: store_path("something-else")})
    await activate(gone.shell(), an_activation(generation=7))
    assert gone.profile == NEW


# --- the timer ------------------------------------------------------------------------------------------------------


async def test_a_switch_that_takes_long_is_not_taken_back_as_long_as_somebody_waits_for_it():
    host = NixosHost(OLD, switches=[Switch(looks=250)])
    shell = host.shell()
    assert (await activate(shell)).changed
    told = [ran for ran in shell.ran if "try-restart" in ran.line]
    assert [ran.line.endswith(f"try-restart {TIMER}") for ran in told] == [True] * 4


async def test_a_timer_that_has_fired_is_not_armed_a_second_time():
    """It counts as active as long as its service runs, so try-restart alone would arm it again."""
    host, name = NixosHost(OLD), TIMER.removesuffix(".timer")
    host.units[f"{name}.service"] = Unit(argv=("sh", "-c", "true"), state="active")
    host.timers[TIMER] = ("sh", "-c", "true")
    shell = host.shell()
    await start_over(PatientShell(shell, HOST, LoopClock()), name)
    assert host.restarted == []
    del host.units[f"{name}.service"]
    await start_over(PatientShell(shell, HOST, LoopClock()), name)
    assert host.restarted == [TIMER]


# --- exit codes ------------------------------------------------------------------------------------------------------


async def test_failed_units_that_are_not_the_nodes_are_warnings():
    says = ("activating...", "warning: the following units failed: logrotate.service, a.service")
    host = NixosHost(OLD, switches=[Switch(code=4, says=says)])
    activated = await activate(host.shell())
    assert activated.warnings == ("logrotate.service failed to start", "a.service failed to start")


async def test_a_failed_kubelet_is_a_unit_failure():
    says = ("warning: the following units failed: k3s.service",)
    failure = await failure_of(NixosHost(OLD, switches=[Switch(code=4, says=says)]).shell())
    assert failure.kind is FailureKind.UNIT
    assert "k3s.service" in failure.message
    assert "takes it back" in failure.did


async def test_failed_units_are_asked_of_systemd_when_the_output_does_not_name_them():
    host = NixosHost(OLD, switches=[Switch(code=4)], failed=("k3s.service",))
    assert (await failure_of(host.shell())).kind is FailureKind.UNIT


async def test_exit_code_100_means_a_reboot_and_disarms_the_timer():
    host = NixosHost(OLD, switches=[Switch(code=100)])
    activated = await activate(host.shell())
    assert activated.needs_reboot
    assert host.timers == {}


async def test_an_inhibitor_turns_the_switch_into_boot():
    host = NixosHost(OLD, switches=[INHIBITED])
    activated = await activate(host.shell())
    assert activated.needs_reboot
    assert (host.current, host.loader, host.profile, host.timers) == (OLD, NEW, NEW, {})


async def test_a_failed_pre_switch_check_is_an_activation_failure_with_evidence():
    failure = await failure_of(
        NixosHost(OLD, switches=[Switch(code=1, says=("Failed to install bootloader",))]).shell()
    )
    assert failure.kind is FailureKind.ACTIVATION
    assert failure.evidence == ("Failed to install bootloader",)
    assert not failure.transient


async def test_a_failed_activation_script_is_a_failure_though_the_system_may_have_changed():
    host = NixosHost(OLD, switches=[Switch(code=2, says=("Activation script snippet 'etc' failed (1)",))])
    host.switches[0].at_end = lambda: setattr(host, "current", NEW)
    failure = await failure_of(host.shell())
    assert "the activation script failed" in failure.message
    assert f"/run/current-system is {NEW}" in failure.seen


LOCKED = Switch(code=11, says=("Could not acquire lock",))


async def test_a_held_lock_is_waited_for():
    host = NixosHost(OLD, switches=[LOCKED, LOCKED])
    began = LoopClock().monotonic()
    assert (await activate(host.shell())).changed
    assert host.current == NEW
    assert list(host.timers) == [TIMER]
    assert 6 <= LoopClock().monotonic() - began < 10


async def test_a_lock_is_waited_for_no_longer_than_an_activation_may_take():
    waits = replace(HOST, policy=HostPolicy(activation_timeout=10))
    host = NixosHost(OLD, switches=[LOCKED] * 9)
    failure = await failure_of(host.shell(), an_activation(host=waits))
    assert failure.kind is FailureKind.LOCKED
    assert not failure.transient
    assert failure.did == "waited 9 s for it"
    assert host.current == OLD


async def test_a_killed_switch_has_no_exit_code():
    failure = await failure_of(NixosHost(OLD, switches=[Switch(code=None)]).shell())
    assert failure.kind is FailureKind.ACTIVATION
    assert failure.exit_code is None
    assert "signal" in failure.seen


async def test_exit_code_0_is_not_believed_when_the_host_runs_something_else():
    host = NixosHost(OLD)
    other = store_path("other")
    host.switches = [Switch(at_end=lambda: setattr(host, "current", other))]
    failure = await failure_of(host.shell())
    assert other in failure.seen


async def test_boot_mode_reports_a_loader_that_cannot_be_written():
    host = NixosHost(OLD, switches=[Switch(code=1, says=("No space left on device",))])
    failure = await failure_of(host.shell(), an_activation(SwitchMode.BOOT))
    assert failure.kind is FailureKind.ACTIVATION
    assert "next boot" in failure.expected


async def test_the_journal_is_asked_again_when_it_lags_behind():
    host = NixosHost(OLD, switches=[INHIBITED])
    shell = host.shell().answers("journalctl", stdout="-- No entries --\n", times=1)
    assert (await activate(shell)).needs_reboot


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [True, False], ids=["done on the host", "never reached the host"])
@pytest.mark.parametrize("looks", [0, 3], ids=["quick", "slow"])
@pytest.mark.parametrize("step", ["@starting", "@current", "systemctl show"])
async def test_a_connection_lost_at_any_step_is_made_again_and_the_switch_happens_once(step, looks, done):
    host = NixosHost(OLD, switches=[Switch(looks=looks), Switch(code=2)])
    shell = host.shell()
    answer = (lambda _h, command: host.answer(command)) if done else None
    if step == "@current":  # The very first look is not repeated here: nothing was done yet.
        shell.answers(holding="@current", times=1, with_=lambda _h, command: host.answer(command))
    shell.loses(holding=step, first=answer)
    assert (await activate(shell)).changed
    assert host.current == NEW
    assert len(host.switches) == 1
    assert list(host.timers) == [TIMER]


@pytest.mark.parametrize("done", [True, False], ids=["it ran", "it never reached the host"])
async def test_a_lost_start_is_repeated_only_when_it_never_reached_the_host(done):
    host = NixosHost(OLD)
    shell = host.shell()
    first = (lambda _h, command: host.answer(command)) if done else None
    shell.loses(holding="@starting", first=first)
    assert (await activate(shell)).changed
    assert switches_started(host) == 1
    assert sum("@starting" in line for line in shell.lines()) == (1 if done else 2)


async def test_a_start_that_is_lost_before_the_host_was_seen_begins_again_with_a_look():
    """What else is at work there was never heard: another run's activation must not be joined by a second one."""
    host = NixosHost(OLD)
    shell = host.shell()

    def lost_while_another_begins(_host, _command):
        host.units["nixkube-deploy-switch-20250101T000000Z-0001-0.service"] = a_unit("activating", looks=10_000)
        raise lost("the connection was lost")

    shell.answers(holding="@starting", with_=lost_while_another_begins, times=1)
    assert (await failure_of(shell, IMPATIENT)).kind is FailureKind.LOCKED
    assert switches_started(host) == 0


async def test_a_timer_that_a_lost_script_has_armed_is_armed_anew_by_the_next():
    host = NixosHost(OLD)
    shell = host.shell()

    def half(_host, command):
        host.refuses["nix-env"] = "killed\n"
        host.answer(command)
        host.refuses.clear()
        raise lost("the connection was lost")

    shell.answers(holding="@starting", with_=half, times=1)
    assert (await activate(shell)).changed
    assert list(host.timers) == [TIMER]


async def test_a_host_that_never_answers_again_ends_as_outcome_unknown_and_is_taken_up_later():
    host = NixosHost(OLD, switches=[Switch(looks=2)])
    shell = host.shell()
    shell.answers("systemctl", "show", with_=broken(lambda: shell.unreachable("w1")), times=1)
    failure = await failure_of(shell)
    assert failure.kind is FailureKind.OUTCOME_UNKNOWN
    assert failure.transient
    shell.reachable("w1")
    assert (await activate(shell)).changed
    assert switches_started(host) == 1


async def test_an_unreachable_host_fails_at_once_because_nothing_was_done():
    shell = NixosHost(OLD).shell()
    shell.unreachable("w1")
    assert (await failure_of(shell)).kind is FailureKind.UNREACHABLE


async def test_a_reboot_in_the_middle_is_judged_by_what_came_up():
    for into, kind in ((NEW, None), (OLD, FailureKind.FELL_BACK)):
        host = NixosHost(OLD, switches=[Switch(looks=50)])
        shell = host.shell()
        shell.answers("systemctl", "show", with_=broken(lambda host=host, into=into: host.reboot(into)), times=1)
        if kind is None:
            assert "rebooted" in (await activate(shell)).warnings[0]
        else:
            assert (await failure_of(shell)).kind is kind


@pytest.mark.parametrize(("into", "message"), [(NEW, ""), (OLD, "rebooted in the middle of the switch")])
async def test_a_switch_that_a_shutdown_kills_is_judged_after_the_next_boot(into, message):
    host = NixosHost(OLD, switches=[Switch(code=None)])

    def going_down(_host, _command):
        host.reboot(into)
        return CommandResult(exit_code=1, stdout="stopping\n")

    shell = host.shell().answers("systemctl", "is-system-running", with_=going_down, times=1)
    if message:
        assert message in (await failure_of(shell)).message
    else:
        assert "rebooted" in (await activate(shell)).warnings[0]


async def test_a_dead_man_that_fires_during_the_switch_is_named():
    host = NixosHost(OLD, switches=[Switch(code=None)])
    host.switches[0].at_end = host.fire_dead_man
    assert (await failure_of(host.shell())).kind is FailureKind.FELL_BACK


async def test_the_way_back_has_nothing_that_a_daemon_reload_would_mangle():
    """systemd 252 writes ``;`` as ``\\;`` into a transient unit, and reads the backslash back as one."""
    host = NixosHost(OLD)
    await activate(host.shell())
    (argv,) = host.timers.values()
    assert not set(argv[-1]) & set(";\\$%\"'\n")


async def test_a_full_disk_does_not_keep_a_host_from_going_back():
    host = NixosHost(OLD)
    await activate(host.shell())
    host.refuses["nix-env"] = "error: No space left on device\n"
    host.fire_dead_man()
    assert host.current == OLD


def cut_off(host: NixosHost) -> FakeShell:
    """The link breaks in the middle of the switch, and when it is mended the host has gone back by itself."""
    shell = host.shell()

    def cut(_host, command):
        host.answer(command)
        host.fire_dead_man()
        raise lost("the connection was lost")

    return shell.answers(holding="@starting", with_=cut, times=1)


async def test_a_host_that_went_back_while_it_was_cut_off_is_not_switched_again():
    """The change may be what cut it off: another start would do that again."""
    host = NixosHost(OLD)
    shell = cut_off(host)
    failure = await failure_of(shell)
    assert failure.kind is FailureKind.FELL_BACK
    assert not failure.transient
    assert "the timer has fired" in failure.seen
    assert "may be what cut it off" in failure.did
    assert switches_started(host) == 1
    assert (host.current, host.profile) == (OLD, OLD)


async def test_a_later_attempt_knows_that_the_host_went_back_a_later_controller_changes_it_again():
    host = NixosHost(OLD)
    shell = cut_off(host)
    await failure_of(shell)
    assert (await failure_of(shell, an_activation(anew=False))).kind is FailureKind.FELL_BACK
    assert (await activate(shell)).changed
    assert host.current == NEW
    assert FIRED not in host.files


# --- after a killed controller ---------------------------------------------------------------------------------------


def a_unit(state: str, code: int | None = 0, looks: int = 0, verb: str = "switch") -> Unit:
    program = f"{NEW}/bin/switch-to-configuration"
    return Unit(argv=(program, verb), state=state, looks=looks, switch=Switch(code=code))


def switches_started(host: NixosHost) -> int:
    return len(host.started)


async def test_a_running_unit_of_this_run_is_joined():
    host = NixosHost(OLD, profile=NEW, units={f"{SWITCH_UNIT}.service": a_unit("activating", looks=5)})
    host.timers[TIMER] = ("sh", "-c", "...")
    shell = host.shell()
    assert await activate(shell) == Activated(changed=True, failed=())
    assert switches_started(host) == 0


async def test_an_ended_unit_of_this_run_is_read():
    units = {f"{SWITCH_UNIT}.service": a_unit("active")}
    host = NixosHost(OLD, current=NEW, profile=NEW, units=units)
    shell = host.shell()
    assert (await activate(shell)).changed
    assert switches_started(host) == 0
    host = NixosHost(OLD, profile=NEW, units={f"{SWITCH_UNIT}.service": a_unit("failed", code=2)})
    host.timers[TIMER] = ("sh", "-c", "...")
    assert "the activation script failed" in (await failure_of(host.shell())).message


async def test_a_host_that_took_itself_back_meanwhile_is_switched_anew():
    host = NixosHost(OLD, units={f"{SWITCH_UNIT}.service": a_unit("active")})
    shell = host.shell()
    assert (await activate(shell)).changed
    assert switches_started(host) == 1
    assert list(host.timers) == [TIMER]


async def test_an_inhibited_switch_found_half_done_is_finished_as_boot():
    units = {f"{BOOT_UNIT}.service": a_unit("activating", looks=2, verb="boot")}
    activated = await activate(NixosHost(OLD, profile=NEW, units=units).shell())
    assert activated.needs_reboot


async def test_a_profile_that_was_set_before_the_kill_is_no_obstacle():
    host = NixosHost(OLD, profile=NEW)
    host.timers[TIMER] = ("sh", "-c", "armed by the dead controller")
    assert (await activate(host.shell())).changed
    assert "armed by the dead controller" not in host.timers[TIMER]


async def test_a_dead_mans_timer_of_another_run_is_disarmed_before_ours_is_armed():
    host = NixosHost(OLD)
    host.timers["nixkube-deploy-deadman-20260101T000000Z-dead-00000000.timer"] = ("sh", "-c", "...")
    await activate(host.shell())
    assert list(host.timers) == [TIMER]


async def test_a_running_switch_of_another_run_is_not_interfered_with():
    host = NixosHost(OLD, units={"nixkube-deploy-switch-20260101T000000Z-dead-00000000.service": a_unit("activating")})
    failure = await failure_of(host.shell(), IMPATIENT)
    assert failure.kind is FailureKind.LOCKED
    assert host.profile == OLD


async def test_a_host_that_is_going_back_right_now_is_left_alone():
    host = NixosHost(OLD, current=NEW, units={TIMER.replace(".timer", ".service"): a_unit("active")})
    assert (await failure_of(host.shell(), IMPATIENT)).kind is FailureKind.LOCKED


# --- before the change -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["mkdir", "printf", "systemd-run"])
async def test_nothing_is_changed_when_the_preparation_fails(step):
    host = NixosHost(OLD, refuses={step: "no\n"})
    failure = await failure_of(host.shell())
    assert failure.kind is FailureKind.ACTIVATION
    assert failure.evidence[-1] == "no"
    assert failure.did == "nothing: the system was not changed"
    assert host.profile == OLD


async def test_a_profile_that_cannot_be_set_is_told_with_its_cause():
    full = NixosHost(OLD, refuses={"nix-env": "error: No space left on device\n"})
    assert (await failure_of(full.shell())).kind is FailureKind.DISK_FULL
    failure = await failure_of(NixosHost(OLD, refuses={"nix-env": "error: path is not valid\n"}).shell())
    assert failure.kind is FailureKind.ACTIVATION
    assert failure.message == "w1 was not changed: its system profile could not be set"


async def test_a_unit_that_systemd_does_not_start_is_told_with_its_words():
    failure = await failure_of(
        NixosHost(OLD, refuses={"systemd-run": "no bus\n"}).shell(), an_activation(SwitchMode.BOOT)
    )
    assert failure.message == "w1 was not changed: systemd did not start switch-to-configuration"
    assert failure.evidence[-1] == "no bus"


async def test_a_script_that_is_killed_while_it_waits_for_its_unit_says_nothing_of_how_that_ended():
    """A switch that restarts logind, or a host that shuts down, ends the session: the unit goes on without it."""
    host = NixosHost(OLD)

    def killed(_host, command):
        whole = host.answer(command)
        return replace(whole, exit_code=143, stdout=whole.stdout.partition("@unit")[0])

    shell = host.shell().answers(holding="@starting", with_=killed, times=1)
    assert await activate(shell) == Activated(changed=True, failed=())
    assert switches_started(host) == 1


async def test_a_timer_is_not_left_armed_for_a_change_that_was_never_begun():
    host = NixosHost(OLD, refuses={"nix-env": "error: path is not valid\n"})
    failure = await failure_of(host.shell())
    assert host.timers == {}
    assert failure.did == "stopped its dead-man timer again; the system was not changed"


async def test_a_timer_that_stays_armed_because_the_profile_is_changed_already_is_told():
    host = NixosHost(OLD)

    def no_services(_host, command):
        script = command.argv[2].replace("--service-type=oneshot", "--service-type=oneshot --refused")
        return host.answer(replace(command, argv=("sh", "-c", script)))

    failure = await failure_of(host.shell().answers(holding="@starting", with_=no_services))
    assert failure.message == "w1 was not changed: systemd did not start switch-to-configuration"
    assert failure.did == f"left the host's own timer armed, which takes it and its profile back to {OLD}"
    assert list(host.timers) == [TIMER]


# --- confirm ---------------------------------------------------------------------------------------------------------


async def confirm(shell: FakeShell) -> None:
    await NativeActivator(shell, LoopClock()).confirm(an_activation())


async def test_confirming_disarms_the_timer_over_a_new_connection():
    host = NixosHost(OLD)
    shell = host.shell()
    await activate(shell)
    await confirm(shell)
    assert host.timers == {}
    assert any(ran.fresh for ran in shell.ran)


async def test_confirming_twice_is_fine():
    host = NixosHost(NEW)
    await confirm(host.shell())
    await confirm(host.shell())


async def test_confirming_after_the_timer_fired_says_that_the_host_went_back():
    host = NixosHost(OLD)
    shell = host.shell()
    await activate(shell)
    host.fire_dead_man()
    with pytest.raises(TaskError) as caught:
        await confirm(shell)
    assert caught.value.failure.kind is FailureKind.FELL_BACK


async def test_confirming_while_the_host_is_going_back_is_refused():
    host = NixosHost(NEW, units={TIMER.replace(".timer", ".service"): a_unit("activating")})
    with pytest.raises(TaskError) as caught:
        await confirm(host.shell())
    assert caught.value.failure.kind is FailureKind.FELL_BACK
    assert "at work" in caught.value.failure.seen


async def test_confirming_a_host_that_somebody_else_switched_is_refused():
    with pytest.raises(TaskError) as caught:
        await confirm(NixosHost(store_path("somebody-elses")).shell())
    assert caught.value.failure.kind is FailureKind.ACTIVATION
