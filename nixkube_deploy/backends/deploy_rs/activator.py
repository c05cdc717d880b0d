"""The deploy-rs activator: one process per host, with the real program's absolute path, never a bare ``deploy``.

deploy-rs evaluates the flake itself, its rollback covers no boot and no reboot, and it knows no cluster. So nothing is
believed of it: once nothing of it is at work on the host any more, what the host runs and would boot decides.
"""

import re
from dataclasses import dataclass
from typing import Final

import anyio

from nixkube_deploy.backends.deploy_rs.output import Stage, Transcript, cleaned
from nixkube_deploy.backends.deploy_rs.program import impostor
from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.error import OutcomeUnknown, TaskError, Unreachable, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host, Privilege
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.process import Invocation, Processes
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine, Shell, SshOptions

CONFIRM_TIMEOUT: Final = 60
"""Seconds deploy-rs on the host waits to be confirmed; its own default of 30 is short for a busy host."""

_BUILDING: Final = 1800.0
"""Seconds for evaluating, building and copying: all of it was done before, so little is left to do."""
_LONGEST: Final = 65_535
"""Seconds: it takes no more than 16 bits."""
_EVIDENCE: Final = 20
_PAUSE: Final = 2.0
_AT_WORK: Final = "/[a]ctivate(-rs)? (.* )?activate "
"""deploy-rs' half on the host, by its command line; the brackets keep the pattern from finding itself."""
_TIMED_OUT: Final = 124
_PROFILE: Final = "/nix/var/nix/profiles/system"
_CURRENT: Final = "/run/current-system"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the host runs, and what its profile holds: deploy-rs sets it to a wrapper around the system."""

    current: str
    profile: str

    def is_at(self, activation: Activation) -> bool:
        running = activation.mode is SwitchMode.BOOT or self.current == activation.closure
        return running and self.profile == activation.closure

    def __str__(self) -> str:
        return f"{_CURRENT} is {self.current or 'missing'}; the profile holds {self.profile or 'nothing'}"


class DeployRsActivator:
    """``<deploy-rs>/bin/deploy FLAKE#host.system -s ...``, then a look at the host."""

    def __init__(self, processes: Processes, shell: Shell, ssh_options: SshOptions, program: str) -> None:
        self._processes, self._shell, self._ssh_options, self._program = processes, shell, ssh_options, program
        self._proved = False

    async def refuse(self, host: Host) -> Failure | None:
        """What it cannot do on this host, or a program that is not deploy-rs."""
        if host.privilege in {Privilege.DOAS, Privilege.RUN0}:
            return _cannot(host, f"become root by {host.privilege}: it ignores its own --sudo")
        if host.privilege_password is not None:
            return _cannot(host, "be given a privilege password: it asks a terminal for it")
        if self._proved:
            return None
        failure = await impostor(self._processes, self._program)
        self._proved = failure is None
        return failure

    async def activate(self, activation: Activation, on_line: OnLine | None = None) -> Activated:
        """Bring the host to the closure, or make it boot there.

        Raises:
            TaskError: ACTIVATION, FELL_BACK; transient OUTCOME_UNKNOWN; PREFLIGHT when the program is not deploy-rs,
                and for what it cannot do.
        """
        if activation.mode is SwitchMode.TEST:
            raise TaskError(_cannot(activation.host, "activate on trial"))
        if activation.profile is not None:
            raise TaskError(_cannot(activation.host, "run a specialisation"))
        if (refused := await self.refuse(activation.host)) is not None:
            raise TaskError(refused)
        before = await self._settled(activation)
        if before.is_at(activation):
            return Activated(changed=False)
        heard = Transcript()
        result = await self._run(activation, heard, on_line)
        seen = await self._settled(activation)
        if seen.is_at(activation):
            if result.ok:
                return Activated(changed=True)
            if heard.stage >= Stage.WAITS and not heard.took_back:
                lost = f"deploy-rs ended with {result.exit_code}, and the host runs the new system all the same"
                return Activated(changed=True, warnings=(lost,), evidence=_evidence(result))
        raise TaskError(_failed(activation, result, heard, seen))

    async def confirm(self, activation: Activation) -> None:
        """deploy-rs has confirmed for itself; the host must still run the closure, seen over a new connection.

        Raises:
            TaskError: ACTIVATION; something else has switched it.
        """
        link = Command(argv=("readlink", "-f", _CURRENT))
        current = (await self._shell.run_fresh(activation.host, link)).stdout.strip()
        if current != activation.closure:
            raise task_error(
                FailureKind.ACTIVATION,
                f"{activation.host.name} no longer runs the system that was activated",
                expected=f"{_CURRENT} to be {activation.closure}",
                seen=f"{_CURRENT} is {current or 'missing'}",
            )

    def invocation(self, activation: Activation) -> Invocation:
        """The program as it is called: one node, its system alone, whatever else its flake says about rolling back.

        ``-s``: checks were our evaluation's, and would run once per host. Never ``--targets``: it takes every word
        that follows for a target.
        """
        ssh = self._ssh_options(activation.host)
        user, at, address = ssh.destination.rpartition("@")
        limit = activation.host.policy.activation_timeout
        argv = (
            self._program,
            f"{activation.flake}#{_node(activation.host.name)}.system",
            "-s",
            "--hostname",
            address,
            *(("--ssh-user", user) if at else ()),
            *(("--ssh-opts", ssh.spaced()) if ssh.options else ()),
            *("--profile-user", "root"),
            *("--auto-rollback", "true"),
            *("--magic-rollback", "true"),
            *("--confirm-timeout", str(CONFIRM_TIMEOUT)),
            *("--activation-timeout", str(min(max(int(limit), 1), _LONGEST))),
            *(("--boot",) if activation.mode is SwitchMode.BOOT else ()),
        )
        return Invocation(argv=argv, timeout=limit + CONFIRM_TIMEOUT + _BUILDING, hear_stdout=True)

    async def _run(self, activation: Activation, heard: Transcript, on_line: OnLine | None) -> CommandResult:
        def hear(line: str) -> None:
            told = heard.hear(line)
            if on_line is not None and told:
                on_line(told)

        try:
            return await self._processes.run(self.invocation(activation), hear)
        except TaskError as error:
            if error.failure.kind is not FailureKind.TIMEOUT:
                raise
            said = "\n".join((*error.failure.evidence, error.failure.message))
            return CommandResult(exit_code=_TIMED_OUT, stderr=said)

    async def _settled(self, activation: Activation) -> _Seen:
        """What the host is at once nothing of deploy-rs works on it: that goes on, or back, when SSH is lost.

        Raises:
            TaskError: transient OUTCOME_UNKNOWN when the host stays silent, or busy, beyond every deadline of it.
        """
        host, trouble = activation.host, ""
        ends = anyio.current_time() + host.policy.activation_timeout + CONFIRM_TIMEOUT
        while True:
            try:
                busy = (await self._shell.run(host, Command(argv=("pgrep", "-f", _AT_WORK)))).ok
                if not busy:
                    return _Seen(current=await self._link(host, _CURRENT), profile=await self._profile(host))
                trouble = "deploy-rs is still at work on it"
            except (OutcomeUnknown, Unreachable) as error:
                trouble = error.failure.message
                await self._shell.forget(host)
            if anyio.current_time() >= ends:
                raise TaskError(_unknown(activation, trouble))
            await anyio.sleep(_PAUSE)

    async def _profile(self, host: Host) -> str:
        """The system in the profile, through the wrapper: a file of it leads to the system's own."""
        return (await self._link(host, f"{_PROFILE}/nixos-version")).removesuffix("/nixos-version")

    async def _link(self, host: Host, path: str) -> str:
        return (await self._shell.run(host, Command(argv=("readlink", "-f", path)))).stdout.strip()


