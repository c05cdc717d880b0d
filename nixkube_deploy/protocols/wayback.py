"""Taking a host back to what it was: by a switch, or by a reboot where it booted something else.

It decides nothing about when; that the host failed is the caller's knowledge.
"""

from typing import Final

import anyio

from nixkube_deploy.model.action import RollBack, SwitchMode
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import RunId
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.shell import OnLine, Shell
from nixkube_deploy.protocols import bootentry, transient
from nixkube_deploy.protocols.destination import LOCK_HELD, SWITCH_TO_CONFIGURATION, UNITS_FAILED, Destination, back_to
from nixkube_deploy.protocols.launch import Launch, launch
from nixkube_deploy.protocols.patience import PatientShell, pauses
from nixkube_deploy.protocols.reboot import NODE_UNITS, restart
from nixkube_deploy.protocols.situation import Situation, look
from nixkube_deploy.protocols.transient import Ended, Ending, Overdue, failed_units

_GOING_BACK_LOOKS: Final = 60
_EVIDENCE: Final = 20


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
    if action.reboot or action.armed:
        await bootentry.disarm(patient)
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
    if isinstance(ended, Ended) and ended.exit_code == UNITS_FAILED:
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
    fatal = tuple(unit for unit in units if unit in NODE_UNITS)
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
        exit_code=UNITS_FAILED,
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
    locked, kind = LOCK_HELD in "\n".join(lines), FailureKind.ACTIVATION
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
