"""systemd-boot's entries around a reboot: the new one once only, the old one the default until the gate has passed.

What is touched, and why only that, is in docs/decisions/0019. It reboots nothing, and knows no other boot loader.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nixkube_deploy.model.action import PromoteEntry, RebootHost
from nixkube_deploy.model.codec import from_plain, to_plain
from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine
from nixkube_deploy.protocols import script
from nixkube_deploy.protocols.launch import STATE_DIRECTORY
from nixkube_deploy.protocols.patience import PatientShell
from nixkube_deploy.protocols.script import Question

RECORD: Final = f"{STATE_DIRECTORY}/boot-entry.json"
"""What was armed: outlives the reboot, so that whoever comes after knows what the boot loader was told."""

_VARIABLE: Final = "/sys/firmware/efi/efivars/Loader{}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
ONE_SHOT: Final = _VARIABLE.format("EntryOneShot")
PINNED: Final = _VARIABLE.format("EntryDefault")
"""Set by ``bootctl set-default`` or by a key in the menu; it comes before what loader.conf says."""

_ID: Final = re.compile(r"[\w.+-]+")
_COUNTER: Final = re.compile(r"\+[0-9]+(-[0-9]+)?(?=\.(conf|efi)$)")
"""Boot counting keeps its numbers in the file's name; they are no part of the entry's id."""
_DEFAULT: Final = re.compile(r"^[ \t]*default[ \t]+(\S+)[ \t]*$", re.MULTILINE)
_EVIDENCE: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Armed:
    """What the boot loader was told, and what its configuration said before that."""

    closure: StorePath
    boot_id: str
    entry: str
    """The new system's entry: started once, by the next boot."""
    stays: str
    """The old system's entry: the default meanwhile."""
    conf: str
    """Path of loader.conf."""
    default: str | None
    """The default that the installer of the boot loader had written there; None: none."""
    once: bool = True
    """False after a kexec, which no boot loader takes part in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loader:
    """The boot loader's configuration as it is now."""

    conf: str
    text: str
    entries: Mapping[StorePath, tuple[str, ...]]
    """By system, the ids of its entries."""
    boot_id: str

    @property
    def default(self) -> str | None:
        found = _DEFAULT.search(self.text)
        return found[1] if found else None

    def entry_of(self, system: StorePath) -> str | None:
        """The system's entry; of several the default one, else the newest."""
        ids = self.entries.get(system, ())
        return self.default if self.default in ids else max(ids, key=_age, default=None)


def _age(entry: str) -> tuple[int, str]:
    numbers = re.findall(r"[0-9]+", entry)
    return (int(numbers[0]) if numbers else 0, entry)


async def arm(patient: PatientShell, action: RebootHost, report: OnLine, *, once: bool = True) -> Armed | None:
    """Have the next boot, and only that one, start the new system, and every later one the old.

    None: a plain boot, whose reason is reported. In this order, so that the host may be cut off after any of them: the
    record, the one-shot entry, the default. Until the last one the next boot is a plain one.

    Raises:
        TaskError: what ``PatientShell`` raises.
    """
    if not action.fallback:
        return None
    found = await _look(patient, (action.closure, *action.fallback))
    if isinstance(found, str):
        report(f"plain boot, nothing to fall back to: {found}")
        return None
    entry = found.entry_of(action.closure)
    stays = next((e for system in action.fallback if (e := found.entry_of(system)) is not None), None)
    if entry is None or stays is None or entry == stays:
        lacks = action.closure if entry is None else action.fallback[0]
        report(f"plain boot, nothing to fall back to: the boot loader has no entry of its own for {lacks}")
        return None
    earlier = await _record(patient)
    if earlier is not None and (earlier.closure, earlier.stays) == (action.closure, found.default):
        default = earlier.default  # A controller that was killed had armed it.
    else:
        default = entry if found.default == stays else found.default
    armed = Armed(
        closure=action.closure, boot_id=found.boot_id, entry=entry, stays=stays, conf=found.conf,
        default=default, once=once,
    )  # fmt: skip
    result = await _run(patient, _arming(armed, found.text))
    if not result.ok:
        await _run(patient, f"bootctl set-oneshot '' 2>/dev/null; rm -f {RECORD}")
        why = " ".join(result.stderr.split()) or f"exit code {result.exit_code}"
        report(f"plain boot, nothing to fall back to: {why}")
        return None
    tells = "the next boot only" if once else "no boot before the gate"
    report(f"boot loader: {entry} for {tells}, {stays} stays the default")
    return armed


def _arming(armed: Armed, text: str) -> str:
    record = shlex.quote(json.dumps(to_plain(armed)))
    steps = (
        f"mkdir -p -m 0700 {STATE_DIRECTORY}",
        f"printf '%s\\n' {record} >{RECORD}.new",
        f"mv {RECORD}.new {RECORD}",
        f"bootctl set-oneshot {shlex.quote(armed.entry if armed.once else '')}",
        _writing(armed.conf, _with_default(text, armed.stays)),
    )
    return " && ".join(steps)


def _writing(conf: str, text: str) -> str:
    """Replace loader.conf as NixOS does; its own temporary file, ``loader.tmp``, must not be in its way."""
    path, new = shlex.quote(conf), shlex.quote(f"{conf}.nixkube-deploy")
    folder = shlex.quote(conf.rpartition("/")[0])
    lines = shlex.join(text.splitlines())
    return f"printf '%s\\n' {lines} >{new} && sync {new} && mv {new} {path} && sync -f {folder}"


