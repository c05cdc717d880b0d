"""The argv of one nixos-anywhere process: pure, so that every one can be held against the parser of the real script.

It deliberately resolves nothing: paths are made and secrets are written before it is called.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nixkube_deploy.model.action import InstallPhase
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import HardwareReport
from nixkube_deploy.model.names import StorePath

CHOWN_LIMIT: Final = 35
"""Characters of a ``--chown`` path: nixos-anywhere passes them through ``pr -2t``, which cuts each column there."""

_SSH_PORT: Final = 22
_IGNORED_OPTIONS: Final = ("userknownhostsfile", "globalknownhostsfile", "stricthostkeychecking")
"""What nixos-anywhere sets first, so that handing it on would only look as if it mattered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCall:
    """Everything one phase on one host may be told. What does not concern the phase is left out of its argv."""

    phase: InstallPhase
    target: str
    """``user@address`` of the machine before kexec; every later phase logs in as root."""
    identity: str
    """The same private key for every phase: without one nixos-anywhere makes a new one each time."""
    disko: StorePath
    system: StorePath
    program: str = "nixos-anywhere"
    port: int = _SSH_PORT
    installer_port: int = _SSH_PORT
    """Where the installer listens that kexec boots."""
    ssh_options: tuple[str, ...] = ()
    """``KEY=VALUE``, as ``-o`` takes them."""
    kexec: str | None = None
    """A tarball in place of nixos-anywhere's own: a path or a URL."""
    extra_files: str | None = None
    """A folder that is copied over the new system's root."""
    ownership: tuple[tuple[str, str], ...] = ()
    """Path in the new system and ``uid:gid``."""
    disk_keys: tuple[tuple[str, str], ...] = ()
    """Path in the installer and the local file with the key."""
    report: HardwareReport | None = None
    substitute: bool = True
    """Whether the machine may take store paths from its substituters."""


def argv(call: PhaseCall) -> tuple[str, ...]:
    """The program as it is called.

    ``--target-host`` comes first: before it, a flag nixos-anywhere does not know would be taken for the host. Values
    are arguments of their own, never ``--flag=value``, which would be taken for the host, too. ``--build-on local``
    keeps it from looking for a builder: both paths are built.

    Raises:
        TaskError: PREFLIGHT, what its parser or its pipes would quietly get wrong.
    """
    for refusal in _refusals(call):
        raise refusal
    before = call.phase is InstallPhase.KEXEC
    return (
        call.program,
        "--target-host",
        call.target if before else f"root@{call.target.rpartition('@')[2]}",
        "--ssh-port",
        str(call.port if before else call.installer_port),
        "-i",
        call.identity,
        *(part for option in call.ssh_options for part in ("--ssh-option", option)),
        "--phases",
        phases_of(call.phase),
        "--store-paths",
        call.disko,
        call.system,
        "--build-on",
        "local",
        *_of_phase(call),
        *(() if call.substitute else ("--no-substitute-on-destination",)),
    )


def phases_of(phase: InstallPhase) -> str:
    """What ``--phases`` is told. A report alone is no phase of nixos-anywhere: it runs none, and makes the report."""
    return "" if phase is InstallPhase.REPORT else phase.value


def ssh_options(options: tuple[str, ...]) -> tuple[int, str, tuple[str, ...]]:
    """OpenSSH's options as nixos-anywhere takes them: the port, the key (empty: none), and the rest as ``K=V``.

    Raises:
        TaskError: PREFLIGHT, an option that it cannot be told.
    """
    port, key, rest = _SSH_PORT, "", []
    for flag, value in zip(options[::2], options[1::2], strict=False):
        match flag:
            case "-p":
                port = int(value)
            case "-i":
                key = value
            case "-J":
                rest.append(f"ProxyJump={value}")
            case "-o" if value.lower().startswith(_IGNORED_OPTIONS):
                pass
            case "-o":
                rest.append(value)
            case _:
                raise _cannot(f"the SSH option {flag} {value}", "change ssh: in the inventory")
    return port, key, tuple(rest)


def _of_phase(call: PhaseCall) -> Iterator[str]:
    match call.phase:
        case InstallPhase.KEXEC:
            if call.kexec is not None:
                yield from ("--kexec", call.kexec)
            if call.installer_port != _SSH_PORT:  # Whatever it was before kexec, afterwards it looks there.
                yield from ("--post-kexec-ssh-port", str(call.installer_port))
        case InstallPhase.REPORT:
            if call.report is not None:
                yield from ("--generate-hardware-config", call.report.backend, call.report.path)
        case InstallPhase.DISKO:
            for remote, local in call.disk_keys:
                yield from ("--disk-encryption-keys", remote, local)
        case InstallPhase.INSTALL:
            if call.extra_files is not None:
                yield from ("--extra-files", call.extra_files)
            for path, owner in call.ownership:
                yield from ("--chown", path, owner)
        case InstallPhase.REBOOT:
            pass


def _refusals(call: PhaseCall) -> Iterator[TaskError]:
    for path, _ in call.ownership:
        if len(path) > CHOWN_LIMIT or set(path) & set(" \t\n\\"):
            yield _cannot(
                f"the ownership of {path}",
                f"name a folder above it in bootstrap.ownership: at most {CHOWN_LIMIT} characters, without blanks",
            )
    for remote, _ in call.disk_keys:
        if not _is_plain(remote):
            yield _cannot(f"the disk key {remote}", "use letters, digits and . _ - / in bootstrap.disk_encryption_keys")


def _is_plain(path: str) -> bool:
    """nixos-anywhere puts it unquoted into a remote shell."""
    return all(each.isascii() and (each.isalnum() or each in "._-/") for each in path)


def _cannot(what: str, advice: str) -> TaskError:
    return task_error(FailureKind.PREFLIGHT, f"{what} cannot be handed to nixos-anywhere", next=advice)
