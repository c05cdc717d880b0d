"""The nixos-anywhere installer: one phase per call, so that each has a deadline and can be looked at on its own.

It verifies no host key (nixos-anywhere cannot: it overrides those options); the wipe guards come before it, and
waiting for the installed system comes after it.
"""

from typing import Final

from nixkube_deploy.model.action import InstallNixos, InstallPhase
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.process import Invocation, Processes
from nixkube_deploy.ports.shell import CommandResult, OnLine, SshInvocation, SshOptions

_EVIDENCE: Final = 20
_DEADLINES: Final = {
    InstallPhase.KEXEC: 1200.0,
    InstallPhase.DISKO: 900.0,
    InstallPhase.INSTALL: 3600.0,
    InstallPhase.REBOOT: 300.0,
}
"""nixos-anywhere itself waits without end in four places."""

_IGNORED_OPTIONS: Final = ("userknownhostsfile", "globalknownhostsfile", "stricthostkeychecking")
"""What nixos-anywhere sets first, so that handing it on would only look as if it mattered."""

_SSH_PORT: Final = "22"


class NixosAnywhere:
    """Runs ``nixos-anywhere --phases PHASE --store-paths DISKO SYSTEM`` with prebuilt paths: no flake is evaluated."""

    def __init__(self, processes: Processes, ssh_options: SshOptions, *, program: str = "nixos-anywhere") -> None:
        self._processes, self._ssh_options, self._program = processes, ssh_options, program

    async def install(self, host: Host, action: InstallNixos, on_line: OnLine | None = None) -> None:
        """One phase, to its end.

        Raises:
            TaskError: INSTALL, TIMEOUT; PREFLIGHT for what nixos-anywhere cannot be told.
        """
        say = (lambda line: on_line(_step(line) or line)) if on_line is not None else None
        result = await self._processes.run(self.invocation(host, action), say)
        if not result.ok:
            raise TaskError(_failed(host, action, result))

    def invocation(self, host: Host, action: InstallNixos) -> Invocation:
        """The program as it is called.

        ``--target-host`` comes first: before it, a flag nixos-anywhere does not know would be taken for the host.
        """
        ssh = self._ssh_options(host)
        port, key, options = _split(host, ssh)
        argv = (
            self._program,
            "--target-host",
            _target(ssh, action.phase),
            "--ssh-port",
            port,
            "-i",
            key,
            *(part for option in options for part in ("--ssh-option", option)),
            "--phases",
            action.phase.value,
            "--store-paths",
            _disko(host, action),
            action.closure,
            *_bootstrap(host, action.phase, port),
            *(() if host.copy.substitute else ("--no-substitute-on-destination",)),
        )
        return Invocation(argv=argv, timeout=_DEADLINES[action.phase])


def _target(ssh: SshInvocation, phase: InstallPhase) -> str:
    """The installer that kexec boots only lets root in."""
    if phase is InstallPhase.KEXEC:
        return ssh.destination
    return f"root@{ssh.destination.rpartition('@')[2]}"


def _split(host: Host, ssh: SshInvocation) -> tuple[str, str, tuple[str, ...]]:
    """OpenSSH's options as nixos-anywhere takes them: the port, the key, and the rest as ``K=V``."""
    port, key, rest = _SSH_PORT, "", []
    for flag, value in zip(ssh.options[::2], ssh.options[1::2], strict=False):
        match flag:
            case "-p":
                port = value
            case "-i":
                key = value
            case "-J":
                rest.append(f"ProxyJump={value}")
            case "-o" if not value.lower().startswith(_IGNORED_OPTIONS):
                rest.append(value)
            case "-o":
                pass
            case _:
                raise _cannot(
                    f"the SSH option {flag} {value} cannot be handed to nixos-anywhere", "ssh: in the inventory"
                )
    if not key:
        raise _cannot(
            f"{host.name} has no SSH key of its own, and nixos-anywhere would make a new one for every phase",
            f"ssh.identity_file for {host.name}",
        )
    return port, key, tuple(rest)


def _disko(host: Host, action: InstallNixos) -> str:
    if action.disko is None:
        raise _cannot(f"{host.name}'s configuration has no disko script", "disko.devices in its configuration")
    return action.disko


def _cannot(message: str, missing: str) -> TaskError:
    return task_error(FailureKind.PREFLIGHT, message, next=f"set {missing}")


def _bootstrap(host: Host, phase: InstallPhase, port: str) -> tuple[str, ...]:
    settings = host.bootstrap
    arguments: list[str] = []
    if settings is not None and settings.extra_files is not None and phase is InstallPhase.INSTALL:
        arguments += ["--extra-files", settings.extra_files]
    if settings is not None and settings.kexec is not None and phase is InstallPhase.KEXEC:
        arguments += ["--kexec", settings.kexec]
    if port != _SSH_PORT and phase is InstallPhase.KEXEC:
        arguments += ["--post-kexec-ssh-port", port]
    return tuple(arguments)


def _step(line: str) -> str:
    """``### Formatting hard drive with disko ###`` to its text."""
    text = line.strip()
    return text.strip("# ") if text.startswith("### ") and text.endswith(" ###") else ""


def _failed(host: Host, action: InstallNixos, result: CommandResult) -> Failure:
    lines = result.tail(_EVIDENCE)
    step = next((text for line in reversed(result.stdout.splitlines()) if (text := _step(line))), "")
    aborted = next((line.removeprefix("aborted:").strip() for line in lines if line.startswith("aborted:")), "")
    return Failure(
        kind=FailureKind.INSTALL,
        message=f"nixos-anywhere failed in the {action.phase.value} phase on {host.name}"
        + (f": {aborted}" if aborted else ""),
        expected="nixos-anywhere to exit with 0",
        seen=f"exit code {result.exit_code}" + (f" during: {step}" if step else ""),
        evidence=lines,
        next=f"look at the console of {host.name}, then run bootstrap again",
        command=f"nixos-anywhere --phases {action.phase.value}",
        exit_code=result.exit_code,
    )