def _with_default(text: str, default: str | None) -> str:
    """The configuration with another default, and nothing else changed."""
    line = f"default {default}"
    if default is None:
        kept = (row for row in text.splitlines() if not _DEFAULT.fullmatch(row))
        return "\n".join(kept)
    return _DEFAULT.sub(line, text) if _DEFAULT.search(text) else f"{text}\n{line}".strip()


async def promote(patient: PatientShell, action: PromoteEntry) -> tuple[bool, str]:
    """The new system is what every boot starts from now on. Whether that changed anything, and what to say of it.

    What the installer had written is put back, and only in place of what was armed: who has installed a boot loader
    since has decided anew. Safe to repeat: the record goes last.

    Raises:
        TaskError: COMMAND when the configuration could not be written; what ``PatientShell`` raises.
    """
    armed = await _record(patient)
    if armed is None or armed.closure != action.closure:
        return False, ""
    found = await _look(patient, (action.closure,))
    if isinstance(found, str):
        raise task_error(
            FailureKind.COMMAND,
            f"{patient.host.name} could not be told to boot its new system from now on",
            expected=f"{armed.conf} to be there",
            seen=found,
            next=f"{patient.host.login} bootctl status",
        )
    changes = found.default == armed.stays
    if changes:
        result = await _run(patient, _writing(armed.conf, _with_default(found.text, armed.default)))
        _check(patient, armed, result)
    await disarm(patient)
    entry = armed.default or armed.entry if changes else found.default or armed.entry
    told = f"{entry} is the default now"
    if pinned := await _is_set(patient, PINNED):
        told += f", but an EFI variable pins another one: {patient.host.login} bootctl set-default ''"
    return changes and not pinned, told


def _check(patient: PatientShell, armed: Armed, result: CommandResult) -> None:
    if result.ok:
        return
    full = "No space left on device" in result.stderr
    raise task_error(
        FailureKind.DISK_FULL if full else FailureKind.COMMAND,
        f"{patient.host.name} could not be told to boot its new system from now on",
        expected=f"{armed.conf} to be written",
        seen=f"exit code {result.exit_code}",
        evidence=result.tail(_EVIDENCE),
        next=f"{patient.host.login} df /boot",
        exit_code=result.exit_code,
    )


async def disarm(patient: PatientShell) -> None:
    """Nothing is to be booted once any more, and no kernel held ready: systemd's own reboot would go into it.

    What the default is, is not its business.

    Raises:
        TaskError: what ``PatientShell`` raises.
    """
    empty = f"test -e {RECORD} && bootctl set-oneshot '' 2>/dev/null"
    unload = f"test -e {RECORD} && kexec --unload 2>/dev/null"
    await _run(patient, f"{empty}; {unload}; rm -f {RECORD}")


async def armed_for(patient: PatientShell, closure: StorePath) -> Armed | None:
    """What the boot loader was last told, if that was about this system and has not been settled since."""
    armed = await _record(patient)
    return armed if armed is not None and armed.closure == closure else None


async def unread(patient: PatientShell) -> bool:
    """Whether the one-shot entry is still set after a boot: then it was not systemd-boot that booted."""
    return await _is_set(patient, ONE_SHOT)


async def _record(patient: PatientShell) -> Armed | None:
    """The record on the host; one that cannot be read is none."""
    said = await _ask(patient, (Question(name="record", command=f"cat {RECORD}"),))
    try:
        armed: Armed = from_plain(Armed, json.loads(said["record"]))
    except ValueError:
        return None
    return armed


async def _is_set(patient: PatientShell, variable: str) -> bool:
    return (await _run(patient, f"test -e {variable}")).ok


async def _look(patient: PatientShell, systems: tuple[StorePath, ...]) -> _Loader | str:
    """The configuration, or why there is none."""
    places = (
        Question(name="esp", command="bootctl --print-esp-path"),
        Question(name="boot", command="bootctl --print-boot-path"),
        Question(name="boot_id", command="cat /proc/sys/kernel/random/boot_id"),
    )
    found = await _ask(patient, places)
    esp = found["esp"]
    if not esp.startswith("/"):
        return "bootctl finds no EFI system partition"
    boot = found["boot"] if found["boot"].startswith("/") else esp
    conf = f"{esp}/loader/loader.conf"
    folders = " ".join(shlex.quote(f"{boot}/{folder}") for folder in ("loader/entries", "EFI/Linux"))
    files = (
        Question(name="readable", command=f"test -e {shlex.quote(conf)} && echo yes"),
        Question(name="conf", command=f"cat {shlex.quote(conf)}"),
        *(
            Question(name=f"of{at}", command=f"grep -r -l -s -F {shlex.quote(f'init={system}/init')} {folders}")
            for at, system in enumerate(systems)
        ),
    )
    said = await _ask(patient, files)
    if said["readable"] != "yes":
        return f"there is no {conf}"
    entries = {system: _ids(said[f"of{at}"]) for at, system in enumerate(systems)}
    return _Loader(conf=conf, text=said["conf"], entries=entries, boot_id=found["boot_id"])


def _ids(listing: str) -> tuple[str, ...]:
    names = (_COUNTER.sub("", line.strip().rpartition("/")[2]) for line in listing.splitlines())
    return tuple(name for name in names if _ID.fullmatch(name) and name.endswith((".conf", ".efi")))


async def _ask(patient: PatientShell, questions: tuple[Question, ...]) -> Mapping[str, str]:
    """As ``script.ask``, with the rights that the EFI system partition takes."""
    return script.checked(patient.host, questions, await _run(patient, script.script(questions)))


async def _run(patient: PatientShell, text: str) -> CommandResult:
    """Everything here may be done twice."""
    command = Command(argv=("sh", "-c", text), privileged=True)
    return await patient.insist(lambda: patient.shell.run(patient.host, command))
