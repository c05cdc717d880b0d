"""Rebooting a host, proving that it is what it should be, and taking it back to what it was.

A lost connection is expected here; what is never accepted is a host whose boot id, system or units were not looked at.
"""

from typing import Final

import anyio

from nixkube_deploy.model.action import ProveHost, RebootHost, RollBack, SwitchMode
from nixkube_deploy.model.error import OutcomeUnknown, TaskError, Unreachable, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Distribution, Host
from nixkube_deploy.model.names import RunId, StorePath
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.shell import Command, OnLine, Shell
from nixkube_deploy.protocols import transient
from nixkube_deploy.protocols.destination import SWITCH_TO_CONFIGURATION, Destination, back_to
from nixkube_deploy.protocols.launch import Launch, launch
from nixkube_deploy.protocols.patience import PatientShell, pauses
from nixkube_deploy.protocols.situation import Situation, look
from nixkube_deploy.protocols.transient import Ended, Ending, Overdue, failed_units

_POLL_TIMEOUT: Final = 10.0
_BOOT_LOOKS: Final = 60
"""How often, a second apart, a host that is still booting is looked at before its failed units are counted."""

_GOING_BACK_LOOKS: Final = 60
_UNITS_FAILED: Final = 4
_LOCK_HELD: Final = "Could not acquire lock"
_EVIDENCE: Final = 20

_NODE_UNITS: Final = frozenset().union(*(d.node_units for d in Distribution))


async def reboot(shell: Shell, clock: Clock, host: Host, action: RebootHost, deadline: float, report: OnLine) -> bool:
    """Reboot the host and wait, at most ``deadline`` seconds, until it answers with a new boot id.

    False when there was nothing to do: the host has left ``action.boot_id`` behind and booted the closure.

    Raises:
        TaskError: REBOOT, saying whether it never went down or never came back; and what ``Shell`` raises before that.
    """
    end = clock.monotonic() + deadline
    seen = await _answer(shell, clock, host, deadline, report)
    if seen.boot_id != action.boot_id and seen.booted == action.closure:
        return False
    await restart(shell, clock, host, end - clock.monotonic(), report)
    return True


async def _answer(shell: Shell, clock: Clock, host: Host, deadline: float, report: OnLine) -> Situation:
    """A look at a host that may be down already: a controller that was killed may have told it to reboot."""
    end, last = clock.monotonic() + deadline, ""
    for pause in pauses():
        try:
            return await look(shell, host)
        except TaskError as error:
            if not _may_be_booting(error):
                raise
            if not last:
                report("does not answer; waiting, as it may be rebooting already")
            last = error.failure.message
        if clock.monotonic() + pause > end:
            break
        await shell.forget(host)
        await anyio.sleep(pause)
    raise TaskError(_not_back(host, deadline, last, went_down=True))


def _may_be_booting(error: TaskError) -> bool:
    """Whether a host that is going down or coming up could answer so; it refuses logins for a while (pam_nologin)."""
    return isinstance(error, OutcomeUnknown | Unreachable) or error.failure.kind is FailureKind.AUTHENTICATION


async def restart(shell: Shell, clock: Clock, host: Host, deadline: float, report: OnLine) -> None:
    """Reboot, whatever the host runs, and wait for the new boot id."""
    end = clock.monotonic() + deadline
    before = (await look(shell, host)).boot_id
    report(f"rebooting (boot id {before})")
    await _ask_to_reboot(shell, host)
    await shell.forget(host)
    went_down, last = False, "it still answers with the boot id it had before"
    for pause in pauses():
        try:
            now = await _boot_id(shell, host)
        except TaskError as error:
            if not _may_be_booting(error):
                raise
            went_down = went_down or isinstance(error, OutcomeUnknown | Unreachable)
            last = error.failure.message
            await shell.forget(host)
        else:
            if now not in {before, ""}:
                report(f"is back with boot id {now}")
                return
        if clock.monotonic() + pause > end:
            raise TaskError(_not_back(host, deadline, last, went_down=went_down))
        await anyio.sleep(pause)


async def _ask_to_reboot(shell: Shell, host: Host) -> None:
    command = Command(argv=("systemctl", "reboot"), privileged=True, timeout=30.0)
    try:
        result = await shell.run(host, command)
    except OutcomeUnknown:
        return  # As expected: the connection went down with the host. The boot id tells whether it did.
    if not result.ok:
        raise task_error(
            FailureKind.REBOOT,
            f"{host.name} refused to reboot",
            expected="systemctl reboot to exit with 0",
            seen=f"exit code {result.exit_code}",
            evidence=result.tail(),
            next=f"systemd-inhibit --list on {host.name}",
            command="systemctl reboot",
            exit_code=result.exit_code,
        )


