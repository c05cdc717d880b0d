"""Programs that outlive our connection: transient systemd units with names of their own, followed and read.

What an exit code means is for the caller to say; this module only makes sure that it is read and never guessed.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import anyio

from nixkube_deploy.model.names import RunId, StorePath
from nixkube_deploy.ports.shell import OnLine
from nixkube_deploy.protocols.patience import PatientShell, pauses
from nixkube_deploy.protocols.situation import DEAD_MAN, PREFIX, Situation

_PROPERTIES: Final = "--property=LoadState,ActiveState,SubState,Result,ExecMainStatus"
_JOURNAL_LINES: Final = "40"
_QUEUED_LOOKS: Final = 15
"""How often a unit may be found loaded but not started before it counts as gone."""

_JOURNAL_LOOKS: Final = 6
_FAILED_UNITS: Final = re.compile(r"the following units failed: (.+)")

STILL_HERE: Final = 120.0
"""Seconds after which a controller that waits for a unit tells the dead-man timer that it still does."""


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


class Running:
    """The unit still runs."""


class Queued:
    """systemd knows the unit and has not started it."""


Ending = Ended | Gone | Overdue
"""How waiting for a unit ends."""


def unit_name(verb: str, run: RunId, path: StorePath) -> str:
    """The name under which a killed controller's successor finds the unit again."""
    return f"{PREFIX}{verb}-{run}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def dead_man_name(run: RunId, closure: StorePath) -> str:
    """The dead-man timer of one change."""
    return f"{DEAD_MAN}{run}-{hashlib.sha256(closure.encode()).hexdigest()[:8]}"


def read_state(answer: str) -> Ended | Gone | Running | Queued:
    """What ``systemctl show`` says of a unit."""
    shown = _properties(answer)
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
            return Queued()
        case _:
            return Running()


async def state_of(patient: PatientShell, unit: str) -> Ended | Gone | Running | Queued:
    """What systemd says of a unit now."""
    return read_state((await patient.run("systemctl", "show", unit, _PROPERTIES)).stdout)


def _properties(answer: str) -> Mapping[str, str]:
    pairs = (line.partition("=") for line in answer.splitlines())
    return {key: value.strip() for key, _, value in pairs}


async def follow(patient: PatientShell, unit: str, *, waited: float = 0.0, timer: str | None = None) -> Ending:
    """Wait for the unit's end and read it; a connection that breaks meanwhile is made again.

    The host's ``activation_timeout`` (of which ``waited`` seconds are over) ends the wait, not the unit. A dead-man
    ``timer`` counts from the last time this host heard from us: a switch that takes long is not taken back for it.
    """
    queued, limit = 0, patient.host.policy.activation_timeout
    now = patient.clock.monotonic()
    give_up, tell = now + limit - waited, now + max(STILL_HERE - waited, 0.0)
    for pause in pauses():
        if timer is not None and patient.clock.monotonic() >= tell:
            await start_over(patient, timer)
            tell = patient.clock.monotonic() + STILL_HERE
        state = await state_of(patient, unit)
        queued = queued + 1 if isinstance(state, Queued) else 0
        if isinstance(state, Ended | Gone):
            return state
        if queued > _QUEUED_LOOKS:
            return Gone()
        if patient.clock.monotonic() > give_up:
            return Overdue(seconds=limit)
        await anyio.sleep(pause)
    raise AssertionError("pauses never end")


async def outlast_shutdown(patient: PatientShell, boot_id: str, say: OnLine) -> Situation | None:
    """Where a unit died because its host is going down: the next boot. None: the host is not going down."""
    command = ("systemctl", "is-system-running")
    if (await patient.run(*command)).stdout.strip() != "stopping":
        seen = await patient.look()
        return None if seen.boot_id == boot_id else seen
    say("the host is shutting down; waiting for its next boot")
    give_up = patient.clock.monotonic() + patient.host.policy.reboot_timeout
    for pause in pauses():
        seen = await patient.look()
        if seen.boot_id != boot_id or patient.clock.monotonic() > give_up:
            return seen
        await anyio.sleep(pause)
    raise AssertionError("pauses never end")


async def start_over(patient: PatientShell, timer: str) -> None:
    """Let a dead-man timer count from now. One that has fired, or was never armed, is left alone.

    As long as its service runs, systemd counts the timer as active, and would arm it a second time.
    """
    restart = f"systemctl is-active --quiet {timer}.service || systemctl try-restart {timer}.timer"
    await patient.run("sh", "-c", restart, privileged=True)


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


def failed_units(lines: Iterable[str]) -> tuple[str, ...]:
    """The units that switch-to-configuration says have failed."""
    named = _FAILED_UNITS.findall("\n".join(lines))
    return tuple(unit for group in named for unit in re.split(r"[,\s]+", group) if unit)


def forget_lines(units: Iterable[str]) -> tuple[str, ...]:
    """Commands by which systemd forgets units: what runs is stopped, what failed is no longer held against the host.

    Failing to is harmless: their names are unique.
    """
    names = " ".join(units)
    return (f"systemctl stop {names} 2>/dev/null", f"systemctl reset-failed {names} 2>/dev/null") if names else ()


async def forget_units(patient: PatientShell, *units: str) -> None:
    """Let systemd forget units that were read."""
    if units:
        await patient.run("sh", "-c", "\n".join(forget_lines(units)), privileged=True)
