"""The nixos-anywhere installer: one process a phase, each with a deadline, one key for all of them.

It verifies no host key (nixos-anywhere cannot: it overrides those options), looks at no machine and waits for none:
the guards come before it, and the waiting for the installed system comes after it.
"""

from collections import deque
from dataclasses import replace
from typing import Final

import anyio

from nixkube_deploy.backends.nixos_anywhere.command import PhaseCall, argv, ssh_options
from nixkube_deploy.backends.nixos_anywhere.staging import Resolve, Staging, staged
from nixkube_deploy.model.action import InstallNixos, InstallPhase
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import BootstrapSettings, Host
from nixkube_deploy.ports.installer import Pins
from nixkube_deploy.ports.process import Invocation, Processes
from nixkube_deploy.ports.shell import OnLine, SshOptions

_EVIDENCE: Final = 20
_NO_STAGING: Final = Staging()


class NixosAnywhere:
    """Runs ``nixos-anywhere --phases PHASE --store-paths DISKO SYSTEM`` with prebuilt paths: no flake is evaluated.

    Args:
        processes: runs it, and ``ssh-keygen``.
        ssh_options: how OpenSSH reaches a host.
        resolve: gives the value behind a secret reference.
        pins: remembers the host key that is sent along.
        program: what ``nixos-anywhere`` is called here.
    """

    def __init__(
        self,
        processes: Processes,
        ssh_options: SshOptions,
        resolve: Resolve,
        pins: Pins,
        *,
        program: str = "nixos-anywhere",
    ) -> None:
        self._processes, self._ssh_options, self._program = processes, ssh_options, program
        self._resolve, self._pins = resolve, pins
        self._git_index = anyio.Lock()

    async def install(self, host: Host, action: InstallNixos, on_line: OnLine | None = None) -> None:
        """One phase, to its end.

        Raises:
            TaskError: INSTALL, TIMEOUT; PREFLIGHT for what nixos-anywhere cannot be told.
        """
        self.invocation(host, action)  # What it cannot be told is found before a secret is written anywhere.
        match action.phase:
            case InstallPhase.REPORT:
                async with self._git_index:  # ``git add`` of two hosts at once: one of them finds the index locked.
                    await self._report(host, action, on_line)
            case InstallPhase.DISKO | InstallPhase.INSTALL:
                async with staged(host, action.phase, self._processes, self._resolve) as staging:
                    if staging.host_key is not None:
                        await anyio.to_thread.run_sync(self._pins.put, host, staging.host_key)
                    await self._run(host, action, staging, on_line)
            case InstallPhase.KEXEC | InstallPhase.REBOOT:
                await self._run(host, action, _NO_STAGING, on_line)

    async def _report(self, host: Host, action: InstallNixos, on_line: OnLine | None) -> None:
        """A report that is there is kept; a new one ends the installation, as the system was built without it."""
        report = _settings(host).hardware_report
        assert report is not None, "the plan has no such phase without one"
        if await anyio.Path(report.path).exists():
            return
        await self._run(host, action, _NO_STAGING, on_line)
        raise task_error(
            FailureKind.INSTALL,
            f"the hardware report of {host.name} is new, and the system to be installed was built without it",
            expected=f"a report at {report.path} before the system is built",
            seen="one that was just written",
            did="nothing was wiped; the machine waits in the installer",
            next=f"import it in the configuration, then: deploy bootstrap INVENTORY --on {host.name}",
        )

    def invocation(self, host: Host, action: InstallNixos, staging: Staging = _NO_STAGING) -> Invocation:
        """The program as it is called.

        Raises:
            TaskError: PREFLIGHT, it cannot be told this.
        """
        call = self._call(host, action)
        call = replace(call, extra_files=staging.extra_files, disk_keys=staging.disk_keys)
        deadline = getattr(_settings(host).deadlines, action.phase.value)
        return Invocation(argv=argv(call), timeout=deadline, hear_stdout=True)

    def _call(self, host: Host, action: InstallNixos) -> PhaseCall:
        ssh, settings = self._ssh_options(host), _settings(host)
        port, key, options = ssh_options(ssh.options)
        if not key:
            raise _cannot(
                f"{host.name} has no SSH key of its own, and nixos-anywhere would make a new one for every phase",
                f"ssh.identity_file for {host.name}",
            )
        if action.disko is None:
            raise _cannot(f"{host.name}'s configuration has no disko script", "disko.devices in its configuration")
        return PhaseCall(
            program=self._program,
            phase=action.phase,
            target=ssh.destination,
            identity=key,
            disko=action.disko,
            system=action.closure,
            port=port,
            installer_port=settings.installer_port or port,
            ssh_options=options,
            kexec=settings.kexec,
            ownership=tuple(settings.ownership.items()),
            report=settings.hardware_report,
            substitute=host.copy.substitute,
        )

    async def _run(self, host: Host, action: InstallNixos, staging: Staging, on_line: OnLine | None) -> None:
        heard: deque[str] = deque(maxlen=_EVIDENCE)
        steps: deque[str] = deque(maxlen=1)

        def hear(line: str) -> None:
            step = _step(line)
            heard.append(line.rstrip())
            steps.extend([step] if step else [])
            if on_line is not None:
                on_line(step or line)

        invocation = self.invocation(host, action, staging)
        try:
            result = await self._processes.run(invocation, hear)
        except TaskError as error:
            if error.failure.kind is not FailureKind.TIMEOUT:
                raise
            raise TaskError(_overdue(host, action, invocation.timeout, tuple(heard), "".join(steps))) from None
        if not result.ok:
            raise TaskError(_failed(host, action, result.exit_code, tuple(heard), "".join(steps)))


