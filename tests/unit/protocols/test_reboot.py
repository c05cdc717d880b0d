"""Reboots that happen, do not happen, or end on the wrong system; proofs; and the way back."""

from dataclasses import replace

import anyio
import pytest
from trio.testing import MockClock

from nixkube_deploy.model.action import ProveHost, RebootHost, RollBack, SwitchMode, WayBack
from nixkube_deploy.model.error import TaskError, Unreachable, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.ports.shell import Command, CommandResult
from nixkube_deploy.protocols.reboot import prove, reboot
from nixkube_deploy.protocols.wayback import roll_back
from tests.builders import a_host, store_path
from tests.fakes.clock import LoopClock
from tests.fakes.nixos import BOOT_1, BOOT_2, NixosHost, Switch, Unit, lost
from tests.fakes.shell import FakeShell

OLD, NEW = store_path("nixos-system-w1-old"), store_path("nixos-system-w1-new")
RUN = RunId("20261122T204931Z-3fa9")
HOST = a_host("w1")
BACK = WayBack(system=OLD, booted=OLD, generation=41, boot_id=BOOT_1)
BOOT_ID = ("cat", "/proc/sys/kernel/random/boot_id")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


# --- reboot ----------------------------------------------------------------------------------------------------------


async def do_reboot(shell: FakeShell, deadline: float = 300.0, said: list[str] | None = None) -> bool:
    action = RebootHost(host=HOST.name, closure=NEW, boot_id=BOOT_1)
    report = said.append if said is not None else lambda _line: None
    return (await reboot(shell, LoopClock(), HOST, action, deadline, report)).changed


async def reboot_failure(shell: FakeShell, deadline: float = 300.0) -> Failure:
    with pytest.raises(TaskError) as caught:
        await do_reboot(shell, deadline)
    return caught.value.failure


def no_answer(times: int):
    """A rule that counts: the host does not answer so many times."""
    left = iter(range(times))

    def respond(host: NixosHost):
        def answer(_host, command: Command) -> CommandResult:
            if next(left, None) is not None:
                raise Unreachable(Failure(kind=FailureKind.UNREACHABLE, message="no answer on port 22", transient=True))
            return host.answer(command)

        return answer

    return respond


async def test_a_host_comes_back_with_a_new_boot_id():
    host = NixosHost(OLD, loader=NEW)
    shell = host.shell()
    shell.answers(*BOOT_ID, with_=no_answer(20)(host))
    said: list[str] = []
    assert await do_reboot(shell, said=said)
    assert host.booted == NEW
    assert said == [f"rebooting (boot id {BOOT_1})", f"is back with boot id {BOOT_2}"]
    assert "w1" in shell.forgotten


async def test_a_host_that_has_rebooted_into_the_closure_is_not_rebooted_again():
    host = NixosHost(NEW, boot_id=BOOT_2)
    shell = host.shell()
    assert not await do_reboot(shell)
    assert "systemctl reboot" not in shell.lines()


async def test_a_host_that_a_killed_controller_rebooted_is_waited_for_and_not_rebooted_again():
    host = NixosHost(NEW, boot_id=BOOT_2)
    shell = host.shell()
    shell.answers("sh", "-c", with_=no_answer(20)(host))
    said: list[str] = []
    assert not await do_reboot(shell, said=said)
    assert said == ["does not answer; waiting, as it may be rebooting already"]
    assert not any(line.startswith("systemctl reboot") for line in shell.lines())


async def test_a_host_that_was_down_from_the_start_is_given_up_at_the_same_deadline():
    host = NixosHost(OLD)
    shell = host.shell()
    shell.answers("sh", "-c", with_=no_answer(100_000)(host))
    failure = await reboot_failure(shell, deadline=60.0)
    assert "did not come back within 60 s" in failure.message
    assert "no answer on port 22" in failure.seen


async def test_a_changed_host_key_is_not_waited_out():
    def refuse(_host, _command):
        raise task_error(FailureKind.HOST_KEY, "another key")

    shell = NixosHost(OLD).shell()
    shell.answers("sh", "-c", with_=refuse)
    assert (await reboot_failure(shell)).kind is FailureKind.HOST_KEY


async def test_a_host_that_rebooted_into_something_else_is_rebooted():
    host = NixosHost(OLD, boot_id="00000000-0000-4000-8000-00000000000f", loader=NEW)
    assert await do_reboot(host.shell())


async def test_a_host_that_still_answers_with_its_old_boot_id_is_waited_for():
    host = NixosHost(OLD, loader=NEW)
    shell = host.shell()
    shell.answers("systemctl", "reboot", exit_code=0)
    answers = iter([BOOT_1, BOOT_1, "", BOOT_2])
    shell.answers(*BOOT_ID, with_=lambda _h, _c: CommandResult(exit_code=0, stdout=next(answers)))
    assert await do_reboot(shell)


