"""What one host is, in one round trip: a table of questions, each with the reader of its answer.

It asks without privileges and changes nothing; what the API says of the host's Node is not its business.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.etcd import Voice
from nixkube_deploy.model.facts import DiskSpace, HostFacts, SystemContents
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Distribution, Host
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.ports.shell import Shell
from nixkube_deploy.protocols.etcd import UNIT_FILE
from nixkube_deploy.protocols.script import Question, ask

CURRENT: Final = "/run/current-system"
BOOTED: Final = "/run/booted-system"
PROFILE: Final = "/nix/var/nix/profiles/system"
TESTED: Final = "/run/nixkube-deploy.test"
"""Names the system that was activated with ``--mode test``; gone with the boot, as the system itself is."""

_SELECTED: Final = "/sys/firmware/efi/efivars/LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
"""systemd-boot names what it has booted; the EFI system partition itself may be root's alone, or elsewhere."""

_STORE_PATH = re.compile(r"/nix/store/[0-9A-Za-z+._?=-]+(/\S*)?")
_BOOT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.[a-z]+")
_DF_FIELDS: Final = 6
_DF_AVAILABLE: Final = 3

Facts = Mapping[str, Any]


# Readers: an answer to a value. What does not look like an answer reads as "not there"; none of them ever raises.


def text(answer: str) -> str:
    """The answer as it is."""
    return answer


def word(answer: str) -> str:
    """One word, or nothing."""
    return answer if re.fullmatch(r"\S{1,255}", answer) else ""


def store_path(answer: str) -> str:
    """A path in the Nix store, or nothing (``readlink -f`` of a missing link prints the link's own name)."""
    return answer if _STORE_PATH.fullmatch(answer) else ""


def system_path(answer: str) -> StorePath | None:
    """A system's toplevel, which lies directly in the store."""
    match = _STORE_PATH.fullmatch(answer)
    return StorePath(answer) if match and not match[1] else None


def boot_id(answer: str) -> str:
    """A kernel's boot id, or nothing."""
    return answer if _BOOT_ID.fullmatch(answer) else ""


def machine_id(answer: str) -> str:
    """A machine id, or nothing (``uninitialized`` on a first boot)."""
    return answer if re.fullmatch(r"[0-9a-f]{32}", answer) else ""


def system_paths(answer: str) -> tuple[StorePath, ...]:
    """Systems, one a line. A pattern that nothing matched is answered with itself, which is none."""
    return tuple(path for line in answer.splitlines() if (path := system_path(line.strip())) is not None)


def any_yes(answer: str) -> str:
    """``yes``, if any of several tests said so."""
    return "yes" if "yes" in answer.split() else ""


def number(answer: str) -> int | None:
    """A small whole number."""
    return int(answer) if re.fullmatch(r"[0-9]{1,9}", answer) else None


def generation_link(number: int) -> str:
    """Where a generation of the system profile is."""
    return f"{PROFILE}-{number}-link"


def generation(answer: str) -> int | None:
    """The number in ``system-42-link``."""
    match = re.fullmatch(r"system-([0-9]{1,9})-link", answer)
    return int(match[1]) if match else None


def os_release(key: str) -> Callable[[str], str]:
    """The reader of one value of os-release."""
    line = re.compile(rf"^{key}=[\"']?([a-z0-9._-]+)", re.MULTILINE)

    def read(answer: str) -> str:
        match = line.search(answer)
        return match[1] if match else ""

    return read


def disk_space(answer: str) -> DiskSpace:
    """What ``df -Pk`` says is available, in bytes, of the store first. Of what is not there it has no line."""
    rows = [fields for line in answer.splitlines() if len(fields := line.split()) >= _DF_FIELDS]
    free = [int(available) * 1024 for row in rows if re.fullmatch(r"[0-9]{1,15}", available := row[_DF_AVAILABLE])]
    return DiskSpace(store=next(iter(free), None), boot=free[1] if len(free) > 1 else None)


def etcd_member(answer: str) -> Voice | None:
    """A member that has yet to be asked, where anything says that there may be one."""
    return Voice(trouble="it was not asked") if {"unit", "embedded", "hidden"} & {*answer.split()} else None


