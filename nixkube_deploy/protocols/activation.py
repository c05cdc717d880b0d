"""The native activator: the change runs on the host without us, and goes back without us unless it is confirmed.

It follows product rules only about one host; which host comes when, and what a failure means to the rollout, it does
not know.
"""

import json
import re
import shlex
from dataclasses import dataclass, replace
from typing import Final

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.shell import OnLine, Shell
from nixkube_deploy.protocols import transient
from nixkube_deploy.protocols.patience import PatientShell
from nixkube_deploy.protocols.probe import PROFILE
from nixkube_deploy.protocols.situation import DEAD_MAN, Situation, look, look_fresh
from nixkube_deploy.protocols.transient import Ended, Gone, Overdue

STATE_DIRECTORY: Final = "/var/lib/nixkube-deploy"
WAY_BACK_FILE: Final = f"{STATE_DIRECTORY}/way-back.json"
_WAY_BACK_VERSION: Final = 1
_EVIDENCE: Final = 20

# switch-to-configuration's exit codes.
_REFUSED = 1
_SCRIPT_FAILED = 2
_UNITS_FAILED = 4
_REBOOT_NEEDED = 100

_FAILED_UNITS = re.compile(r"the following units failed: (.+)")
_LOCK_HELD = "Could not acquire lock"
_INHIBITED = "switchInhibitors"


class NativeActivator:
    """Sets the profile and runs switch-to-configuration in a transient unit; needs NixOS and SSH, nothing else."""

    def __init__(self, shell: Shell, clock: Clock) -> None:
        self._shell, self._clock = shell, clock

    async def activate(self, activation: Activation, on_line: OnLine | None = None) -> Activated:
        """Bring the host to the closure (mode SWITCH) or make it boot there (mode BOOT).

        Raises:
            TaskError: ACTIVATION, UNIT, FELL_BACK; transient LOCKED and OUTCOME_UNKNOWN (the next attempt re-attaches).
        """
        seen = await look(self._shell, activation.host)
        change = _Change(
            activation=activation,
            patient=PatientShell(self._shell, activation.host, self._clock),
            say=on_line or (lambda _line: None),
        )
        return await change.perform(seen)

    async def confirm(self, activation: Activation) -> None:
        """Disarm the dead-man timer over a new connection and prove that it has not fired.

        Timers that an earlier run left are disarmed too: it is this system that was found healthy. Only now are the
        units that brought it about forgotten: until then they told a successor what was done already.

        Raises:
            TaskError: FELL_BACK when the host has gone back by itself, ACTIVATION when something else switched it.
        """
        patient = PatientShell(self._shell, activation.host, self._clock)
        seen = await patient.insist(lambda: look_fresh(self._shell, activation.host))
        if not seen.going_back and seen.dead_men:
            await transient.disarm(patient, seen.dead_men)
            seen = await patient.look()
        if seen.going_back or seen.current != activation.closure:
            raise TaskError(_unconfirmed(activation, seen))
        for unit in seen.ended:
            await transient.forget_unit(patient, unit)


