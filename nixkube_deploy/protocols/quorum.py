"""Before a voter of etcd is taken away: hear every member, refuse unless one can be spared, let another one lead.

The rule itself is in ``model.etcd``. It deliberately does not stop anything on a host.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import anyio

from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.etcd import Voice, cost, heir, lost, objection
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Distribution, Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import Command, Shell
from nixkube_deploy.protocols.etcd import TRANSFER, Heard, Way, ask_from, hear
from nixkube_deploy.protocols.together import together

LOOKS = 4
"""How often the members are heard before they are refused: elections, and a member that has just started, settle."""
BETWEEN_LOOKS = 2.0
MOVE_LOOKS = 10
AT_ONCE = 16
_PATIENCE = 20.0

Report = Callable[[str], None]


async def hear_all(
    shell: Shell, known: Mapping[HostName, tuple[Host, Heard]], others: Iterable[Host], distribution: Distribution
) -> dict[str, Voice]:
    """Every member's voice: by host where it is on one of these, by its own name where it is somewhere else.

    ``known`` were heard already. Of the others, one that has no member is left out, and so is one that cannot even be
    reached: where it has one, it is in the others' lists, and asked at its client URL.

    Raises:
        TaskError: HOST_KEY.
    """
    found = {name: heard.voice for name, (_, heard) in known.items()}

    async def one(host: Host) -> None:
        heard = await hear(shell, host, distribution)
        if heard is not None and heard.ways:
            found[host.name] = heard.voice

    await together(one, others, AT_ONCE)
    voices: dict[str, Voice] = {str(name): found[name] for name in sorted(found)}
    asking = next((each for each in known.values() if each[1].voice.answers), None)
    if asking is None or any(voice.absent for voice in found.values()):
        return voices  # A member that is down is one of the missing; which of them, only its data directory knows.
    host, heard = asking
    for member in lost(voices):
        if not member.name:
            continue  # It has never started, so there is nobody to ask.
        voices[member.title] = await ask_from(shell, host, heard.ways, member.clients)
    return voices


async def spare(shell: Shell, host: Host, others: Iterable[Host], distribution: Distribution, report: Report) -> str:
    """Return when ``host``'s member can be taken away and does not lead; says which voters stay.

    Raises:
        TaskError: ETCD, naming the member that speaks against it and what it said; HOST_KEY.
    """
    others = tuple(other for other in others if other.name != host.name)
    looks = 0
    while True:
        own = await hear(shell, host, distribution)
        if own is None:
            return "it has no etcd member"
        voices = await hear_all(shell, {host.name: (host, own)}, others, distribution)
        refused, looks = objection(host.name, voices), looks + 1
        if refused is None:
            break
        if looks == LOOKS:
            evidence = _said(voices)
            raise TaskError(
                replace(refused, evidence=evidence, did=f"asked every member {LOOKS} times; {host.name} is as it was")
            )
        report(f"waiting for etcd: {refused.seen}")
        await anyio.sleep(BETWEEN_LOOKS)
    if own.voice.absent:
        return "its etcd member is down: taking it away costs no vote"
    moved = ""
    if own.voice.leads and (to := heir(host.name, voices)):
        await _move(shell, host, own.ways, (to, voices[to]), distribution)
        report(f"etcd: leadership moved to {to}")
        moved = f"; leadership moved to {to}"
    stay = ", ".join(name for name, voice in voices.items() if name != host.name and voice.serves)
    return f"etcd voters that stay: {stay or 'none'}{moved}"


async def spare_to_go_back(shell: Shell, host: Host, others: Iterable[Host], distribution: Distribution) -> None:
    """Return where a way back of ``host`` does not cost the quorum: a member that serves no more has no vote to lose.

    Raises:
        TaskError: ETCD; HOST_KEY.
    """
    own = await hear(shell, host, distribution)
    if own is None or not own.voice.serves:
        return
    rest = tuple(other for other in others if other.name != host.name)
    voices = await hear_all(shell, {host.name: (host, own)}, rest, distribution)
    if (refused := cost(host.name, voices)) is not None:
        raise TaskError(replace(refused, evidence=_said(voices), did=f"left {host.name} as it is"))


def _said(voices: Mapping[str, Voice]) -> tuple[str, ...]:
    return tuple(f"{name}: {voice}" for name, voice in voices.items())


async def _move(
    shell: Shell, host: Host, ways: tuple[Way, ...], target: tuple[str, Voice], distribution: Distribution
) -> None:
    """Ask the leader to hand over, and believe only what it says of its leader afterwards."""
    to, voice = target
    body = json.dumps({"targetID": voice.id})
    line = " || ".join(way.curl(TRANSFER, body) for way in ways)
    result = await shell.run(host, Command(argv=("sh", "-c", line), privileged=True, timeout=_PATIENCE))
    seen = "no answer"
    for _ in range(MOVE_LOOKS):
        heard = await hear(shell, host, distribution)
        if heard is not None and heard.voice.answers and heard.voice.leader not in {"", "0", heard.voice.id}:
            return
        seen = str(heard.voice) if heard is not None else "it has no etcd member any more"
        await anyio.sleep(BETWEEN_LOOKS / 4)
    raise task_error(
        FailureKind.ETCD,
        f"{host.name} is not touched: the leadership of etcd did not move to {to}",
        expected=f"another leader than {host.name}'s member",
        seen=seen,
        evidence=result.tail(5),
        did=f"asked for the move; {host.name} is as it was",
        next=f"{host.login} etcdctl move-leader {int(voice.id):x}",
    )