async def _boot_id(shell: Shell, host: Host) -> str:
    command = Command(argv=("cat", "/proc/sys/kernel/random/boot_id"), timeout=_POLL_TIMEOUT)
    return (await shell.run(host, command)).stdout.strip()


def _not_back(host: Host, deadline: float, last: str, *, went_down: bool) -> Failure:
    return Failure(
        kind=FailureKind.REBOOT,
        message=f"{host.name} did not come back within {deadline:.0f} s after its reboot"
        if went_down
        else f"{host.name} did not go down within {deadline:.0f} s after it was told to reboot",
        expected="an SSH login with a new boot id",
        seen=last,
        next=f"look at the console of {host.name}; with a new kernel, choose the older generation in the boot menu"
        if went_down
        else f"systemctl list-jobs on {host.name} shows what its shutdown waits for",
    )


async def prove(shell: Shell, host: Host, action: ProveHost) -> tuple[str, ...]:
    """Prove that the host runs (and, after a reboot, booted) the closure. Returns what is worth a warning.

    After a reboot every newly failed unit counts; after a switch only those of the node, as for its exit code 4.

    Raises:
        TaskError: FELL_BACK (it runs or booted another system), REBOOT (it did not reboot), ACTIVATION, UNIT.
    """
    seen = await look(shell, host)
    if action.rebooted_from is not None and seen.boot_id == action.rebooted_from:
        raise task_error(
            FailureKind.REBOOT,
            f"{host.name} has not rebooted",
            expected=f"a boot id other than {action.rebooted_from}",
            seen="the same boot id",
            next=f"uptime and journalctl --list-boots on {host.name}",
        )
    if action.rebooted_from is not None and seen.booted != action.closure:
        raise TaskError(_came_back_old(host, action.closure, seen))
    if seen.current != action.closure:
        raise TaskError(_runs_another(host, action.closure, seen))
    if action.rebooted_from is not None:
        seen = await _settled(shell, host, seen)
    return _judge_units(host, action, seen)


def _came_back_old(host: Host, closure: StorePath, seen: Situation) -> Failure:
    return Failure(
        kind=FailureKind.FELL_BACK,
        message=f"{host.name} rebooted, but came back on another system than the new one",
        expected=f"/run/booted-system to be {closure}",
        seen=f"/run/booted-system is {seen.booted}, /run/current-system is {seen.current}",
        next=f"bootctl list and journalctl -b -1 on {host.name}: the new generation did not boot or is not the default",
    )


def _runs_another(host: Host, closure: StorePath, seen: Situation) -> Failure:
    waits = seen.profile == closure and seen.current != closure
    return Failure(
        kind=FailureKind.ACTIVATION if waits else FailureKind.FELL_BACK,
        message=f"{host.name} does not run the new system yet; only the next boot would"
        if waits
        else f"{host.name} does not run the new system: it went back, or was switched by something else",
        expected=f"/run/current-system to be {closure}",
        seen=f"/run/current-system is {seen.current}",
        next=f"deploy reboot --on {host.name}" if waits else f"journalctl -u 'nixkube-deploy-*' on {host.name}",
    )


async def _settled(shell: Shell, host: Host, seen: Situation) -> Situation:
    """A look at a host that has finished booting, or has taken too long to wait for."""
    running = Command(argv=("systemctl", "is-system-running"), timeout=_POLL_TIMEOUT)
    for _ in range(_BOOT_LOOKS):
        if (await shell.run(host, running)).stdout.strip() not in {"initializing", "starting"}:
            return await look(shell, host)
        await anyio.sleep(1)
    return seen


def _judge_units(host: Host, action: ProveHost, seen: Situation) -> tuple[str, ...]:
    new = tuple(u for u in seen.failed if u not in action.failed_before)
    fatal = new if action.rebooted_from is not None else tuple(u for u in new if u in _NODE_UNITS)
    if fatal:
        raise task_error(
            FailureKind.UNIT,
            f"{host.name} runs the new system, but {', '.join(fatal)} failed",
            expected="no unit that failed anew",
            seen=f"failed units: {', '.join(seen.failed)}",
            next=f"systemctl status {fatal[0]} on {host.name}",
        )
    return tuple(f"{unit} failed" for unit in new)


