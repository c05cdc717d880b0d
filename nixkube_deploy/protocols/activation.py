"""The native activator: the change runs on the host without us, and goes back without us unless it is confirmed.

It follows product rules only about one host; which host comes when, and what a failure means to the rollout, it does
not know.
"""

import json
from dataclasses import dataclass, replace
from typing import Final

import anyio

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.shell import OnLine, Shell
from nixkube_deploy.protocols import transient
from nixkube_deploy.protocols.confirmation import confirm
from nixkube_deploy.protocols.destination import LOCK_HELD, UNITS_FAILED, Destination, back_to
from nixkube_deploy.protocols.launch import AsFound, DeadMan, Elsewhere, Launch, launch
from nixkube_deploy.protocols.patience import PatientShell
from nixkube_deploy.protocols.situation import WHERE, Situation, look
from nixkube_deploy.protocols.transient import Ended, Ending, Gone, Overdue

_WAY_BACK_VERSION: Final = 1
_EVIDENCE: Final = 20

# switch-to-configuration's exit codes.
_REFUSED = 1
_SCRIPT_FAILED = 2
_REBOOT_NEEDED = 100

_LOCK_PAUSE: Final = 3.0
"""Seconds between two looks at whether somebody else's activation is over."""
_INHIBITED = "switchInhibitors"


