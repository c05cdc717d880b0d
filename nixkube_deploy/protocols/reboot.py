"""Rebooting a host and proving that it is what it should be.

A lost connection is expected here; what is never accepted is a host whose boot id, system or units were not looked at.
Taking a host back is ``wayback``'s.
"""

import re
from dataclasses import dataclass, replace
from typing import Final

import anyio

from nixkube_deploy.model.action import ProveHost, RebootHost
from nixkube_deploy.model.error import OutcomeUnknown, TaskError, Unreachable, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Distribution, Host
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.shell import Command, OnLine, Shell
from nixkube_deploy.protocols import bootentry, kexec
from nixkube_deploy.protocols.bootentry import Armed
from nixkube_deploy.protocols.patience import PatientShell, pauses
from nixkube_deploy.protocols.situation import SYSTEM, Situation, look

_REBOOT: Final = "reboot"
_KEXEC: Final = "kexec"
_POLL_TIMEOUT: Final = 10.0
_SHORTEST_LOOK: Final = 1.0
"""Seconds that a look gets also where the deadline is nearer."""
_NO_ANSWER: Final = "no answer"
_BOOTS: Final = 3
_LAST_WORDS: Final = 10
_BEFORE: Final = re.compile(r"\s*-1\s")
"""How ``journalctl --list-boots`` numbers the boot before this one."""
_BOOT_LOOKS: Final = 60
"""How often, a second apart, a host that is still booting is looked at before its failed units are counted."""

NODE_UNITS: Final = frozenset().union(*(d.node_units for d in Distribution))


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """How a host goes down, and what its boot loader was told before."""

    armed: Armed | None = None
    verb: str = _REBOOT
    allowed: float | None = None
    """Seconds it has as a whole, where some of them are used up already."""


PLAIN: Final = Departure()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebooted:
    """Whether there was anything to do, and what its boot loader was told or could not be told."""

    changed: bool
    notes: tuple[str, ...] = ()


async def reboot(
    shell: Shell, clock: Clock, host: Host, action: RebootHost, deadline: float, report: OnLine
) -> Rebooted:
    """Reboot the host and wait, at most ``deadline`` seconds, until it answers with a new boot id.

    Not changed when there was nothing to do: the host has left ``action.boot_id`` behind and booted the closure, or
    tried to and fell back (``prove`` says so: a kernel that hangs is not tried again unasked).

    Raises:
        TaskError: REBOOT, saying whether it never went down or never came back; and what ``Shell`` raises before that.
    """
    end = clock.monotonic() + deadline
    seen = await _answer(shell, clock, host, deadline, report)
    if seen.boot_id != action.boot_id and seen.booted == action.closure:
        return Rebooted(changed=False)
    patient = PatientShell(shell, host, clock)
    if action.fallback and seen.boot_id != action.boot_id and await _was_tried(patient, action, seen):
        return Rebooted(changed=False)
    notes: list[str] = []

    def tell(line: str) -> None:
        notes.append(line)
        report(line)

    verb = await _verb(patient, action, tell)
    armed = await bootentry.arm(patient, action, tell, once=verb != _KEXEC)
    await restart(
        shell, clock, host, end - clock.monotonic(), report, Departure(armed=armed, verb=verb, allowed=deadline)
    )
    return Rebooted(changed=True, notes=tuple(notes))


async def _verb(patient: PatientShell, action: RebootHost, report: OnLine) -> str:
    if not action.kexec:
        return _REBOOT
    if why := await kexec.load(patient, action.closure):
        report(f"reboots through its firmware, not by kexec: {why}")
        return _REBOOT
    return _KEXEC


async def _was_tried(patient: PatientShell, action: RebootHost, seen: Situation) -> bool:
    """Whether a controller that was killed had armed this very reboot, and the host has booted since."""
    armed = await bootentry.armed_for(patient, action.closure)
    return armed is not None and armed.boot_id == action.boot_id != seen.boot_id


async def _answer(shell: Shell, clock: Clock, host: Host, deadline: float, report: OnLine) -> Situation:
    """A look at a host that may be down already: a controller that was killed may have told it to reboot."""
    end, last = clock.monotonic() + deadline, ""
    for pause in pauses():
        try:
            with _within(clock, end):
                return await look(shell, host)
            last = last or _NO_ANSWER
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


