"""One run at a time on one host: a lock that is a held command, so it dies with the run whatever kills it.

It keeps tools of this kind apart; a person who logs in and switches by hand is not stopped (the activation sees that).
"""

import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import RunId
from nixkube_deploy.ports.shell import Command, CommandResult, Shell

LOCK_FILE: Final = "/run/nixkube-deploy.lock"
HOLDER_FILE: Final = "/run/nixkube-deploy.holder"

_CONFLICT: Final = 75
_OWN_TRIES: Final = 5
"""How often, a second apart, a lock is asked for that this very run still holds: the channel of a killed controller
takes a moment to die on the host."""
_PATIENT_TRIES: Final = 2
"""After that many the channel is ended. Where the network was cut, sshd would keep it, and the lock, for hours."""


@asynccontextmanager
async def lock_host(
    shell: Shell, host: Host, run: RunId, is_over: Callable[[str], bool] = lambda _run: False
) -> AsyncIterator[None]:
    """Hold the host's lock for the length of the block.

    One controller at a time works on a run (its journal is locked), so what still holds the lock in this run's name,
    or in that of another run of this controller which has ended, is a connection that nobody has the other end of.

    Raises:
        TaskError: LOCKED, naming the holder; COMMAND when the host cannot lock.
    """
    for attempt in range(1, _OWN_TRIES + 1):
        async with shell.hold(host, _take(run)) as ended:
            if ended is None:
                yield
                return
        holder = await _holder(shell, host, ended)
        name = next(iter(holder.split()), "")
        if (name != run and not is_over(name)) or attempt == _OWN_TRIES:
            raise _held_by(host, holder)
        if attempt >= _PATIENT_TRIES:
            await shell.run(host, Command(argv=("pkill", "-f", _holding(name)), privileged=True))
        await anyio.sleep(1)


def _take(run: RunId) -> Command:
    """Whoever finds the lock taken finds the name; failing to write it is no reason not to work."""
    holding = f"echo {shlex.quote(run)} >{HOLDER_FILE}; echo locked; cat >/dev/null"
    # --close: only flock itself holds the lock, not what it runs, so that ending flock is enough.
    options = ("--nonblock", "--close", "--conflict-exit-code", str(_CONFLICT))
    return Command(argv=("flock", *options, LOCK_FILE, "sh", "-c", holding), privileged=True, timeout=30.0)


def _holding(run: str) -> str:
    """The pattern of this run's flock, in which no command that names the pattern recognises itself."""
    return f"flock .*[{LOCK_FILE[0]}]{LOCK_FILE[1:]} .*{run}"


async def _holder(shell: Shell, host: Host, ended: CommandResult) -> str:
    if ended.exit_code != _CONFLICT:
        raise task_error(
            FailureKind.COMMAND,
            f"{host.name} could not be locked",
            expected=f"flock to lock {LOCK_FILE}",
            seen=f"exit code {ended.exit_code}",
            evidence=ended.tail(),
            command=f"flock --nonblock {LOCK_FILE}",
            exit_code=ended.exit_code,
            next=f"flock (util-linux) must be there, and {host.ssh.user or 'the user'} must be or become root",
        )
    return (await shell.run(host, Command(argv=("cat", HOLDER_FILE)))).stdout.strip()


def _held_by(host: Host, holder: str) -> TaskError:
    return task_error(
        FailureKind.LOCKED,
        f"{host.name} is being changed by run {holder or 'unknown'}",
        expected="no other run at work on the host",
        seen=f"{LOCK_FILE} is held; {HOLDER_FILE} says: {holder or 'nothing'}",
        next=f"wait for it, or see what it does: deploy show {holder or 'RUN'}; "
        f"if it is dead and only its connection hangs: {host.login} \"pkill -f '{_holding(holder)}'\"",
    )
