"""The deploy-rs activator: one process per host, with the real binary's absolute path, never a bare ``deploy``.

deploy-rs evaluates the flake itself, its rollback covers no boot and no reboot, and it knows no cluster; so what the
host runs afterwards is looked at, and must be what was planned.
"""

import re
from pathlib import PurePath
from typing import Final

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.process import Invocation, Processes
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine, Shell, SshOptions

_CONFIRM_TIMEOUT: Final = 60
"""Seconds deploy-rs on the host waits for our confirmation; its own default of 30 is short for a busy host."""

_ACTIVATION_TIMEOUT: Final = 600
_TIMEOUT: Final = 3600.0
_HELP_TIMEOUT: Final = 30.0
_EVIDENCE: Final = 20

_DECORATION = re.compile(r"^[^\x00-\x7f\s]+\s*(?:[^\x00-\x7f\s]+\s*)?(?=\[)")
_WENT_BACK = re.compile(r"(error|timeout)[^\n]*confirm", re.IGNORECASE)


class DeployRsActivator:
    """``<deploy-rs>/bin/deploy FLAKE#host -s ...``, then a look at the host."""

    def __init__(self, processes: Processes, shell: Shell, ssh_options: SshOptions, binary: str) -> None:
        self._processes, self._shell, self._ssh_options, self._binary = processes, shell, ssh_options, binary
        self._checked = False

    async def activate(self, activation: Activation, on_line: OnLine | None = None) -> Activated:
        """Bring the host to the closure, or make it boot there.

        Raises:
            TaskError: ACTIVATION, FELL_BACK; PREFLIGHT when the binary is not deploy-rs, and for what it cannot do.
        """
        if activation.mode is SwitchMode.TEST or activation.profile is not None:
            what = "activate on trial" if activation.mode is SwitchMode.TEST else "run a specialisation"
            name = activation.host.name
            raise task_error(FailureKind.PREFLIGHT, f"deploy-rs cannot {what}", next=f"activation: native for {name}")
        await self._check_binary()
        if activation.mode is SwitchMode.SWITCH and await self._current(activation) == activation.closure:
            return Activated(changed=False)
        say = (lambda line: on_line(cleaned(line))) if on_line else None
        result = await self._processes.run(self.invocation(activation), say)
        current = await self._current(activation)
        if result.ok and (activation.mode is SwitchMode.BOOT or current == activation.closure):
            return Activated(changed=True)
        raise TaskError(_failed(activation, result, current))

    async def confirm(self, activation: Activation) -> None:
        """deploy-rs has confirmed for itself; the host must still run the closure, seen over a new connection.

        Raises:
            TaskError: ACTIVATION; something else has switched it.
        """
        link = Command(argv=("readlink", "-f", "/run/current-system"))
        current = (await self._shell.run_fresh(activation.host, link)).stdout.strip()
        if current != activation.closure:
            raise task_error(
                FailureKind.ACTIVATION,
                f"{activation.host.name} no longer runs the system that was activated",
                expected=f"/run/current-system to be {activation.closure}",
                seen=f"/run/current-system is {current or 'missing'}",
            )

    def invocation(self, activation: Activation) -> Invocation:
        """The program as it is called. ``-s``: checks were our evaluation's; they would run once per host."""
        ssh = self._ssh_options(activation.host)
        user, at, address = ssh.destination.rpartition("@")
        argv = (
            self._binary,
            f"{activation.flake}#{_node(activation.host.name)}",
            "-s",
            "--hostname",
            address,
            *(("--ssh-user", user) if at else ()),
            *(("--ssh-opts", ssh.spaced()) if ssh.options else ()),
            "--confirm-timeout",
            str(_CONFIRM_TIMEOUT),
            "--activation-timeout",
            str(_ACTIVATION_TIMEOUT),
            *(("--boot",) if activation.mode is SwitchMode.BOOT else ()),
        )
        return Invocation(argv=argv, timeout=_TIMEOUT)

    async def _check_binary(self) -> None:
        """Our own program may be called ``deploy`` too: calling ourselves would never end."""
        if self._checked:
            return
        if not PurePath(self._binary).is_absolute():
            raise _not_deploy_rs(self._binary, seen="no absolute path")
        result = await self._processes.run(Invocation(argv=(self._binary, "--help"), timeout=_HELP_TIMEOUT))
        if "--magic-rollback" not in result.stdout + result.stderr:
            raise _not_deploy_rs(self._binary, seen="its --help does not list --magic-rollback")
        self._checked = True

    async def _current(self, activation: Activation) -> str:
        """Not the profile: that points to deploy-rs' own wrapper around the system."""
        link = Command(argv=("readlink", "-f", "/run/current-system"))
        return (await self._shell.run(activation.host, link)).stdout.strip()


def cleaned(line: str) -> str:
    """A line of deploy-rs without the emoji before its ``[deploy] [INFO]``."""
    return _DECORATION.sub("", line).strip()


def _node(name: str) -> str:
    """The node as a fragment of a flake reference; a dot would end the attribute."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _not_deploy_rs(binary: str, seen: str) -> TaskError:
    return task_error(
        FailureKind.PREFLIGHT,
        f"{binary or 'nothing'} is not deploy-rs",
        expected="the absolute path of deploy-rs' binary",
        seen=seen,
        next="export NIXKUBE_DEPLOY_RS=$(nix build --no-link --print-out-paths nixpkgs#deploy-rs)/bin/deploy",
    )


def _failed(activation: Activation, result: CommandResult, current: str) -> Failure:
    name, old = activation.host.name, activation.way_back.system
    went_back = current == old and _WENT_BACK.search(result.stderr) is not None
    another = result.ok and current != old
    if went_back:
        message = f"{name} went back to its old system: deploy-rs could not confirm the new one"
    elif another:
        message = f"deploy-rs brought {name} to another system than the planned one"
    else:
        message = f"deploy-rs did not bring {name} to the new system"
    return Failure(
        kind=FailureKind.FELL_BACK if went_back else FailureKind.ACTIVATION,
        message=message,
        expected=f"deploy-rs to end with 0 and /run/current-system to be {activation.closure}",
        seen=f"exit code {result.exit_code}; /run/current-system is {current or 'missing'}",
        evidence=tuple(cleaned(line) for line in result.tail(_EVIDENCE)),
        next="the flake has changed since the plan: run apply again"
        if another
        else f"journalctl -b on {name}; deploy-rs treats any unit that fails to start as a failure",
        command="deploy-rs",
        exit_code=result.exit_code,
    )