def unit_names(answer: str) -> tuple[str, ...]:
    """The first word of each line of ``systemctl list-units --plain`` that is a unit's name."""
    words = (line.split(maxsplit=1)[0] for line in answer.splitlines() if line.strip())
    return tuple(w for w in words if _UNIT.fullmatch(w))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of the table: the name of the answer, the command that gives it, the reader that makes it a value."""

    name: str
    command: str
    read: Callable[[str], Any] = text


def systemd_units(pattern: str) -> str:
    """The command that lists units one a line, names first."""
    return f"systemctl list-units {pattern} --plain --no-legend --no-pager"


FAILED_UNITS: Final = Fact(name="failed_units", command=systemd_units("--failed"), read=unit_names)

_TRANSIENT: Final = "/run/systemd/transient"
NO_UNITS: Final = f"! ls -d {_TRANSIENT}/nixkube-deploy-* >/dev/null 2>&1 && test -d {_TRANSIENT}"
"""Succeeds where this tool has started no unit that systemd still knows."""
OUR_UNITS: Final = f"ls -d {_TRANSIENT}/nixkube-deploy-* >/dev/null 2>&1 || ! test -d {_TRANSIENT} && " + systemd_units(
    "--all 'nixkube-deploy-*'"
)
"""The units this tool started. They are transient ones, and systemd has a file for each of these until it forgets it
(systemd.unit(5), "Unit File Load Path"): where there is none nobody has to ask systemd, which costs far more."""

_MACHINE: Final = (
    Fact(name="os_id", command="cat /etc/os-release", read=os_release("ID")),
    Fact(name="variant", command="cat /etc/os-release", read=os_release("VARIANT_ID")),
    Fact(name="machine_id", command="cat /etc/machine-id", read=machine_id),
    Fact(name="boot_id", command="cat /proc/sys/kernel/random/boot_id", read=boot_id),
    Fact(name="machine", command="uname -m", read=word),
    Fact(name="kernel_release", command="cat /proc/sys/kernel/osrelease", read=word),
    Fact(name="hostname", command="cat /proc/sys/kernel/hostname", read=word),
    Fact(name="serial", command="cat /sys/class/dmi/id/product_serial"),
    Fact(name="profile", command=f"readlink -f {PROFILE}", read=system_path),
    Fact(name="generation", command=f"readlink {PROFILE}", read=generation),
    Fact(name="specialisations", command=f"readlink -f {PROFILE}/specialisation/*", read=system_paths),
    Fact(name="tested", command=f"cat {TESTED}", read=system_path),
    Fact(name="uid", command="id -u", read=number),
    Fact(name="disk", command="df -Pk /nix/store /boot", read=disk_space),
    Fact(
        name="loader.systemd-boot",
        command=f"test -e /boot/loader/loader.conf && echo yes || test -e {_SELECTED} && echo yes",
        read=any_yes,
    ),
    Fact(name="loader.grub", command="test -d /boot/grub && echo yes"),
    Fact(name="loader.generic-extlinux", command="test -e /boot/extlinux/extlinux.conf && echo yes"),
    FAILED_UNITS,
    Fact(name="activations", command=OUR_UNITS, read=unit_names),
)
"""Where a name is a field of ``HostFacts``, the value goes there as it is."""


def _files(unit: str) -> tuple[str, str]:
    """A unit's own file, and the one with which NixOS changes a unit that a package brings."""
    return unit, f"{unit}.d/overrides.conf"


def _system(name: str, link: str, units: frozenset[str]) -> tuple[Fact, ...]:
    """What classification compares of one system. A part that is missing must not read as its own name."""

    def part(field: str, path: str) -> Fact:
        return Fact(
            name=f"{name}.{field}", command=f"test -e {link}/{path} && readlink -f {link}/{path}", read=store_path
        )

    return (
        Fact(name=name, command=f"readlink -f {link}", read=system_path),
        part("kernel", "kernel"),
        part("initrd", "initrd"),
        part("kernel_modules", "kernel-modules"),
        part("systemd", "systemd"),
        Fact(name=f"{name}.kernel_params", command=f"cat {link}/kernel-params"),
        Fact(name=f"{name}.inhibitors", command=f"cat {link}/switch-inhibitors"),
        Fact(name=f"{name}.init_interface", command=f"cat {link}/init-interface-version"),
        part("dbus", "etc/systemd/system/dbus.service"),
        *(part(f"units.{file}", f"etc/systemd/system/{file}") for unit in sorted(units) for file in _files(unit)),
    )


