"""What the plan owes to etcd: who votes, and a plan that would cost the quorum is refused before anything is touched.

Right before a voter is disturbed everybody is asked again (``protocols.quorum``); here only the survey's answers count.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from nixkube_deploy.model.etcd import Voice, objection
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import HostName
from nixkube_deploy.plan.intent import Intent
from nixkube_deploy.plan.wording import host_list


def without_quorum(intents: Sequence[Intent], voices: Mapping[str, Voice]) -> list[Intent]:
    """Voters that cannot be spared get the reason as their problem.

    A member that is down and on a host of this plan goes first; what is true then is only known then, so that the
    other voters stay in the plan and are judged when their turn comes.
    """
    acting = {intent.host.name for intent in intents if intent.acts}
    mended = any(name in acting for name, voice in voices.items() if voice.absent)
    return [
        replace(intent, problem=problem)
        if intent.takes_voter and not mended and (problem := _refused(intent, voices)) is not None
        else intent
        for intent in intents
    ]


def _refused(intent: Intent, voices: Mapping[str, Voice]) -> Failure | None:
    name = intent.host.name
    own = intent.facts.etcd if intent.facts is not None else None
    assert own is not None, "only voters are asked about"
    failure = objection(name, {**voices, name: own})
    return replace(failure, kind=FailureKind.PREFLIGHT) if failure is not None else None


def etcd_notes(intents: Sequence[Intent], voices: Mapping[str, Voice]) -> Iterator[str]:
    """Who votes and leads, where one of them is touched; who is down."""
    if not any(intent.takes_voter for intent in intents):
        return
    told = dict(voices)
    for intent in intents:
        if intent.facts is not None and intent.facts.etcd is not None:
            told[intent.host.name] = intent.facts.etcd
    voters = [HostName(name) for name, voice in told.items() if voice.serves]
    leader = next((f", {name} leads" for name, voice in told.items() if voice.leads), "")
    yield f"etcd voters: {host_list(voters) or 'none answers'}{leader}; each is asked for before it is touched"
    for name, voice in told.items():
        if not voice.serves:
            yield f"etcd of {name}: {voice}; no other voter begins before it is well"