def _within(clock: Clock, end: float) -> anyio.CancelScope:
    """No look outlasts the deadline: a machine that is off takes a whole time-out to not connect."""
    return anyio.move_on_after(max(end - clock.monotonic(), _SHORTEST_LOOK))


def _may_be_booting(error: TaskError) -> bool:
    """Whether a host that is going down or coming up could answer so; it refuses logins for a while (pam_nologin)."""
    return isinstance(error, OutcomeUnknown | Unreachable) or error.failure.kind is FailureKind.AUTHENTICATION


async def restart(
    shell: Shell, clock: Clock, host: Host, deadline: float, report: OnLine, how: Departure = PLAIN
) -> None:
    """Reboot, whatever the host runs, and wait for the new boot id."""
    end = clock.monotonic() + deadline
    before = (await look(shell, host)).boot_id
    report(f"rebooting{' by kexec' if how.verb == _KEXEC else ''} (boot id {before})")
    await _ask_to_reboot(shell, host, how.verb)
    await shell.forget(host)
    went_down, last = False, "it still answers with the boot id it had before"
    for pause in pauses():
        now = ""
        try:
            with _within(clock, end) as time_left:
                now = await _boot_id(shell, host)
            if time_left.cancelled_caught:
                went_down, last = True, last if went_down else _NO_ANSWER
        except TaskError as error:
            if not _may_be_booting(error):
                raise
            went_down = went_down or isinstance(error, OutcomeUnknown | Unreachable)
            last = error.failure.message
            await shell.forget(host)
        if now not in {before, ""}:
            report(f"is back with boot id {now}")
            return
        if clock.monotonic() + pause > end:
            raise TaskError(_not_back(host, how.allowed or deadline, last, went_down=went_down, armed=how.armed))
        await anyio.sleep(pause)


async def _ask_to_reboot(shell: Shell, host: Host, verb: str) -> None:
    command = Command(argv=("systemctl", verb), privileged=True, timeout=30.0)
    try:
        result = await shell.run(host, command)
    except OutcomeUnknown:
        return  # As expected: the connection went down with the host. The boot id tells whether it did.
    if not result.ok:
        raise task_error(
            FailureKind.REBOOT,
            f"{host.name} refused to reboot",
            expected=f"systemctl {verb} to exit with 0",
            seen=f"exit code {result.exit_code}",
            evidence=result.tail(),
            next=f"systemd-inhibit --list on {host.name}",
            command=f"systemctl {verb}",
            exit_code=result.exit_code,
        )


async def _boot_id(shell: Shell, host: Host) -> str:
    command = Command(argv=("cat", "/proc/sys/kernel/random/boot_id"), timeout=_POLL_TIMEOUT)
    return (await shell.run(host, command)).stdout.strip()


def _not_back(host: Host, deadline: float, last: str, *, went_down: bool, armed: Armed | None = None) -> Failure:
    console = f"look at the console of {host.name}"
    falls_back = f"{console}, then cut its power: it boots {armed.stays if armed else ''}, the old system, by itself"
    chosen = f"{console}; with a new kernel, choose the older generation in the boot menu"
    return Failure(
        kind=FailureKind.REBOOT,
        message=f"{host.name} did not come back within {deadline:.0f} s after its reboot"
        if went_down
        else f"{host.name} did not go down within {deadline:.0f} s after it was told to reboot",
        expected="an SSH login with a new boot id",
        seen=last,
        next=(falls_back if armed is not None else chosen)
        if went_down
        else f"systemctl list-jobs on {host.name} shows what its shutdown waits for",
    )


async def prove(shell: Shell, clock: Clock, host: Host, action: ProveHost) -> tuple[str, ...]:
    """Prove that the host runs (and, after a reboot, booted) the closure. Returns what is worth a warning.

    After a reboot every newly failed unit counts; after a switch only those of the node, as for its exit code 4.

    Raises:
        TaskError: FELL_BACK (it runs or booted another system), REBOOT (it did not reboot), ACTIVATION, UNIT.
    """
    seen = await prove_system(shell, clock, host, action)
    if action.rebooted_from is not None:
        seen = await _settled(shell, host, seen)
    return judge_units(host, action, seen.failed)