def _ask_for_etcd(distribution: Distribution, *, control_plane: bool) -> Iterator[Fact]:
    """Whether etcd is at home, dead or alive: its unit, or its data, which only root may see.

    It costs no program: ``test`` and ``echo`` are the shell's. Without Kubernetes nobody asks.
    """
    if not distribution.has_kubelet:
        return
    asked = [f"test -e {UNIT_FILE} && echo unit"]
    if control_plane and (folder := distribution.etcd_folder):
        asked.append(f"test -d {folder}/db/etcd && echo embedded || test -x {folder} || echo hidden")
    yield Fact(name="etcd", command="; ".join(asked), read=etcd_member)


def table(distribution: Distribution, *, control_plane: bool = False) -> tuple[Fact, ...]:
    """Every question of a probe, in order."""
    units = distribution.node_units
    return (
        *_MACHINE,
        *_system("current", CURRENT, units),
        *_system("booted", BOOTED, units),
        *_ask_for_etcd(distribution, control_plane=control_plane),
    )


async def probe(shell: Shell, host: Host, distribution: Distribution) -> HostFacts:
    """Everything the product knows of a host before it plans. ``node`` is left None (``protocols.nodes`` adds it).

    Raises:
        TaskError: what ``Shell`` raises, and COMMAND when what answers is no Linux machine.
    """
    facts = table(distribution, control_plane=host.role.is_control_plane)
    answered = await ask(shell, host, (Question(name=f.name, command=f.command) for f in facts))
    return host_facts(host, {f.name: f.read(answered.get(f.name, "")) for f in facts})


def host_facts(host: Host, found: Facts) -> HostFacts:
    """The values of a table as facts.

    Raises:
        TaskError: COMMAND; without a boot id and an architecture nothing later can be proved.
    """
    if not found["boot_id"] or not found["machine"]:
        raise task_error(
            FailureKind.COMMAND,
            f"{host.name} answers, but not as a Linux machine does",
            expected="a boot id in /proc/sys/kernel/random/boot_id and a machine name from uname -m",
            seen=f"boot id {found['boot_id'] or 'missing'}, machine {found['machine'] or 'missing'}",
            next=f"check that {host.address} is the host you mean",
        )
    loaders = (name.removeprefix("loader.") for name in found if name.startswith("loader.") and found[name] == "yes")
    return HostFacts(
        host=host.name,
        system=f"{found['machine']}-linux",
        current=_contents("current", found),
        booted=_contents("booted", found),
        loader=next(loaders, "unknown"),
        **{name: found[name] for name in HostFacts.__slots__ if name in found and name not in {"current", "booted"}},
    )


def _contents(name: str, found: Facts) -> SystemContents | None:
    if found[name] is None:
        return None
    parts = {key.removeprefix(f"{name}."): value for key, value in found.items() if key.startswith(f"{name}.")}
    units = {key.removeprefix("units."): value for key, value in parts.items() if key.startswith("units.") and value}
    plain = {key: value for key, value in parts.items() if not key.startswith("units.")}
    return SystemContents(path=found[name], units=units, **plain)


async def system_contents(shell: Shell, host: Host, system: StorePath, distribution: Distribution) -> SystemContents:
    """What a system in the host's store is made of, in one round trip; of its units only the node's.

    Raises:
        TaskError: what ``Shell`` raises, and COMMAND when there is no such system.
    """
    facts = _system("system", system, distribution.node_units) if system_path(system) else ()
    answered = await ask(shell, host, (Question(name=f.name, command=f.command) for f in facts))
    found = _contents("system", {"system": None} | {f.name: f.read(answered.get(f.name, "")) for f in facts})
    if found is None:
        raise task_error(
            FailureKind.COMMAND, f"{host.name} has no system at {system}", expected="it in the host's store"
        )
    return found


async def specialisations(shell: Shell, host: Host, system: StorePath) -> dict[str, StorePath]:
    """The specialisations of a system in the host's store, by name, in two round trips."""
    folder = f"{system}/specialisation"
    listed = await ask(shell, host, (Question(name="names", command=f"ls {folder}"),))
    names = tuple(name for name in listed["names"].split() if re.fullmatch(r"[\w.-]+", name))
    questions = tuple(Question(name=f"of.{name}", command=f"readlink -f {folder}/{name}") for name in names)
    found = await ask(shell, host, questions)
    paths = {name: system_path(found[f"of.{name}"]) for name in names}
    return {name: path for name, path in paths.items() if path is not None}
