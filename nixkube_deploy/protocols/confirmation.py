"""Making a change permanent: the dead-man timer is stopped over a new connection, if the host still is where it was.

It judges no health; that the gate has passed is the caller's knowledge.
"""

import shlex
from typing import Final

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ports.activator import Activation
from nixkube_deploy.ports.shell import Command
from nixkube_deploy.protocols import script, transient
from nixkube_deploy.protocols.patience import PatientShell
from nixkube_deploy.protocols.probe import CURRENT
from nixkube_deploy.protocols.situation import DEAD_MAN, WHERE, Situation, situation


async def confirm(patient: PatientShell, activation: Activation) -> None:
    """One script over one brand-new connection.

    Timers that an earlier run left are disarmed too: it is this system that was found healthy. Only now are the
    units that brought it about forgotten: until then they told a successor what was done already.

    Raises:
        TaskError: FELL_BACK when the host has gone back by itself, ACTIVATION when something else switched it.
    """
    command = Command(argv=("sh", "-c", confirming(activation)), privileged=True, timeout=30.0)
    result = await patient.insist(lambda: patient.shell.run_fresh(patient.host, command))
    seen = situation(script.checked(patient.host, WHERE, result))
    if seen.dead_men and not seen.going_back and seen.current == activation.closure:
        await transient.forget_units(patient, *seen.dead_men)
        seen = await patient.look()
    if seen.going_back or seen.current != activation.closure:
        raise TaskError(_unconfirmed(activation, seen))
    await transient.forget_units(patient, *seen.ended)


def confirming(activation: Activation) -> str:
    """Stop the timers, but only on a host that runs what is to be kept; then look, for one may have fired before that.

    Our own units are forgotten in the same breath.
    """
    there = f"test {CURRENT} -ef {shlex.quote(activation.closure)}"
    ours = transient.unit_name(_VERBS, activation.run, activation.closure)
    disarm = f"{there} && systemctl stop '{DEAD_MAN}*.timer' '{ours}.service' 2>/dev/null"
    return "\n".join((disarm, script.script(WHERE)))


_VERBS: Final = "[sbt]*"
"""Of ``switch``, ``boot`` and ``test``, and not of what goes back. As a pattern it stops units that systemd knows; for
names that it does not know it would read every unit file of the host."""


def _unconfirmed(activation: Activation, seen: Situation) -> Failure:
    name, back = activation.host.name, activation.way_back.system
    fell_back = seen.going_back or seen.current == back
    return Failure(
        kind=FailureKind.FELL_BACK if fell_back else FailureKind.ACTIVATION,
        message=f"{name} went back to its old system: the change was not confirmed in time"
        if fell_back
        else f"{name} no longer runs the system that was activated; something else has switched it",
        expected=f"/run/current-system to be {activation.closure}",
        seen=f"/run/current-system is {seen.current}" + (", its dead-man timer is at work" if seen.going_back else ""),
        next=f"journalctl -u '{DEAD_MAN}*' on {name} tells when" if fell_back else f"last -x on {name}",
    )