async def prove_system(shell: Shell, clock: Clock, host: Host, action: ProveHost) -> Situation:
    """The same without a word about units.

    Raises:
        TaskError: FELL_BACK, REBOOT, ACTIVATION, as for ``prove``.
    """
    seen = await look(shell, host, SYSTEM)
    if action.rebooted_from is not None and seen.boot_id == action.rebooted_from:
        raise task_error(
            FailureKind.REBOOT,
            f"{host.name} has not rebooted",
            expected=f"a boot id other than {action.rebooted_from}",
            seen="the same boot id",
            next=f"uptime and journalctl --list-boots on {host.name}",
        )
    if action.rebooted_from is not None and seen.booted != action.closure:
        raise TaskError(await _came_back_old(PatientShell(shell, host, clock), action, seen))
    if seen.current != action.closure:
        raise TaskError(_runs_another(host, action.closure, seen))
    return seen


async def _came_back_old(patient: PatientShell, action: ProveHost, seen: Situation) -> Failure:
    """Another system than the one it was rebooted for. Where it was to be started once, that is what the entry is for.

    Raises:
        TaskError: what ``PatientShell`` raises.
    """
    host, armed = patient.host, await bootentry.armed_for(patient, action.closure)
    failure = Failure(
        kind=FailureKind.FELL_BACK,
        message=f"{host.name} rebooted, but came back on another system than the new one",
        expected=f"/run/booted-system to be {action.closure}",
        seen=f"/run/booted-system is {seen.booted}, /run/current-system is {seen.current}",
        evidence=await _boots(patient, action.rebooted_from or ""),
        next=f"bootctl list and journalctl -b -1 on {host.name}: the new generation did not boot or is not the default",
    )
    if armed is None or armed.boot_id != action.rebooted_from:
        return failure
    if armed.once and await bootentry.unread(patient):
        return replace(
            failure,
            message=f"{host.name} came back on the old system: its boot loader never read the one-shot entry",
            next=f"bootctl status on {host.name}: whether systemd-boot booted it, and its firmware keeps variables",
        )
    return replace(
        failure,
        message=f"the new entry {armed.entry} did not boot on {host.name}; the old one, {armed.stays}, did, by itself",
        did=f"left {armed.stays} the default: the new entry was for one boot only" if armed.once else "",
        next=f"the console of {host.name} while it boots {armed.entry}; journalctl -b -1, if it came that far",
    )


async def _boots(patient: PatientShell, left: str) -> tuple[str, ...]:
    """The last boots the journal knows of; of one that came between, its last words, if they came to the disk."""
    result = await patient.run("journalctl", "--list-boots", "--no-pager", privileged=True)
    boots = result.tail(_BOOTS) if result.ok else ()
    between = [line for line in boots if _BEFORE.match(line) and left.replace("-", "") not in line.replace("-", "")]
    if not between:
        return boots
    argv = ("journalctl", "-b", "-1", "-o", "cat", "--no-pager", "-n", str(_LAST_WORDS))
    return (*boots, *(await patient.run(*argv, privileged=True)).tail(_LAST_WORDS))


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
            return await look(shell, host, SYSTEM)
        await anyio.sleep(1)
    return seen


def judge_units(host: Host, action: ProveHost, failed: tuple[str, ...]) -> tuple[str, ...]:
    """What of the units that have failed is worth a warning.

    Raises:
        TaskError: UNIT.
    """
    new = tuple(u for u in failed if u not in action.failed_before)
    fatal = new if action.rebooted_from is not None else tuple(u for u in new if u in NODE_UNITS)
    if fatal:
        raise task_error(
            FailureKind.UNIT,
            f"{host.name} runs the new system, but {', '.join(fatal)} failed",
            expected="no unit that failed anew",
            seen=f"failed units: {', '.join(failed)}",
            next=f"systemctl status {fatal[0]} on {host.name}",
        )
    return tuple(f"{unit} failed" for unit in new)