def _settings(host: Host) -> BootstrapSettings:
    return host.bootstrap or BootstrapSettings()


def _cannot(message: str, missing: str) -> TaskError:
    return task_error(FailureKind.PREFLIGHT, message, next=f"set {missing}")


def _step(line: str) -> str:
    """``### Formatting hard drive with disko ###`` to its text."""
    text = line.strip()
    return text.strip("# ") if text.startswith("### ") and text.endswith(" ###") else ""


_DID: Final = {
    InstallPhase.KEXEC: "nothing was wiped",
    InstallPhase.REPORT: "nothing was wiped; the machine stays in the installer",
    InstallPhase.DISKO: "the machine stays in the installer; its disks may be partly formatted",
    InstallPhase.INSTALL: "the machine stays in the installer, with its disks on /mnt",
    InstallPhase.REBOOT: "the system is installed; the machine may still be in the installer",
}


def _failed(host: Host, action: InstallNixos, code: int, heard: tuple[str, ...], step: str) -> Failure:
    aborted = next((line.removeprefix("aborted:").strip() for line in heard if line.startswith("aborted:")), "")
    return Failure(
        kind=FailureKind.INSTALL,
        message=f"nixos-anywhere failed in the {action.phase.value} phase on {host.name}"
        + (f": {aborted}" if aborted else ""),
        expected="nixos-anywhere to exit with 0",
        seen=f"exit code {code}" + (f" during: {step}" if step else ""),
        evidence=heard,
        did=_DID[action.phase],
        next=f"look at the console of {host.name}, then: deploy bootstrap INVENTORY --on {host.name}",
        command=f"nixos-anywhere --phases {action.phase.value}",
        exit_code=code,
    )


def _overdue(host: Host, action: InstallNixos, seconds: float, heard: tuple[str, ...], step: str) -> Failure:
    phase = action.phase.value
    return Failure(
        kind=FailureKind.TIMEOUT,
        message=f"the {phase} phase on {host.name} took longer than {seconds:g} s",
        expected=f"it to end within bootstrap.deadlines.{phase}",
        seen=f"still at work on: {step}" if step else "nothing",
        evidence=heard,
        did=f"ended nixos-anywhere; {_DID[action.phase]}",
        next=f"look at the console of {host.name}, then: deploy bootstrap INVENTORY --on {host.name}",
        command=f"nixos-anywhere --phases {phase}",
    )
