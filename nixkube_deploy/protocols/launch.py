"""One script that prepares a change on a host, starts it in a unit of its own, waits for its end and tells how it was.

One round trip where all goes well. Where the answer is lost, the host is asked; nothing is started twice that may run.
"""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from nixkube_deploy.model.action import WayBack
from nixkube_deploy.model.error import OutcomeUnknown, TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine
from nixkube_deploy.protocols import script, transient
from nixkube_deploy.protocols.destination import Destination
from nixkube_deploy.protocols.patience import PatientShell
from nixkube_deploy.protocols.probe import BOOTED, CURRENT, NO_UNITS, PROFILE, TESTED, systemd_units
from nixkube_deploy.protocols.script import Question
from nixkube_deploy.protocols.situation import FIRED, LINKS, SYSTEM, Situation, situation
from nixkube_deploy.protocols.transient import STILL_HERE, Ended, Ending, Gone

STATE_DIRECTORY: Final = "/var/lib/nixkube-deploy"
WAY_BACK_FILE: Final = f"{STATE_DIRECTORY}/way-back.json"

_STARTS: Final = 3
"""How often a change is begun whose beginning is lost before it reached the host."""

_EVIDENCE: Final = 20
_GAVE_UP: Final = 90
_GIVES_UP: Final = f"exit {_GAVE_UP}"
_ELSEWHERE: Final = 91
_DONE: Final = "done"
_OUR_STATES: Final = systemd_units("--all 'nixkube-deploy-*'")
_SLACK: Final = 5.0
"""Seconds a script may take beyond the program it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMan:
    """A timer that takes the host back unless somebody stops it."""

    name: str
    seconds: float
    back: Destination

    def arm(self, unit: str) -> str:
        """The command that arms it. When it fires it says so, and stops a switch that hangs, for the lock's sake.

        A service's PATH on NixOS has no nix-env, hence the path of the system's own programs. No semicolon: systemd
        writes it escaped into the transient unit, and after a daemon-reload, which every switch does, the shell gets
        it with the backslash.
        """
        way = f"echo {self.name} >{FIRED} || true && systemctl stop {unit} || true && {self.back.line}"
        assert ";" not in way
        timer = (f"--unit={self.name}", f"--on-active={self.seconds:.0f}s", "--timer-property=AccuracySec=1s")
        path = "--setenv=PATH=/run/current-system/sw/bin"
        return shlex.join(("systemd-run", "--quiet", "--no-ask-password", *timer, path, "--", "sh", "-c", way))


@dataclass(frozen=True, slots=True, kw_only=True)
class AsFound:
    """What a host must still be for a change to begin without another look at it: as it was when it was planned."""

    back: WayBack

    @property
    def test(self) -> str:
        """Succeeds where the host has not been changed, nor begun to be, nor rebooted, since then."""
        profile = self.back.profile or self.back.system
        links = ((CURRENT, self.back.system), (BOOTED, self.back.booted), (PROFILE, profile))
        same = (f"test {link} -ef {shlex.quote(path)}" for link, path in links if path is not None)
        boot = f"grep -q {shlex.quote(self.back.boot_id)} /proc/sys/kernel/random/boot_id"
        return " && ".join((NO_UNITS, *same, boot))


class Elsewhere(Exception):  # noqa: N818 (an answer, not an error)
    """The host is not as it was found. Nothing was done to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One change of one host: what is done before it, and what it is."""

    unit: str
    destination: Destination
    clear: tuple[str, ...] = ()
    """Units that must be gone first: those of dead runs, and timers that would undo this change."""
    as_found: AsFound | None = None
    """Nothing at all is done where the host is anything else."""
    record: str = ""
    """The way back, for whoever finds the host."""
    dead_man: DeadMan | None = None

    @property
    def steps(self) -> tuple[tuple[str, str], ...]:
        """Name and command of everything, in order. Nothing disrupts before the last one, and all may be repeated.

        The names are none of those that the looks at the end go by.
        """
        way, found = self.destination, []
        if self.as_found is not None:
            found.append(("comparing", f"{self.as_found.test} || exit {_ELSEWHERE}"))
        if self.clear:
            found.append(("clearing", "\n".join(transient.forget_lines(self.clear))))
        if self.record:
            writes = f"printf '%s\\n' {shlex.quote(self.record)} >{WAY_BACK_FILE}"
            folder = f"test -d {STATE_DIRECTORY} || mkdir -p -m 0700 {STATE_DIRECTORY}"
            found.append(("recording", f"{folder} && {writes} || {_GIVES_UP}"))
        if self.dead_man is not None:
            found.append(
                ("arming", f"! test -e {FIRED} || rm -f {FIRED}; {self.dead_man.arm(self.unit)} || {_GIVES_UP}")
            )
        if way.mode.sets_profile:
            found.append(("setting", f"{way.profile_line} || {_GIVES_UP}"))
        elif self.record:
            found.append(("trying", f"printf '%s\\n' {shlex.quote(way.system)} >{TESTED} || {_GIVES_UP}"))
        options = (f"--unit={self.unit}", "--service-type=oneshot", "--remain-after-exit")
        runs = shlex.join(("systemd-run", "--quiet", "--no-ask-password", *options, "--", *way.argv))
        return (*found, ("starting", runs))

    @property
    def script(self) -> str:
        """All of it, with a mark before each step, and the host's answers at its end.

        The last step waits for its unit, whose program has ended well where it succeeds (systemd-run(1), "a start
        operation"; systemd.service(5), "oneshot"). Only where it does not is systemd asked about it.
        """
        marked = "\n".join(line for name, command in self.steps for line in (f"echo; echo @{name}", command))
        return f"{marked} && echo {_DONE} || {_OUR_STATES} 2>/dev/null\n{script.script(self._asks)}"

    @property
    def _asks(self) -> tuple[Question, ...]:
        """At its end. What has failed is of interest where something runs that did not before."""
        return SYSTEM if self.destination.mode.runs_now else LINKS

    def read(self, output: str) -> dict[str, str]:
        """The script's output, taken apart."""
        return script.read(output, self._asks, (name for name, _ in self.steps))

    def situation(self, found: Mapping[str, str]) -> Situation:
        """Where it left the host. Where all went well nobody asked for the units: it has started them itself."""
        told = found.get("starting", "")
        if told != _DONE:
            return situation({**found, "units": told})
        seen, units = situation(found), {f"{self.unit}.service": "active"}
        if self.dead_man is not None and seen.fired != self.dead_man.name:
            units[f"{self.dead_man.name}.timer"] = "active"
        return replace(seen, units=units)


async def launch(patient: PatientShell, change: Launch, boot_id: str, say: OnLine) -> tuple[Ending, Situation]:
    """Do it, to its end, however often the connection breaks. ``boot_id`` is the boot the host was found in.

    Raises:
        Elsewhere: the host is not as the change wants it, or the answer was lost; no switch was started.
        TaskError: ACTIVATION or DISK_FULL when it could not be prepared or started, OUTCOME_UNKNOWN.
    """
    say(f"switch-to-configuration {change.destination.mode} runs in {change.unit}.service")
    ended, seen = await _once(patient, change)
    for _ in range(_STARTS - 1):
        went_back = change.dead_man is not None and seen.fired == change.dead_man.name
        if not isinstance(ended, Gone) or seen.boot_id != boot_id or went_back:
            break
        if change.as_found is not None:  # Whether it was, nobody has heard: it needs a look of its own.
            raise Elsewhere
        armed = (f"{change.dead_man.name}.timer",) if change.dead_man is not None else ()
        ended, seen = await _once(patient, replace(change, clear=(*change.clear, *armed)))
    return ended, seen


async def _once(patient: PatientShell, change: Launch) -> tuple[Ending, Situation]:
    limit = min(STILL_HERE, patient.host.policy.activation_timeout)
    command = Command(argv=("sh", "-c", change.script), privileged=True, timeout=limit + _SLACK)
    began = patient.clock.monotonic()
    found: dict[str, str] = {}
    with suppress(OutcomeUnknown):  # It may run: whoever follows it finds out.
        found = await _answers(patient, change, await patient.shell.run(patient.host, command))
    seen = change.situation(found)
    if seen.has_done(change.unit):
        return Ended(exit_code=0), seen
    if seen.has_failed(change.unit):
        return await transient.follow(patient, change.unit), seen
    waited = patient.clock.monotonic() - began
    timer = change.dead_man.name if change.dead_man is not None else None
    return await transient.follow(patient, change.unit, waited=waited, timer=timer), await patient.look()


async def _answers(patient: PatientShell, change: Launch, result: CommandResult) -> dict[str, str]:
    """What the host said at the end. Nothing, where it was cut short once its unit may run: the host must be asked.

    A shutdown, or a switch that restarts logind, ends the session that the script runs in, and not the unit.

    Raises:
        Elsewhere: the host is not as it was found.
        TaskError: it did not come that far, or systemd knows nothing of the unit it was to start.
    """
    found = change.read(result.stdout)
    steps = dict(change.steps)
    if result.exit_code == _ELSEWHERE and next(reversed(found), "") == "comparing":
        raise Elsewhere
    if script.END not in found:
        if "starting" in found:
            return {}
        last = next((name for name in reversed(found) if name in steps), "")
        did = await _undo(patient, change, last, result)
        raise TaskError(_unprepared(patient, last, steps.get(last, ""), result, did))
    if not change.situation(found).has(change.unit) and isinstance(
        await transient.state_of(patient, change.unit), Gone
    ):
        did = await _undo(patient, change, "starting", result)
        raise TaskError(_unprepared(patient, "starting", steps["starting"], result, did))
    return found


_NOTHING: Final = "nothing: the system was not changed"


async def _undo(patient: PatientShell, change: Launch, step: str, result: CommandResult) -> str:
    """What is done about a timer that was armed for a change that did not begin, in words.

    Where the profile is set, or may be, the timer is what sets it back.
    """
    if change.dead_man is None or step not in {"setting", "trying", "starting"}:
        return _NOTHING
    if step != "starting" and result.exit_code == _GAVE_UP:
        await transient.forget_units(patient, f"{change.dead_man.name}.timer")
        return "stopped its dead-man timer again; the system was not changed"
    back = change.dead_man.back
    what = "it and its profile" if back.mode.sets_profile else "it"
    return f"left the host's own timer armed, which takes {what} back to {back.system}"


_MEANING: Final = {
    "recording": "the way back could not be recorded",
    "arming": "its dead-man timer could not be armed",
    "setting": "its system profile could not be set",
    "trying": "the trial could not be recorded",
    "starting": "systemd did not start switch-to-configuration",
}


def _unprepared(patient: PatientShell, step: str, command: str, result: CommandResult, did: str) -> Failure:
    full = "No space left on device" in result.stderr
    name = patient.host.name
    return Failure(
        kind=FailureKind.DISK_FULL if full else FailureKind.ACTIVATION,
        message=f"{name} was not changed: {_MEANING.get(step, 'it did not run the script that prepares the change')}",
        expected="this to exit with 0" if command else "a POSIX shell that runs the script to its end",
        seen=f"exit code {result.exit_code}" if step != "starting" else "no such unit afterwards",
        evidence=tuple(result.stderr.splitlines()[-_EVIDENCE:]),
        did=did,
        command=command,
        exit_code=result.exit_code,
        next="nix-collect-garbage on the host"
        if full
        else "run apply again: it copies the closure once more"
        if step == "setting"
        else f"{patient.host.login} systemctl --failed",
    )