class NativeActivator:
    """Sets the profile and runs switch-to-configuration in a transient unit; needs NixOS and SSH, nothing else."""

    def __init__(self, shell: Shell, clock: Clock) -> None:
        self._shell, self._clock = shell, clock

    async def refuse(self, _host: Host) -> Failure | None:
        """Every NixOS host will do; what else it needs is asked for by the probe."""
        return None

    async def activate(self, activation: Activation, on_line: OnLine | None = None) -> Activated:
        """Bring the host to the closure (mode SWITCH) or make it boot there (mode BOOT).

        Whoever else is activating there is waited for, as long as an activation may take.

        Raises:
            TaskError: ACTIVATION, UNIT, FELL_BACK, LOCKED; transient OUTCOME_UNKNOWN (the next attempt re-attaches).
        """
        change = _Change(
            activation=activation,
            patient=PatientShell(self._shell, activation.host, self._clock),
            say=on_line or (lambda _line: None),
        )
        began, limit = self._clock.monotonic(), activation.host.policy.activation_timeout
        seen: Situation | None = None
        while True:
            try:
                return await change.perform(seen)
            except TaskError as error:
                failure, waited = error.failure, self._clock.monotonic() - began
                if failure.kind is not FailureKind.LOCKED:
                    raise
                if waited + _LOCK_PAUSE > limit:
                    raise TaskError(replace(failure, did=f"waited {waited:.0f} s for it")) from error
                change.say(f"{failure.message}; waiting for that")
            await anyio.sleep(_LOCK_PAUSE)
            seen = await change.patient.look()

    async def confirm(self, activation: Activation) -> None:
        """Disarm the dead-man timer over a new connection and prove that it has not fired.

        Raises:
            TaskError: FELL_BACK when the host has gone back by itself, ACTIVATION when something else switched it.
        """
        await confirm(PatientShell(self._shell, activation.host, self._clock), activation)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """One activation of one host."""

    activation: Activation
    patient: PatientShell
    say: OnLine

    async def perform(self, seen: Situation | None) -> Activated:
        """Begin, where the host is as it was found; else look, to take up what an earlier controller began."""
        if seen is None:
            try:
                return await self._as_planned()
            except Elsewhere:
                seen = await look(self.patient.shell, self.patient.host, WHERE)
        self._refuse_company(seen)
        mode, booting = self.activation.mode, self._unit(SwitchMode.BOOT)
        if seen.has(booting) and mode is not SwitchMode.TEST:
            return await self._rejoin(booting, SwitchMode.BOOT)
        running = self._unit(mode if mode.runs_now else SwitchMode.SWITCH)
        if seen.is_running(running) or (seen.has(running) and self._still_counts(seen)):
            return await self._rejoin(running, mode if mode.runs_now else SwitchMode.SWITCH)
        if self._is_there(seen):
            return Activated(changed=False)
        if not self.activation.anew and seen.fired == self._dead_man.name:
            return await self._judge_gone(mode, seen)
        return await self._judge(
            mode, *await launch(self.patient, self._launch(self._left_by(seen)), seen.boot_id, self.say)
        )

    async def _as_planned(self) -> Activated:
        """The usual case, which costs no look of its own: the host compares itself with what it is to be.

        Raises:
            Elsewhere: it is something else, or what it is to be is what it is already.
        """
        mode, back = self.activation.mode, self.activation.way_back
        if not self.activation.anew or back.system == self.activation.closure:
            raise Elsewhere
        begun = replace(self._launch(()), as_found=AsFound(back=back))
        return await self._judge(mode, *await launch(self.patient, begun, back.boot_id, self.say))

    def _unit(self, mode: SwitchMode) -> str:
        return transient.unit_name(mode.value, self.activation.run, self.activation.closure)

    @property
    def _destination(self) -> Destination:
        given = self.activation
        return Destination(system=given.closure, mode=given.mode, toplevel=given.profile, generation=given.generation)

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
        )

    def _still_counts(self, seen: Situation) -> bool:
        """Whether an ended unit is worth reading. Not after the dead-man timer undid what it did: then begin anew."""
        return seen.current == self.activation.closure or bool(seen.dead_men)

    def _is_there(self, seen: Situation) -> bool:
        if self.activation.mode is SwitchMode.TEST:
            return seen.current == self.activation.closure
        running = seen.booted if self.activation.mode is SwitchMode.BOOT else seen.current
        return running == self.activation.closure and seen.profile == self._destination.profile

    async def _rejoin(self, unit: str, mode: SwitchMode) -> Activated:
        self.say(f"found {unit}.service of this run on the host; reading its outcome")
        timer = transient.dead_man_name(self.activation.run, self.activation.closure) if mode.runs_now else None
        ended = await transient.follow(self.patient, unit, timer=timer)
        return await self._judge(mode, ended, await self.patient.look())

    # --- before the change -------------------------------------------------------------------------------------------

    def _left_by(self, seen: Situation) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*seen.dead_men, *seen.leftovers(self.activation.run), *seen.ended)))

    def _launch(self, leftovers: tuple[str, ...]) -> Launch:
        """The way back is recorded and the timer armed before anything is changed."""
        mode = self.activation.mode
        return Launch(
            unit=self._unit(mode),
            destination=self._destination,
            clear=leftovers,
            record=self._way_back,
            dead_man=self._dead_man if mode.runs_now else None,
        )

    @property
    def _way_back(self) -> str:
        back = self.activation.way_back
        record = {
            "version": _WAY_BACK_VERSION,
            "run": self.activation.run,
            "closure": self.activation.closure,
            "mode": self.activation.mode.value,
            "system": back.system,
            "profile": back.profile or back.system,
            "booted": back.booted,
            "generation": back.generation,
            "boot_id": back.boot_id,
        }
        return json.dumps(record)

    @property
    def _dead_man(self) -> DeadMan:
        given = self.activation
        name = transient.dead_man_name(given.run, given.closure)
        return DeadMan(name=name, seconds=given.dead_man, back=back_to(given.way_back, given.mode))

    # --- after the change --------------------------------------------------------------------------------------------

    async def _judge(self, mode: SwitchMode, ended: Ending, seen: Situation) -> Activated:
        """What is true is what the host runs; the exit code says why."""
        if isinstance(ended, Overdue):
            raise TaskError(await self._overdue(mode, ended, seen))
        killed = isinstance(ended, Gone) or ended.exit_code is None
        if killed and (booted := await transient.outlast_shutdown(self.patient, seen.boot_id, self.say)) is not None:
            return await self._judge_gone(mode, booted)
        if isinstance(ended, Gone):
            return await self._judge_gone(mode, seen)
        lines = () if ended.exit_code == 0 else await self._read_out(self._unit(mode))
        if mode is SwitchMode.BOOT:
            return self._judge_boot(ended, seen, lines)
        return await self._judge_switch(ended, seen, lines)

    async def _read_out(self, unit: str) -> tuple[str, ...]:
        """What a program that did not end well has said; its unit goes, so that another attempt can begin anew."""
        lines = await transient.journal(self.patient, unit)
        await transient.forget_units(self.patient, unit)
        for line in lines:
            self.say(line)
        return lines

    async def _judge_switch(self, ended: Ended, seen: Situation, lines: tuple[str, ...]) -> Activated:
        switched = seen.current == self.activation.closure
        output = "\n".join(lines)
        match ended.exit_code:
            case 0 if switched:
                return Activated(changed=True, failed=seen.failed)
            case code if code == UNITS_FAILED and switched:
                return self._judge_units(seen, lines)
            case code if code == _REBOOT_NEEDED and not switched:
                await transient.forget_units(self.patient, *seen.dead_men)
                return self._needs_reboot("its init changed", lines)
            case code if code == _REFUSED and _INHIBITED in output and not switched:
                await transient.forget_units(self.patient, *seen.dead_men)
                return await self._boot_instead(seen, lines)
            case code if code and LOCK_HELD in output and not switched:
                raise TaskError(self._locked("another switch-to-configuration holds the lock", lines))
            case _:
                raise TaskError(self._failed(ended, seen, lines))

    def _judge_units(self, seen: Situation, lines: tuple[str, ...]) -> Activated:
        """Exit code 4: switched, and some units did not start. Which ones decides."""
        units = transient.failed_units(lines) or seen.failed
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
            exit_code=UNITS_FAILED,
        )

    async def _boot_instead(self, seen: Situation, lines: tuple[str, ...]) -> Activated:
        """An inhibitor differs: the new system must be booted into. Nothing is running that would need a way back."""
        why = "a switch inhibitor differs"
        if self.activation.mode is SwitchMode.TEST or self.activation.profile is not None:
            return self._needs_reboot(why, lines)
        self.say(f"{why}: making it the system of the next boot instead")
        boots = Launch(unit=self._unit(SwitchMode.BOOT), destination=self._destination.by(SwitchMode.BOOT))
        await self._judge(SwitchMode.BOOT, *await launch(self.patient, boots, seen.boot_id, self.say))
        return self._needs_reboot(why, lines)

    def _needs_reboot(self, why: str, lines: tuple[str, ...] = ()) -> Activated:
        """For a trial, and for a specialisation, which no boot loader starts by itself, that is the end.

        Raises:
            TaskError: INHIBITED.
        """
        if self.activation.mode is SwitchMode.TEST or self.activation.profile is not None:
            raise TaskError(self._inhibited(why, lines))
        warning = f"needs a reboot: {why}"
        return Activated(changed=True, needs_reboot=True, warnings=(warning,), evidence=lines[-_EVIDENCE:])

    def _inhibited(self, why: str, lines: tuple[str, ...]) -> Failure:
        name, trial = self.activation.host.name, self.activation.mode is SwitchMode.TEST
        what = "a trial" if trial else "a specialisation, which a boot loader does not start by itself"
        return Failure(
            kind=FailureKind.INHIBITED,
            message=f"{name} cannot be switched to its new system while it runs ({why}), and this is {what}",
            expected="a switch without a reboot",
            seen=why,
            evidence=lines[-_EVIDENCE:],
            did="left the host what it was"
            if trial
            else f"left what runs as it was; the next boot starts {self._destination.profile}",
            next=f"deploy apply INVENTORY --on {name}, without --mode test: it reboots the host"
            if trial
            else f"make it the configuration of {name} itself, or choose its entry at the console: systemctl reboot",
        )

    def _judge_boot(self, ended: Ended, seen: Situation, lines: tuple[str, ...]) -> Activated:
        if ended.exit_code == 0 and seen.profile == self._destination.profile:
            inhibited = self.activation.mode is SwitchMode.SWITCH
            return self._needs_reboot("a switch inhibitor differs") if inhibited else Activated(changed=True)
        if ended.exit_code and LOCK_HELD in "\n".join(lines):
            raise TaskError(self._locked("another switch-to-configuration holds the lock", lines))
        raise TaskError(self._failed(ended, seen, lines))

    async def _judge_gone(self, mode: SwitchMode, seen: Situation) -> Activated:
        """The unit's result is lost; the host's state is not."""
        if mode.runs_now and seen.fired == self._dead_man.name:
            raise TaskError(await self._went_back(mode, seen))
        rebooted = seen.boot_id != self.activation.way_back.boot_id
        why = "the host rebooted meanwhile" if rebooted else "its unit was gone before its result could be read"
        if mode.runs_now and seen.current == self.activation.closure:
            return Activated(changed=True, warnings=(f"{why}; it runs the new system",))
        failure = self._failed(Ended(exit_code=None, result=why), seen, ())
        if rebooted and failure.kind is FailureKind.FELL_BACK:
            name = self.activation.host.name
            failure = replace(failure, message=f"{name} rebooted in the middle of the switch, into its old system")
        raise TaskError(replace(failure, transient=mode is SwitchMode.BOOT))

    def _failed(self, ended: Ended, seen: Situation, lines: tuple[str, ...]) -> Failure:
        name, code = self.activation.host.name, ended.exit_code
        back = seen.current == self.activation.way_back.system != self.activation.closure
        fell_back = back and not seen.dead_men and code != _REFUSED and self.activation.mode.runs_now
        how = f"exit code {code}" if code is not None else f"no exit code ({ended.result})"
        return Failure(
            kind=FailureKind.FELL_BACK if fell_back else FailureKind.ACTIVATION,
            message=f"{name} went back to its old system by itself before the switch was done"
            if fell_back
            else f"{name} was not activated: {_meaning(code)}",
            expected=f"/run/current-system to be {self.activation.closure}"
            if self.activation.mode.runs_now
            else f"{self.activation.closure} to be the system of the next boot",
            seen=f"{how}; /run/current-system is {seen.current}",
            evidence=lines[-_EVIDENCE:],
            did=self._what_follows(seen),
            next=f"journalctl -u {self._unit(self.activation.mode)} on {name}",
            exit_code=code,
        )

    async def _went_back(self, mode: SwitchMode, seen: Situation) -> Failure:
        name = self.activation.host.name
        return Failure(
            kind=FailureKind.FELL_BACK,
            message=f"{name} went back to its old system by itself: it could not be reached to confirm the change",
            expected=f"an answer within the {self.activation.dead_man:g} s its dead-man timer waits",
            seen=f"the timer has fired; /run/current-system is {seen.current}",
            evidence=(await transient.journal(self.patient, self._unit(mode)))[-_EVIDENCE:],
            did="did not switch it again: the change itself may be what cut it off",
            next=f"journalctl -b on {name}: whether its network went down with the change",
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
