"""The ``nixos-rebuild`` activator: one call per host activates a closure that was built and staged before.

It promises less than the native one: no dead-man timer, no way to re-attach by name, and the profile is set by a
program we do not follow. What the host runs afterwards is looked at all the same.
"""

import re
from typing import Final

import anyio

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.error import OutcomeUnknown, TaskError, Unreachable, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host, Privilege
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.process import Invocation, Processes
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine, Shell, SshOptions

_TIMEOUT: Final = 3600.0
_EVIDENCE: Final = 20
_SETTLING_LOOKS: Final = 90
"""How often, two seconds apart, a host is looked at whose switch went on after the connection was lost."""

_UNIT: Final = "nixos-rebuild-switch-to-configuration.service"
"""The name is fixed in nixos-rebuild, so a second call fails: an accidental lock."""

_REFUSED = 1
_UNITS_FAILED = 4
_REBOOT_NEEDED = 100
_CONNECTION_LOST = 255

_BUSY = re.compile(rf"Unit {re.escape(_UNIT)} was already loaded|Could not acquire lock")
_INHIBITED = "switchInhibitors"
_FAILED_UNITS = re.compile(r"the following units failed: (.+)")


class NixosRebuildActivator:
    """``nixos-rebuild switch|boot --store-path P --target-host H --no-reexec``, then a look at the host."""

    def __init__(
        self, processes: Processes, shell: Shell, ssh_options: SshOptions, *, program: str = "nixos-rebuild"
    ) -> None:
        self._processes, self._shell, self._ssh_options, self._program = processes, shell, ssh_options, program

    async def refuse(self, host: Host) -> Failure | None:
        """How it cannot become root there."""
        try:
            _elevation(host)
        except TaskError as error:
            return error.failure
        return None

    async def activate(self, activation: Activation, on_line: OnLine | None = None) -> Activated:
        """Bring the host to the closure (for a trial: without the profile), or make it boot there.

        Raises:
            TaskError: ACTIVATION, UNIT, INHIBITED; transient LOCKED and OUTCOME_UNKNOWN; PREFLIGHT for what it cannot
                do.
        """
        if activation.profile is not None:
            raise _refused(activation.host, "nixos-rebuild cannot run a specialisation of a system it did not build")
        if await self._is_there(activation):
            return Activated(changed=False)
        result = await self._processes.run(self.invocation(activation, activation.mode), on_line)
        inhibited = result.exit_code == _REFUSED and _INHIBITED in result.stderr
        if activation.mode is SwitchMode.TEST and (inhibited or result.exit_code == _REBOOT_NEEDED):
            raise TaskError(_no_trial(activation, result))
        if inhibited and activation.mode is SwitchMode.SWITCH:
            boot = await self._processes.run(self.invocation(activation, SwitchMode.BOOT), on_line)
            if not boot.ok:
                raise TaskError(await self._failed(activation, boot))
            return _needs_reboot("a switch inhibitor differs")
        if activation.mode is SwitchMode.BOOT:
            return await self._judge_boot(activation, result)
        return await self._judge_switch(activation, result)

    async def confirm(self, activation: Activation) -> None:
        """There is no timer to disarm; the host must still run the closure, seen over a new connection.

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

    def invocation(self, activation: Activation, mode: SwitchMode) -> Invocation:
        """The program as it is called."""
        ssh = self._ssh_options(activation.host)
        argv = (
            self._program,
            mode.value,
            "--store-path",
            activation.closure,
            "--target-host",
            ssh.destination,
            *_elevation(activation.host),
            "--no-reexec",
        )
        return Invocation(argv=argv, env={"NIX_SSHOPTS": ssh.spaced()}, timeout=_TIMEOUT)

    async def _is_there(self, activation: Activation) -> bool:
        link = "/run/booted-system" if activation.mode is SwitchMode.BOOT else "/run/current-system"
        running = await self._link(activation.host, link)
        if activation.mode is SwitchMode.TEST:
            return running == activation.closure
        return running == activation.closure == await self._link(activation.host, "/nix/var/nix/profiles/system")

    async def _link(self, host: Host, path: str) -> str:
        return (await self._shell.run(host, Command(argv=("readlink", "-f", path)))).stdout.strip()

    async def _judge_boot(self, activation: Activation, result: CommandResult) -> Activated:
        profile = await self._link(activation.host, "/nix/var/nix/profiles/system")
        if result.ok and profile == activation.closure:
            return Activated(changed=True)
        raise TaskError(await self._failed(activation, result))

    async def _judge_switch(self, activation: Activation, result: CommandResult) -> Activated:
        if result.exit_code == _CONNECTION_LOST:
            await self._settle(activation)
        switched = await self._link(activation.host, "/run/current-system") == activation.closure
        match result.exit_code:
            case 0 if switched:
                return Activated(changed=True)
            case code if code == _CONNECTION_LOST and switched:
                return Activated(changed=True, warnings=("the connection was lost; the host runs the new system",))
            case code if code == _UNITS_FAILED and switched:
                return _judge_units(activation, result)
            case code if code == _REBOOT_NEEDED and not switched:
                return _needs_reboot("its init changed")
            case _:
                raise TaskError(await self._failed(activation, result))

    async def _settle(self, activation: Activation) -> None:
        """The switch runs on without us: wait until its unit has ended, however often the connection breaks."""
        for _ in range(_SETTLING_LOOKS):
            try:
                state = await self._shell.run(activation.host, Command(argv=("systemctl", "is-active", _UNIT)))
            except (OutcomeUnknown, Unreachable):
                await self._shell.forget(activation.host)
            else:
                if state.stdout.strip() not in {"active", "activating", "deactivating"}:
                    return
            await anyio.sleep(2)

    async def _failed(self, activation: Activation, result: CommandResult) -> Failure:
        name, busy = activation.host.name, _BUSY.search(result.stderr) is not None
        lost = result.exit_code == _CONNECTION_LOST
        current = await self._link(activation.host, "/run/current-system")
        kind = FailureKind.LOCKED if busy else FailureKind.OUTCOME_UNKNOWN if lost else FailureKind.ACTIVATION
        return Failure(
            kind=kind,
            message=f"{name} cannot be switched now: another switch is at work on it"
            if busy
            else f"nixos-rebuild did not bring {name} to the new system",
            expected=f"nixos-rebuild {activation.mode.value} to end with 0 and the host to be at {activation.closure}",
            seen=f"exit code {result.exit_code}; /run/current-system is {current or 'missing'}",
            evidence=result.tail(_EVIDENCE),
            next=f"systemctl status {_UNIT} on {name}" if busy else f"journalctl -u {_UNIT} on {name}",
            command=f"nixos-rebuild {activation.mode.value}",
            exit_code=result.exit_code,
            transient=busy or lost,
        )


def _elevation(host: Host) -> tuple[str, ...]:
    """How nixos-rebuild becomes root there; what it cannot do is refused before anything happens."""
    if host.privilege_password is not None:
        why = f"nixos-rebuild cannot be given the privilege password of {host.name}: it asks a terminal for it"
        raise _refused(host, why, ", or sudo without a password")
    match host.privilege:
        case Privilege.NONE:
            return ()
        case Privilege.SUDO:
            return ("--sudo",)
        case Privilege.RUN0:
            return ("--elevate", "run0")
        case Privilege.DOAS:
            raise _refused(host, f"nixos-rebuild knows no doas, which {host.name} asks for", ", or privilege: sudo")


def _refused(host: Host, why: str, also: str = "") -> TaskError:
    return task_error(FailureKind.PREFLIGHT, why, next=f"activation: native for {host.name}{also}")


def _no_trial(activation: Activation, result: CommandResult) -> Failure:
    name = activation.host.name
    return Failure(
        kind=FailureKind.INHIBITED,
        message=f"{name} cannot be switched to its new system while it runs, and this is a trial",
        expected="a switch without a reboot",
        seen=f"exit code {result.exit_code}",
        evidence=result.tail(_EVIDENCE),
        next=f"deploy apply INVENTORY --on {name}, without --mode test: it reboots the host",
        exit_code=result.exit_code,
    )


def _needs_reboot(why: str) -> Activated:
    return Activated(changed=True, needs_reboot=True, warnings=(f"needs a reboot: {why}",))


def _judge_units(activation: Activation, result: CommandResult) -> Activated:
    named = _FAILED_UNITS.findall(result.stderr)
    units = tuple(unit.strip() for group in named for unit in group.split(",") if unit.strip())
    fatal = tuple(unit for unit in units if unit in activation.node_units)
    if not fatal:
        return Activated(changed=True, warnings=tuple(f"{unit} failed to start" for unit in units))
    raise task_error(
        FailureKind.UNIT,
        f"{activation.host.name} was switched, but {', '.join(fatal)} failed to start",
        expected="the kubelet and the container runtime to run",
        seen=f"failed units: {', '.join(units)}",
        evidence=result.tail(_EVIDENCE),
        next=f"journalctl -u {fatal[0]} on {activation.host.name}",
        exit_code=_UNITS_FAILED,
    )