def _node(name: str) -> str:
    """The node as a fragment of a flake reference; a dot would end the attribute."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _cannot(host: Host, what: str) -> Failure:
    return Failure(
        kind=FailureKind.PREFLIGHT,
        message=f"deploy-rs cannot {what}",
        expected=f"a change of {host.name} that deploy-rs can make",
        next=f"hosts.{host.name}.activation: native",
    )


def _unknown(activation: Activation, trouble: str) -> Failure:
    name = activation.host.name
    return Failure(
        kind=FailureKind.OUTCOME_UNKNOWN,
        message=f"what deploy-rs made of {name} is not known",
        expected=f"{name} to answer once deploy-rs' deadlines are over",
        seen=trouble,
        next=f"{activation.host.login} readlink -f {_CURRENT}",
        transient=True,
    )


def _evidence(result: CommandResult) -> tuple[str, ...]:
    return tuple(line for line in map(cleaned, result.tail(_EVIDENCE)) if line)


def _failed(activation: Activation, result: CommandResult, heard: Transcript, seen: _Seen) -> Failure:
    name, old = activation.host.name, activation.way_back.system
    stayed = seen.current == old and activation.mode is SwitchMode.SWITCH
    went_back = stayed and not result.ok and (heard.took_back or heard.stage >= Stage.ACTIVATES)
    another = result.ok and seen.current not in {old, activation.closure} and activation.mode is SwitchMode.SWITCH
    then = f"journalctl -b on {name}; deploy-rs takes any unit that fails to start for a failure"
    did = ""
    if went_back:
        message = f"{name} went back to its old system: " + (
            "deploy-rs could not confirm the new one" if heard.stage >= Stage.WAITS or not heard.took_back
            else "deploy-rs could not activate the new one"
        )  # fmt: skip
        did = "deploy-rs took the host back by itself"
    elif another:
        message = f"deploy-rs brought {name} to another system than the planned one"
        then = "the flake has changed since the plan, or its deploy.nodes holds something else: run apply again"
    elif heard.took_back and seen.current == activation.closure:
        message = f"deploy-rs could not take {name} back: it runs the new system, and its profile does not hold it"
    else:
        message = f"deploy-rs did not bring {name} to the new system"
    return Failure(
        kind=FailureKind.FELL_BACK if went_back else FailureKind.ACTIVATION,
        message=message,
        expected=f"deploy-rs to end with 0 and the host to be at {activation.closure}",
        seen=f"{_ended(result)}; {seen}",
        evidence=_evidence(result),
        did=did,
        next=then,
        command="deploy-rs",
        exit_code=result.exit_code,
    )


def _ended(result: CommandResult) -> str:
    return (
        "deploy-rs was ended: it took too long" if result.exit_code == _TIMED_OUT else f"exit code {result.exit_code}"
    )