async def test_a_host_that_never_goes_down_is_told_apart():
    shell = NixosHost(OLD).shell().answers("systemctl", "reboot", exit_code=0)
    failure = await reboot_failure(shell, deadline=60)
    assert failure.kind is FailureKind.REBOOT
    assert "did not go down within 60 s" in failure.message


def goes_down(shell: FakeShell) -> None:
    """Once it is told to reboot: connecting then takes until a time-out."""
    shell.connect_timeout = 50.0

    def down(_host, _command):
        shell.unreachable("w1")
        raise lost("the connection went down")

    shell.answers("systemctl", "reboot", with_=down)


@pytest.mark.parametrize("from_the_start", [True, False])
@pytest.mark.parametrize(("deadline", "seen"), [(60.0, "w1 does not answer"), (20.0, "no answer")])
async def test_a_look_that_connects_to_nothing_does_not_outlast_the_deadline(
    from_the_start: bool, deadline: float, seen: str
):
    shell = NixosHost(OLD).shell()
    goes_down(shell)
    if from_the_start:
        shell.unreachable("w1")

    failure = await reboot_failure(shell, deadline)

    assert f"did not come back within {deadline:.0f} s" in failure.message
    assert failure.seen == seen
    assert anyio.current_time() <= deadline + 0.1


async def test_a_host_that_never_comes_back_is_told_apart():
    host = NixosHost(OLD)
    shell = host.shell()

    def down(_host, _command):
        shell.unreachable("w1")
        raise lost("the connection went down")

    shell.answers("systemctl", "reboot", with_=down)
    failure = await reboot_failure(shell)
    assert "did not come back within 300 s" in failure.message
    assert failure.seen == "w1 does not answer"


async def test_a_login_refused_while_booting_is_not_the_end_but_a_changed_host_key_is():
    for kind, ends in ((FailureKind.AUTHENTICATION, False), (FailureKind.HOST_KEY, True)):
        host = NixosHost(OLD, loader=NEW)
        shell = host.shell()

        def refused(_host, _command, kind=kind):
            raise task_error(kind, "refused")

        shell.answers(*BOOT_ID, with_=refused, times=1)
        if ends:
            assert (await reboot_failure(shell)).kind is FailureKind.HOST_KEY
        else:
            assert await do_reboot(shell)


async def test_a_refused_reboot_shows_why():
    shell = NixosHost(OLD).shell().answers("systemctl", "reboot", exit_code=1, stderr="Operation inhibited by apt\n")
    failure = await reboot_failure(shell)
    assert failure.evidence == ("Operation inhibited by apt",)


# --- prove -----------------------------------------------------------------------------------------------------------


def a_proof(**fields: object) -> ProveHost:
    proof = ProveHost(host=HOST.name, closure=NEW, rebooted_from=None)
    return replace(proof, **fields)  # type: ignore[arg-type]


async def proof_failure(host: NixosHost, proof: ProveHost) -> Failure:
    with pytest.raises(TaskError) as caught:
        await prove(host.shell(), LoopClock(), HOST, proof)
    return caught.value.failure


async def test_a_switched_host_is_proved():
    assert await prove(NixosHost(NEW, booted=OLD).shell(), LoopClock(), HOST, a_proof()) == ()


async def test_a_rebooted_host_is_proved():
    assert await prove(NixosHost(NEW, boot_id=BOOT_2).shell(), LoopClock(), HOST, a_proof(rebooted_from=BOOT_1)) == ()


async def test_coming_back_on_the_old_system_has_its_own_name():
    failure = await proof_failure(NixosHost(OLD, boot_id=BOOT_2, profile=NEW), a_proof(rebooted_from=BOOT_1))
    assert failure.kind is FailureKind.FELL_BACK
    assert OLD in failure.seen


async def test_an_unchanged_boot_id_is_no_reboot():
    failure = await proof_failure(NixosHost(NEW), a_proof(rebooted_from=BOOT_1))
    assert failure.kind is FailureKind.REBOOT


async def test_a_host_that_went_back_and_one_that_only_waits_for_a_boot_are_told_apart():
    assert (await proof_failure(NixosHost(OLD), a_proof())).kind is FailureKind.FELL_BACK
    assert (await proof_failure(NixosHost(OLD, profile=NEW), a_proof())).kind is FailureKind.ACTIVATION