async def roll_back(shell: Shell, clock: Clock, host: Host, action: RollBack, run: RunId, report: OnLine) -> None:
    """Take the host back to ``action.way_back``: by a switch, or by a reboot where it booted something else.

    It goes to the recorded path, never to "the generation before". Safe to repeat: every step sets what is to be,
    and the end is judged by what the host runs. A host that had to reboot into the new system reboots out of it.

    Raises:
        TaskError: ACTIVATION, UNIT, REBOOT, TIMEOUT; transient LOCKED and OUTCOME_UNKNOWN.
    """
    found = await look(shell, host)  # Unreachable here: nothing was done. From here on the host is insisted upon.
    patient, back = PatientShell(shell, host, clock), action.way_back
    seen = await _may_begin(patient, run, found, report)
    boots = action.reboot or _booted_another(action, seen)
    way = back_to(back, SwitchMode.BOOT if boots else action.mode)
    ended, after, lines = await _go(patient, run, way, seen, report)
    well = isinstance(ended, Ended) and ended.exit_code == 0
    if well and boots and (seen.current != back.system or _booted_another(action, seen)):
        await restart(shell, clock, host, action.reboot_timeout, report)
        after = await patient.look()
        if back.profile is not None and after.current == back.profile != back.system:
            ended, after, lines = await _go(patient, run, way.by(SwitchMode.TEST), after, report)
    if after.current != back.system or (boots and not well) or isinstance(ended, Overdue):
        raise TaskError(_not_taken_back(host, action, ended, after, lines))
    if isinstance(ended, Ended) and ended.exit_code == _UNITS_FAILED:
        _judge_failed_units(host, back.system, failed_units(lines) or after.failed, lines, report)


async def _go(
    patient: PatientShell, run: RunId, way: Destination, seen: Situation, report: OnLine
) -> tuple[Ending, Situation, tuple[str, ...]]:
    """One launch on the way back: how it ended, where the host is then, and what a program that ended badly said."""
    unit = transient.unit_name("rollback", run, way.system)
    if seen.is_running(unit):
        ended = await transient.follow(patient, unit)
        after = await patient.look()
    else:
        clear = tuple(dict.fromkeys((*seen.dead_men, *seen.leftovers(run))))
        ended, after = await launch(patient, Launch(unit=unit, destination=way, clear=clear), seen.boot_id, report)
    lines = () if isinstance(ended, Ended) and ended.exit_code == 0 else await transient.journal(patient, unit)
    if not isinstance(ended, Overdue):
        await transient.forget_units(patient, unit)
    return ended, after, lines


def _judge_failed_units(
    host: Host, system: str, units: tuple[str, ...], lines: tuple[str, ...], report: OnLine
) -> None:
    """Back on what worked, but does it work? Units of the node decide, as on the way ahead."""
    fatal = tuple(unit for unit in units if unit in _NODE_UNITS)
    if not fatal:
        report(f"back on {system}, but these units failed: {', '.join(units)}")
        return
    raise task_error(
        FailureKind.UNIT,
        f"{host.name} is back on its old system, but {', '.join(fatal)} failed to start",
        expected="the kubelet and the container runtime to run",
        seen=f"failed units: {', '.join(units)}",
        evidence=lines[-_EVIDENCE:],
        next=f"{host.login} systemctl status {fatal[0]}",
        exit_code=_UNITS_FAILED,
    )


def _booted_another(action: RollBack, seen: Situation) -> bool:
    back = action.way_back
    return seen.boot_id != back.boot_id and seen.booted not in {back.system, back.booted}


async def _may_begin(patient: PatientShell, run: RunId, seen: Situation, report: OnLine) -> Situation:
    """Nothing else may change the host: a timer that has fired is left to finish, another run's switch is respected."""
    for pause, _ in zip(pauses(), range(_GOING_BACK_LOOKS), strict=False):
        if not seen.going_back:
            break
        report("its dead-man timer is taking it back already; waiting for that")
        await anyio.sleep(pause)
        seen = await patient.look()
    if others := seen.foreign(run):
        raise task_error(
            FailureKind.LOCKED,
            f"{patient.host.name} cannot be taken back now: {', '.join(others)} of another run is at work on it",
            expected="one activation at a time",
            seen=f"still running: {', '.join(others)}",
            next=f"{patient.host.login} systemctl status {others[0]}",
            transient=True,
        )
    return seen


def _not_taken_back(host: Host, action: RollBack, ended: Ending, after: Situation, lines: tuple[str, ...]) -> Failure:
    locked, kind = _LOCK_HELD in "\n".join(lines), FailureKind.ACTIVATION
    match ended:
        case Ended(exit_code=code, result=result):
            how = f"exit code {code} ({result})"
        case Overdue(seconds=seconds):
            how, kind = f"still running after {seconds:g} s", FailureKind.TIMEOUT
        case _:
            how = "its result was lost"
    return Failure(
        kind=FailureKind.LOCKED if locked else kind,
        message=f"{host.name} could not be taken back to {action.way_back.system}",
        expected=f"/run/current-system to be {action.way_back.system}, and the system of the next boot",
        seen=f"switch-to-configuration: {how}; /run/current-system is {after.current}",
        evidence=lines[-_EVIDENCE:],
        next=f"on {host.name}: {action.way_back.system}/{SWITCH_TO_CONFIGURATION} switch",
        exit_code=ended.exit_code if isinstance(ended, Ended) else None,
        transient=locked or not isinstance(ended, Ended | Overdue),
    )