def _unconfirmed(activation: Activation, seen: Situation) -> Failure:
    name, back = activation.host.name, activation.way_back.system
    fell_back = seen.going_back or seen.current == back
    return Failure(
        kind=FailureKind.FELL_BACK if fell_back else FailureKind.ACTIVATION,
        message=f"{name} went back to its old system: the change was not confirmed in time"
        if fell_back
        else f"{name} no longer runs the system that was activated; something else has switched it",
        expected=f"/run/current-system to be {activation.closure}",
        seen=f"/run/current-system is {seen.current}" + (", its dead-man timer is at work" if seen.going_back else ""),
        next=f"journalctl -u '{DEAD_MAN}*' on {name} tells when" if fell_back else f"last -x on {name}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """One activation of one host."""

    activation: Activation
    patient: PatientShell
    say: OnLine

    async def perform(self, seen: Situation) -> Activated:
        """Take up what an earlier controller began, or begin."""
        self._refuse_company(seen)
        booting, switching = self._unit(SwitchMode.BOOT), self._unit(SwitchMode.SWITCH)
        if seen.has(booting):
            return await self._rejoin(booting, SwitchMode.BOOT)
        if seen.is_running(switching) or (seen.has(switching) and self._still_counts(seen)):
            return await self._rejoin(switching, SwitchMode.SWITCH)
        if self._is_there(seen):
            return Activated(changed=False)
        await self._prepare(seen)
        mode = self.activation.mode
        ended = await transient.switch_in_unit(self.patient, self._unit(mode), self.activation.closure, mode, self.say)
        return await self._judge(mode, ended)

    def _unit(self, mode: SwitchMode) -> str:
        return transient.unit_name(mode.value, self.activation.run, self.activation.closure)

    def _refuse_company(self, seen: Situation) -> None:
        if seen.going_back:
            raise TaskError(self._locked("its dead-man timer is taking it back right now"))
        if others := seen.foreign(self.activation.run):
            raise TaskError(self._locked(f"{', '.join(others)} of another run is at work on it"))

    def _locked(self, why: str, evidence: tuple[str, ...] = ()) -> Failure:
        return Failure(
            kind=FailureKind.LOCKED,
            message=f"{self.activation.host.name} cannot be switched now: {why}",
            expected="one activation at a time",
            seen=why,
            evidence=evidence[-_EVIDENCE:],
            next="apply again when that has ended; "
            f"{self.activation.host.login} ps -eo pid,user,lstart,args | grep switch-to-configuration  # who it is",
            transient=True,
        )

    def _still_counts(self, seen: Situation) -> bool:
        """Whether an ended unit is worth reading. Not after the dead-man timer undid what it did: then begin anew."""
        return seen.current == self.activation.closure or bool(seen.dead_men)

    def _is_there(self, seen: Situation) -> bool:
        running = seen.booted if self.activation.mode is SwitchMode.BOOT else seen.current
        return running == self.activation.closure == seen.profile

    async def _rejoin(self, unit: str, mode: SwitchMode) -> Activated:
        self.say(f"found {unit}.service of this run on the host; reading its outcome")
        return await self._judge(mode, await transient.follow(self.patient, unit))

    # --- before the change -------------------------------------------------------------------------------------------

    async def _prepare(self, seen: Situation) -> None:
        """Nothing of this disrupts, and all of it may be repeated. The timer is armed before anything is changed."""
        await transient.disarm(self.patient, seen.dead_men)
        for unit in dict.fromkeys((*seen.leftovers(self.activation.run), *seen.ended)):
            await transient.forget_unit(self.patient, unit)
        await self._record_way_back()
        if self.activation.mode is SwitchMode.SWITCH:
            await self._arm()
        await transient.set_profile(self.patient, self.activation.closure)

    async def _record_way_back(self) -> None:
        back = self.activation.way_back
        record = {
            "version": _WAY_BACK_VERSION,
            "run": self.activation.run,
            "closure": self.activation.closure,
            "system": back.system,
            "booted": back.booted,
            "generation": back.generation,
            "boot_id": back.boot_id,
        }
        await self._must("mkdir", "-p", "-m", "0700", STATE_DIRECTORY)
        await self._must("tee", WAY_BACK_FILE, stdin=json.dumps(record, indent=2) + "\n")
        await self.patient.run("chmod", "0600", WAY_BACK_FILE, privileged=True)

    async def _arm(self) -> None:
        """The host goes back by itself unless told otherwise. It first stops a switch that hangs, for the lock's sake.

        A service's PATH on NixOS has no nix-env, hence the path of the system's own programs.
        """
        back = shlex.quote(self.activation.way_back.system)
        name = transient.dead_man_name(self.activation.run, self.activation.closure)
        script = (
            f"PATH=/run/current-system/sw/bin; systemctl stop {self._unit(SwitchMode.SWITCH)}; "
            f"nix-env -p {PROFILE} --set {back} && {back}/{transient.SWITCH_TO_CONFIGURATION} switch"
        )
        timer = (f"--unit={name}", f"--on-active={self.activation.dead_man:.0f}s", "--no-ask-password")
        await self._must("systemd-run", *timer, "--", "sh", "-c", script, unless="was already loaded")

    async def _must(self, *argv: str, stdin: str | None = None, unless: str | None = None) -> None:
        """Run a preparing command; ``unless`` in its error output means that an earlier, lost answer was a success."""
        result = await self.patient.run(*argv, privileged=True, stdin=stdin)
        if result.ok or (unless is not None and unless in result.stderr):
            return
        raise task_error(
            FailureKind.ACTIVATION,
            f"{self.activation.host.name} could not be prepared for the change: {argv[0]} failed",
            expected=f"{argv[0]} to exit with 0",
            seen=f"exit code {result.exit_code}",
            evidence=result.tail(),
            did="nothing: the system was not changed",
            command=shlex.join(argv),
            exit_code=result.exit_code,
        )

    # --- after the change --------------------------------------------------------------------------------------------

    async def _judge(self, mode: SwitchMode, ended: Ended | Gone | Overdue) -> Activated:
        """What is true is what the host runs; the exit code says why."""
        seen = await self.patient.look()
        if isinstance(ended, Overdue):
            raise TaskError(await self._overdue(mode, ended, seen))
        if isinstance(ended, Gone):
            return self._judge_gone(mode, seen)
        lines = () if ended.exit_code == 0 else await self._read_out(self._unit(mode))
        if mode is SwitchMode.BOOT:
            return self._judge_boot(ended, seen, lines)
        return await self._judge_switch(ended, seen, lines)

    async def _read_out(self, unit: str) -> tuple[str, ...]:
        """What a program that did not end well has said; its unit goes, so that another attempt can begin anew."""
        lines = await transient.journal(self.patient, unit)
        await transient.forget_unit(self.patient, unit)
        for line in lines:
            self.say(line)
        return lines

    async def _judge_switch(self, ended: Ended, seen: Situation, lines: tuple[str, ...]) -> Activated:
        switched = seen.current == self.activation.closure
        output = "\n".join(lines)
        match ended.exit_code:
            case 0 if switched:
                return Activated(changed=True)
            case code if code == _UNITS_FAILED and switched:
                return self._judge_units(seen, lines)
            case code if code == _REBOOT_NEEDED and not switched:
                await transient.disarm(self.patient, seen.dead_men)
                return self._needs_reboot("its init changed", lines)
            case code if code == _REFUSED and _INHIBITED in output and not switched:
                return await self._boot_instead(seen, lines)
            case code if code and _LOCK_HELD in output and not switched:
                raise TaskError(self._locked("another switch-to-configuration holds the lock", lines))
            case _:
                raise TaskError(self._failed(ended, seen, lines))

    def _judge_units(self, seen: Situation, lines: tuple[str, ...]) -> Activated:
        """Exit code 4: switched, and some units did not start. Which ones decides."""
        named = _FAILED_UNITS.findall("\n".join(lines))
        units = tuple(u.strip() for group in named for u in group.split(",") if u.strip()) or seen.failed
        fatal = tuple(u for u in units if u in self.activation.node_units)
        if not fatal:
            return Activated(changed=True, warnings=tuple(f"{unit} failed to start" for unit in units))
        name = self.activation.host.name
        raise task_error(
            FailureKind.UNIT,
            f"{name} was switched, but {', '.join(fatal)} failed to start",
            expected="the kubelet and the container runtime to run",
            seen=f"failed units: {', '.join(units)}",
            evidence=lines[-_EVIDENCE:],
            did=self._what_follows(seen),
            next=f"journalctl -u {fatal[0]} on {name}",
            exit_code=_UNITS_FAILED,
        )

    async def _boot_instead(self, seen: Situation, lines: tuple[str, ...]) -> Activated:
        """An inhibitor differs: the new system must be booted into. Nothing is running that would need a way back."""
        self.say("a switch inhibitor differs: making it the system of the next boot instead")
        await transient.disarm(self.patient, seen.dead_men)
        unit = self._unit(SwitchMode.BOOT)
        ended = await transient.switch_in_unit(self.patient, unit, self.activation.closure, SwitchMode.BOOT, self.say)
        await self._judge(SwitchMode.BOOT, ended)
        return self._needs_reboot("a switch inhibitor differs", lines)

    def _needs_reboot(self, why: str, lines: tuple[str, ...] = ()) -> Activated:
        warning = f"needs a reboot: {why}"
        return Activated(changed=True, needs_reboot=True, warnings=(warning,), evidence=lines[-_EVIDENCE:])

    def _judge_boot(self, ended: Ended, seen: Situation, lines: tuple[str, ...]) -> Activated:
        if ended.exit_code == 0 and seen.profile == self.activation.closure:
            inhibited = self.activation.mode is SwitchMode.SWITCH
            return self._needs_reboot("a switch inhibitor differs") if inhibited else Activated(changed=True)
        if ended.exit_code and _LOCK_HELD in "\n".join(lines):
            raise TaskError(self._locked("another switch-to-configuration holds the lock", lines))
        raise TaskError(self._failed(ended, seen, lines))

    def _judge_gone(self, mode: SwitchMode, seen: Situation) -> Activated:
        """The unit's result is lost; the host's state is not."""
        rebooted = seen.boot_id != self.activation.way_back.boot_id
        why = "the host rebooted meanwhile" if rebooted else "its unit was gone before its result could be read"
        if mode is SwitchMode.SWITCH and seen.current == self.activation.closure:
            return Activated(changed=True, warnings=(f"{why}; it runs the new system",))
        failure = self._failed(Ended(exit_code=None, result=why), seen, ())
        raise TaskError(replace(failure, transient=mode is SwitchMode.BOOT))

    def _failed(self, ended: Ended, seen: Situation, lines: tuple[str, ...]) -> Failure:
        name, code = self.activation.host.name, ended.exit_code
        back = seen.current == self.activation.way_back.system != self.activation.closure
        fell_back = back and not seen.dead_men and code != _REFUSED and self.activation.mode is SwitchMode.SWITCH
        how = f"exit code {code}" if code is not None else f"no exit code ({ended.result})"
        return Failure(
            kind=FailureKind.FELL_BACK if fell_back else FailureKind.ACTIVATION,
            message=f"{name} went back to its old system by itself before the switch was done"
            if fell_back
            else f"{name} was not activated: {_meaning(code)}",
            expected=f"/run/current-system to be {self.activation.closure}"
            if self.activation.mode is SwitchMode.SWITCH
            else f"{self.activation.closure} to be the system of the next boot",
            seen=f"{how}; /run/current-system is {seen.current}",
            evidence=lines[-_EVIDENCE:],
            did=self._what_follows(seen),
            next=f"journalctl -u {self._unit(self.activation.mode)} on {name}",
            exit_code=code,
        )

    async def _overdue(self, mode: SwitchMode, ended: Overdue, seen: Situation) -> Failure:
        """It is left running: what it waits for may yet come, and who goes back stops it first."""
        name, unit = self.activation.host.name, self._unit(mode)
        lines = await transient.journal(self.patient, unit)
        return Failure(
            kind=FailureKind.TIMEOUT,
            message=f"{name} was not activated: switch-to-configuration still runs after {ended.seconds:g} s",
            expected=f"its end within strategy.activation_timeout, {ended.seconds:g} s",
            seen=f"{unit}.service still runs; /run/current-system is {seen.current}",
            evidence=lines[-_EVIDENCE:],
            did=self._what_follows(seen),
            next=f"systemctl status {unit} on {name}: its processes tell what it waits for",
        )

    def _what_follows(self, seen: Situation) -> str:
        back = self.activation.way_back.system
        return f"left the host's own timer armed, which takes it back to {back}" if seen.dead_men else ""


def _meaning(code: int | None) -> str:
    match code:
        case 0:
            return "switch-to-configuration ended well, but the host does not run the new system"
        case 1:
            return "a pre-switch check or the boot loader failed"
        case 2:
            return "the activation script failed"
        case 100:
            return "it asks for a reboot, and yet the system changed"
        case None:
            return "its switch-to-configuration did not end by itself"
        case _:
            return f"switch-to-configuration failed with {code}"