async def test_a_unit_that_failed_before_the_change_does_not_count():
    host = NixosHost(NEW, boot_id=BOOT_2, failed=("a.service",))
    await prove(host.shell(), LoopClock(), HOST, a_proof(rebooted_from=BOOT_1, failed_before=("a.service",)))
    assert (await proof_failure(host, a_proof(rebooted_from=BOOT_1))).kind is FailureKind.UNIT


async def test_after_a_switch_only_the_nodes_units_are_fatal():
    host = NixosHost(NEW, failed=("a.service",))
    assert await prove(host.shell(), LoopClock(), HOST, a_proof()) == ("a.service failed",)
    host = NixosHost(NEW, failed=("k3s.service",))
    assert (await proof_failure(host, a_proof())).kind is FailureKind.UNIT


async def test_units_are_counted_only_when_the_boot_is_over():
    host = NixosHost(NEW, boot_id=BOOT_2, failed=("slow.service",))
    shell = host.shell().answers("systemctl", "is-system-running", stdout="starting\n", times=5)
    host.state = "degraded"
    with pytest.raises(TaskError):
        await prove(shell, LoopClock(), HOST, a_proof(rebooted_from=BOOT_1))
    assert shell.lines().count("systemctl is-system-running") == 6


async def test_a_boot_that_never_ends_is_not_waited_for_forever():
    host = NixosHost(NEW, boot_id=BOOT_2, state="starting")
    assert await prove(host.shell(), LoopClock(), HOST, a_proof(rebooted_from=BOOT_1)) == ()


# --- roll back -------------------------------------------------------------------------------------------------------


async def do_roll_back(shell: FakeShell, *, with_reboot: bool = False) -> list[str]:
    said: list[str] = []
    action = RollBack(host=HOST.name, way_back=BACK, reboot=with_reboot)
    await roll_back(shell, LoopClock(), HOST, action, RUN, said.append)
    return said


async def roll_back_failure(shell: FakeShell, *, with_reboot: bool = False) -> Failure:
    with pytest.raises(TaskError) as caught:
        await do_roll_back(shell, with_reboot=with_reboot)
    return caught.value.failure


async def test_a_switched_host_is_switched_back():
    host = NixosHost(OLD, current=NEW, profile=NEW, loader=NEW)
    host.timers["nixkube-deploy-deadman-x-00000000.timer"] = ("sh", "-c", "...")
    shell = host.shell()
    await do_roll_back(shell)
    assert (host.current, host.profile, host.loader) == (OLD, OLD, OLD)
    assert host.timers == host.units == {}
    assert "systemctl reboot" not in shell.lines()


async def test_rolling_back_twice_is_fine():
    host = NixosHost(OLD, current=NEW, profile=NEW, loader=NEW)
    shell = host.shell()
    await do_roll_back(shell)
    await do_roll_back(shell)
    assert host.current == OLD


async def test_a_rebooted_host_is_booted_back():
    host = NixosHost(NEW, boot_id="00000000-0000-4000-8000-00000000000f")
    shell = host.shell()
    await do_roll_back(shell, with_reboot=True)
    assert (host.booted, host.loader) == (OLD, OLD)
    assert "systemctl reboot" in shell.lines()


async def test_a_host_that_has_not_rebooted_yet_only_gets_its_loader_back():
    host = NixosHost(OLD, profile=NEW, loader=NEW)
    shell = host.shell()
    await do_roll_back(shell, with_reboot=True)
    assert (host.loader, host.profile) == (OLD, OLD)
    assert "systemctl reboot" not in shell.lines()


async def test_a_host_that_had_to_reboot_into_the_new_system_reboots_out_of_it():
    """A switch that an inhibitor turned into a boot: the same inhibitor is in the way of switching back."""
    host = NixosHost(NEW, boot_id=BOOT_2)
    await do_roll_back(host.shell())
    assert (host.booted, host.current) == (OLD, OLD)
    assert host.boot_id not in {BOOT_1, BOOT_2}


async def test_a_way_back_that_hangs_is_no_way_back():
    host = NixosHost(OLD, switches=[Switch(looks=10_000)])
    failure = await roll_back_failure(host.shell())
    assert failure.kind is FailureKind.TIMEOUT
    assert "still running after 900 s" in failure.seen


async def test_a_hanging_switch_is_stopped_first():
    unit = f"nixkube-deploy-switch-{RUN}-00000000.service"
    host = NixosHost(OLD, profile=NEW, units={unit: Unit(argv=(f"{NEW}/bin/switch-to-configuration", "switch"))})
    shell = host.shell()
    await do_roll_back(shell)
    assert host.units == {}
    assert host.current == OLD


