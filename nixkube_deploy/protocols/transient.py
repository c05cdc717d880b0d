"""Programs that outlive our connection: transient systemd units with names of their own, started, followed and read.

What an exit code means is for the caller to say; this module only makes sure that it is read and never guessed.
"""

import hashlib
from dataclasses import dataclass
from itertools import islice
from typing import Final

import anyio

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.error import OutcomeUnknown, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import RunId, StorePath
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine
from nixkube_deploy.protocols.patience import PatientShell, pauses
from nixkube_deploy.protocols.probe import PROFILE
from nixkube_deploy.protocols.situation import DEAD_MAN, PREFIX

_PROPERTIES: Final = "--property=LoadState,ActiveState,SubState,Result,ExecMainStatus"
_JOURNAL_LINES: Final = "40"
_STARTS: Final = 3
"""How often a unit is started when its start is lost before it reached the host."""

_QUEUED_LOOKS: Final = 15
"""How often a unit may be found loaded but not started before it counts as gone."""

_JOURNAL_LOOKS: Final = 3
SWITCH_TO_CONFIGURATION: Final = "bin/switch-to-configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A unit's program ended. ``exit_code`` is None when it did not exit by itself (signal, out of memory)."""

    exit_code: int | None
    result: str = "success"
    """systemd's word for how."""


class Gone:
    """systemd does not know the unit: never started, cleaned up, or lost in a reboot. The host's state must tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """The unit still runs, longer than it may. Nobody has stopped it."""

    seconds: float


def unit_name(verb: str, run: RunId, path: StorePath) -> str:
    """The name under which a killed controller's successor finds the unit again."""
    return f"{PREFIX}{verb}-{run}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def dead_man_name(run: RunId, closure: StorePath) -> str:
    """The dead-man timer of one change."""
    return f"{DEAD_MAN}{run}-{hashlib.sha256(closure.encode()).hexdigest()[:8]}"


async def set_profile(patient: PatientShell, path: StorePath) -> None:
    """Make ``path`` the system profile's newest generation.

    Raises:
        TaskError: ACTIVATION (the path is not valid there, say) or DISK_FULL.
    """
    result = await patient.run("nix-env", "-p", PROFILE, "--set", path, privileged=True)
    if not result.ok:
        full = "No space left on device" in result.stderr
        raise task_error(
            FailureKind.DISK_FULL if full else FailureKind.ACTIVATION,
            f"{patient.host.name}: the system profile could not be set to {path}",
            expected="nix-env --set to exit with 0",
            seen=f"exit code {result.exit_code}",
            evidence=result.tail(),
            command=f"nix-env -p {PROFILE} --set {path}",
            exit_code=result.exit_code,
            next="nix-collect-garbage on the host" if full else "run apply again: it copies the closure once more",
        )


async def switch_in_unit(
    patient: PatientShell, unit: str, system: StorePath, mode: SwitchMode, on_line: OnLine
) -> Ended | Gone | Overdue:
    """Run ``system``'s switch-to-configuration in a unit, to its end, however often the connection breaks."""
    program = f"{system}/{SWITCH_TO_CONFIGURATION}"
    on_line(f"switch-to-configuration {mode.value} runs in {unit}.service")
    before = (await patient.look()).boot_id
    for _ in range(_STARTS):
        surely_started = await _start(patient, unit, (program, mode.value))
        ended = await follow(patient, unit)
        if surely_started or isinstance(ended, Ended | Overdue) or (await patient.look()).boot_id != before:
            return ended
    return Gone()


async def _start(patient: PatientShell, unit: str, argv: tuple[str, ...]) -> bool:
    """Start it; False when the connection broke meanwhile and only the host knows."""
    unit_options = (f"--unit={unit}", "--service-type=oneshot", "--remain-after-exit")
    command = Command(
        argv=("systemd-run", *unit_options, "--no-ask-password", "--no-block", "--", *argv), privileged=True
    )
    try:
        result = await patient.shell.run(patient.host, command)
    except OutcomeUnknown:
        return False
    if not result.ok and not _exists_already(result):
        raise task_error(
            FailureKind.ACTIVATION,
            f"{patient.host.name}: systemd did not start {argv[0].rpartition('/')[2]}",
            expected="systemd-run to exit with 0",
            seen=f"exit code {result.exit_code}",
            evidence=result.tail(),
            command=" ".join(command.argv),
            exit_code=result.exit_code,
        )
    return True


def _exists_already(result: CommandResult) -> bool:
    text = result.stderr + result.stdout
    return "already loaded" in text or "already exists" in text


async def follow(patient: PatientShell, unit: str) -> Ended | Gone | Overdue:
    """Wait for the unit's end and read it; a connection that breaks meanwhile is made again.

    The host's ``activation_timeout`` ends the wait, not the unit.
    """
    queued, limit = 0, patient.host.policy.activation_timeout
    give_up = patient.clock.monotonic() + limit
    for pause in pauses():
        shown = _properties(await patient.run("systemctl", "show", unit, _PROPERTIES))
        match shown.get("LoadState"), shown.get("ActiveState"):
            case "not-found", _:
                return Gone()
            case _, "failed":
                exited = shown.get("Result") == "exit-code"
                status = shown.get("ExecMainStatus", "")
                code = int(status) if exited and status.isdecimal() else None
                return Ended(exit_code=code, result=shown.get("Result", "failed"))
            case _, "active" if shown.get("SubState") == "exited":
                return Ended(exit_code=0)
            case _, "inactive":
                queued += 1
                if queued > _QUEUED_LOOKS:
                    return Gone()
            case _:
                queued = 0
        if patient.clock.monotonic() > give_up:
            return Overdue(seconds=limit)
        await anyio.sleep(pause)
    raise AssertionError("pauses never end")


def _properties(result: CommandResult) -> dict[str, str]:
    pairs = (line.partition("=") for line in result.stdout.splitlines())
    return {key: value.strip() for key, _, value in pairs}


async def journal(patient: PatientShell, unit: str) -> tuple[str, ...]:
    """The unit's last lines. journald may lag behind the unit's end, so an empty answer is asked for again."""
    for pause in islice(pauses(), _JOURNAL_LOOKS):
        command = ("journalctl", "-u", unit, "-o", "cat", "--no-pager", "-n", _JOURNAL_LINES)
        result = await patient.run(*command, privileged=True)
        lines = tuple(line for line in result.stdout.splitlines() if line.strip())
        if lines and lines != ("-- No entries --",):
            return lines
        await anyio.sleep(pause)
    return ()


async def forget_unit(patient: PatientShell, unit: str) -> None:
    """Let systemd forget a unit that was read. Failing to is harmless: its name is unique."""
    await patient.run("systemctl", "stop", unit, privileged=True)
    await patient.run("systemctl", "reset-failed", unit, privileged=True)


async def disarm(patient: PatientShell, timers: tuple[str, ...]) -> None:
    """Stop dead-man timers; one that is already gone is fine."""
    if timers:
        await patient.run("systemctl", "stop", *timers, privileged=True)