async def test_a_dead_man_at_work_is_waited_for():
    unit = f"nixkube-deploy-deadman-{RUN}-00000000.service"
    host = NixosHost(OLD, current=NEW, profile=NEW, units={unit: Unit(argv=("sh", "-c"), state="active")})
    shell = host.shell()
    looks = iter(range(4))

    def look(_host, command):
        if next(looks, None) is None:
            host.units.pop(unit, None)
        return host.answer(command)

    shell.answers("sh", "-c", with_=look)
    said = await do_roll_back(shell)
    assert "already" in said[0]
    assert host.current == OLD


async def test_a_switch_of_another_run_is_not_interfered_with():
    unit = "nixkube-deploy-switch-20260101T000000Z-dead-00000000.service"
    host = NixosHost(OLD, units={unit: Unit(argv=("x", "switch"))})
    failure = await roll_back_failure(host.shell())
    assert failure.kind is FailureKind.LOCKED
    assert unit in host.units


async def test_units_that_fail_on_the_old_system_are_told_but_do_not_make_it_a_failure():
    host = NixosHost(OLD, current=NEW, profile=NEW, switches=[Switch(code=4)], failed=("a.service",))
    assert "a.service" in (await do_roll_back(host.shell()))[-1]


async def test_units_of_the_node_that_fail_on_the_old_system_make_it_a_failure():
    says = ("warning: the following units failed: a.service, k3s.service",)
    host = NixosHost(OLD, current=NEW, profile=NEW, switches=[Switch(code=4, says=says)])
    failure = await roll_back_failure(host.shell())
    assert (failure.kind, failure.exit_code) == (FailureKind.UNIT, 4)
    assert failure.message == "w1 is back on its old system, but k3s.service failed to start"


async def test_the_way_back_costs_two_round_trips_and_a_cleaning_up():
    host = NixosHost(OLD, current=NEW, profile=NEW, loader=NEW)
    shell = host.shell()
    await do_roll_back(shell)
    assert len(shell.ran) == 3


async def test_going_back_keeps_the_generations_number():
    host = NixosHost(OLD, current=NEW, profile=NEW, loader=NEW, generations={41: OLD, 42: NEW})
    shell = host.shell()
    await do_roll_back(shell)
    assert host.profile == OLD
    assert any("--switch-generation 41 ||" in line for line in shell.lines())


async def test_going_back_from_a_trial_leaves_the_profile_alone():
    other = store_path("booted-next")
    host = NixosHost(OLD, current=NEW, profile=other, loader=other)
    action = RollBack(host=HOST.name, way_back=BACK, reboot=False, mode=SwitchMode.TEST)
    await roll_back(host.shell(), LoopClock(), HOST, action, RUN, lambda _line: None)
    assert (host.current, host.profile, host.loader) == (OLD, other, other)


async def test_a_host_that_ran_a_specialisation_and_rebooted_runs_it_again():
    top = store_path("nixos-system-w1-top")
    host = NixosHost(NEW, boot_id=BOOT_2)
    back = replace(BACK, booted=top, profile=top)
    action = RollBack(host=HOST.name, way_back=back, reboot=True)
    await roll_back(host.shell(), LoopClock(), HOST, action, RUN, lambda _line: None)
    assert (host.booted, host.current, host.profile) == (top, OLD, top)


@pytest.mark.parametrize("with_reboot", [True, False])
async def test_a_way_back_that_fails_says_what_the_host_runs(with_reboot):
    host = NixosHost(OLD, current=NEW, profile=NEW, switches=[Switch(code=1, says=("no",))])
    shell = host.shell()
    failure = await roll_back_failure(shell, with_reboot=with_reboot)
    assert failure.kind is FailureKind.ACTIVATION
    assert f"/run/current-system is {NEW}" in failure.seen
    assert failure.evidence == ("no",)
    assert "systemctl reboot" not in shell.lines()


async def test_a_held_lock_is_transient():
    host = NixosHost(OLD, current=NEW, profile=NEW, switches=[Switch(code=11, says=("Could not acquire lock",))])
    failure = await roll_back_failure(host.shell())
    assert failure.kind is FailureKind.LOCKED
    assert failure.transient


async def test_losses_on_the_way_back_are_made_good():
    for step in ("@starting", "systemctl show", "systemctl reset-failed"):
        host = NixosHost(OLD, current=NEW, profile=NEW, switches=[Switch(looks=2)])
        host.timers["nixkube-deploy-deadman-x-00000000.timer"] = ("sh", "-c", "...")
        shell = host.shell()
        shell.loses(holding=step, first=lambda _h, command, host=host: host.answer(command))
        await do_roll_back(shell)
        assert host.current == OLD


async def test_an_unreachable_host_fails_at_once():
    shell = NixosHost(OLD).shell()
    shell.unreachable("w1")
    assert (await roll_back_failure(shell)).kind is FailureKind.UNREACHABLE
