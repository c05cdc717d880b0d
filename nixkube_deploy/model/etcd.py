"""etcd's members as they tell of themselves, and the one question about them: may this voter be taken away now?

The answer is a pure function of what every member said. It deliberately asks nobody and moves nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nixkube_deploy.model.failure import Failure, FailureKind

LAG: Final = 1000
"""Entries of the log that a voter may be behind the leader: members are asked at nearly the same time, not at once."""
SPARES_ONE: Final = 3
"""Voters from which on one can be missing. Smaller clusters stand still whenever a voter is away."""
NO_LEADER: Final = frozenset({"", "0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One line of a member list."""

    id: str
    name: str = ""
    """Empty: it was added, and has never started."""
    learner: bool = False
    peers: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What a person calls it."""
        where = next(iter((*self.clients, *self.peers)), f"id {hexadecimal(self.id)}")
        return f"{self.name or 'without a name'} ({where})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """What one member said of itself and of its cluster, or why it said nothing."""

    id: str = ""
    """Its member id, as etcd's JSON has it: a decimal number. Empty: it does not answer."""
    trouble: str = ""
    """Why it does not answer, or is not healthy, in its own words."""
    absent: bool = False
    """Nothing listens where it should: it is down, not merely hard to ask."""
    leader: str = ""
    learner: bool = False
    index: int = 0
    """The last entry of the log it knows of."""
    applied: int = 0
    """The last one it has taken over."""
    members: tuple[Member, ...] = ()
    alarms: tuple[tuple[str, str], ...] = ()
    """Member ids and the alarms they raised."""

    @property
    def answers(self) -> bool:
        """Whether it said anything of itself."""
        return self.id != ""

    @property
    def leads(self) -> bool:
        """Whether it is the leader."""
        return self.answers and self.leader == self.id

    @property
    def serves(self) -> bool:
        """Whether the cluster can count on it: it votes, and is in touch with the leader. Alarms are everybody's."""
        healthy = not self.trouble or bool(self.alarms)
        return self.answers and not self.learner and healthy and self.leader not in NO_LEADER

    def __str__(self) -> str:
        """For people, in a few words."""
        if not self.answers:
            return f"it does not answer: {self.trouble}"
        if self.learner:
            return "it is a learner: it does not vote yet"
        if self.alarms:
            return f"alarm {', '.join(sorted({kind for _, kind in self.alarms}))}"
        if self.trouble:
            return f"it is not healthy: {self.trouble}"
        if self.leader in NO_LEADER:
            return "it knows no leader"
        return "the leader" if self.leads else "a voter"


def ailment(name: str, voice: Voice) -> Failure | None:
    """What is wrong with one member by itself; None where it serves and no alarm was raised."""
    if voice.serves and not voice.alarms:
        return None
    return Failure(
        kind=FailureKind.ETCD,
        message=f"the etcd member of {name} is not well, and no other voter begins before it is",
        expected="a member that answers, votes and knows its leader, and no alarm",
        seen=str(voice),
        next="etcdctl endpoint status --cluster, and etcdctl alarm list",
    )


def hexadecimal(member: str) -> str:
    """A member id as ``etcdctl`` writes it."""
    return f"{int(member):x}" if member.isdigit() else member


def lost(voices: Mapping[str, Voice]) -> tuple[Member, ...]:
    """Members of somebody's list of whom none of these is the voice: they are somewhere else, or dead."""
    heard = {voice.id for voice in voices.values()}
    listed = {m.id: m for voice in voices.values() for m in voice.members}
    return tuple(member for key, member in listed.items() if key not in heard)


def objection(name: str, voices: Mapping[str, Voice]) -> Failure | None:
    """The first reason why the voter ``name`` must not be taken away now; ``voices`` has every member's, by name.

    A member that is down takes no vote with it, so nothing speaks against touching that one.
    """
    own = voices[name]
    if own.absent:
        return None
    return next(_objections(name, own, voices), None)


def cost(name: str, voices: Mapping[str, Voice]) -> Failure | None:
    """Only what taking ``name``'s vote away would break: for a way back, which matters more than an alarm."""
    own = voices[name]
    return next(_quorum(name, own, voices), None) if own.serves else None


def _objections(name: str, own: Voice, voices: Mapping[str, Voice]) -> Iterator[Failure]:
    yield from _silent(name, own, voices)
    yield from _never_started(name, own, voices)
    yield from _differing(name, voices)
    yield from _learning(name, voices)
    yield from _alarmed(name, voices)
    yield from _unhealthy(name, voices)
    yield from _quorum(name, own, voices)
    yield from _behind(name, voices)


def _refuse(name: str, because: str, expected: str, seen: str, then: str) -> Failure:
    message = f"{name} is not touched: {because}"
    return Failure(kind=FailureKind.ETCD, message=message, expected=expected, seen=seen, next=then)


def _silent(name: str, own: Voice, voices: Mapping[str, Voice]) -> Iterator[Failure]:
    for each in (name, *voices):
        voice = voices[each]
        if not voice.answers:
            whose = "its own etcd member" if each == name else f"the etcd member of {each}"
            yield _refuse(
                name,
                f"{whose} does not answer, and no second voter may be away",
                _arithmetic(own, voices) if own.answers else "an answer of every etcd member",
                f"{each}: {voice.trouble}",
                f"mend etcd on {each} first, then run this again; a member that is gone for good: "
                "etcdctl member list, then etcdctl member remove ID",
            )


def _arithmetic(own: Voice, voices: Mapping[str, Voice]) -> str:
    voters = _voters(own)
    there = sum(1 for voice in voices.values() if voice.serves)
    told = f": {there} of {voters} voters serve, {voters // 2 + 1} are the quorum" if voters else ""
    return f"every etcd member to answer{told}"


def _voters(own: Voice) -> int:
    return sum(1 for member in own.members if not member.learner)


def _never_started(name: str, own: Voice, voices: Mapping[str, Voice]) -> Iterator[Failure]:
    for member in lost(voices):
        why = "does not answer" if member.name else "was added and has never started"
        yield _refuse(
            name,
            f"the etcd member {member.title} {why}",
            _arithmetic(own, voices),
            f"it is in the member list, id {hexadecimal(member.id)}, and nobody speaks for it",
            f"start it, or remove it: etcdctl member remove {hexadecimal(member.id)}",
        )


def _differing(name: str, voices: Mapping[str, Voice]) -> Iterator[Failure]:
    """The list most members have is the one the others are held against. A learner may not be asked for its list."""
    lists = {
        each: frozenset((m.id, m.learner) for m in voice.members)
        for each, voice in voices.items()
        if not (voice.learner and not voice.members)
    }
    most = Counter(lists.values()).most_common(1)[0][0]
    for each, listed in lists.items():
        if listed != most:
            told = ", ".join(m.title for m in voices[each].members) or f"nothing: {voices[each].trouble}"
            yield _refuse(
                name,
                f"the etcd members do not agree on who is one; {each} is alone with its list",
                "the same member list from every member",
                f"{each} lists {told}",
                f"etcdctl member list, on {each} and on another member",
            )


def _learning(name: str, voices: Mapping[str, Voice]) -> Iterator[Failure]:
    titles = {m.id: m.title for voice in voices.values() for m in voice.members if m.learner}
    titles |= {voice.id: f"of {each}" for each, voice in voices.items() if voice.learner}
    for member, title in titles.items():
        yield _refuse(
            name,
            f"the etcd member {title} is a learner",
            "voters only: a learner is catching up, and does not vote",
            f"member {hexadecimal(member)} is a learner",
            f"wait until it is promoted (k3s and rke2 do it themselves), or: etcdctl member promote "
            f"{hexadecimal(member)}",
        )


def _alarmed(name: str, voices: Mapping[str, Voice]) -> Iterator[Failure]:
    titles = {m.id: m.title for voice in voices.values() for m in voice.members}
    titles |= {voice.id: f"of {each}" for each, voice in voices.items() if voice.answers}
    raised = {alarm: None for voice in voices.values() for alarm in voice.alarms}
    for member, kind in raised:
        mend = "etcdctl compact REVISION, etcdctl defrag --cluster, then " if kind == "NOSPACE" else "restore it; then "
        yield _refuse(
            name,
            f"etcd has raised the alarm {kind}",
            "no alarm",
            f"alarm {kind} of the member {titles.get(member, hexadecimal(member))}",
            f"etcdctl alarm list; {mend}etcdctl alarm disarm",
        )


def _unhealthy(name: str, voices: Mapping[str, Voice]) -> Iterator[Failure]:
    for each, voice in voices.items():
        if not voice.serves:
            yield _refuse(
                name,
                f"the etcd member of {each} is not healthy",
                "every member healthy, and in touch with one leader",
                f"{each}: {voice}",
                "etcdctl endpoint health --cluster, and etcdctl endpoint status --cluster",
            )
    if len({voice.leader for voice in voices.values()}) > 1:
        seen = ", ".join(f"{each} says {hexadecimal(voice.leader)}" for each, voice in voices.items())
        yield _refuse(
            name,
            "the etcd members do not agree on their leader",
            "one leader",
            seen,
            "etcdctl endpoint status --cluster",
        )


def _quorum(name: str, own: Voice, voices: Mapping[str, Voice]) -> Iterator[Failure]:
    """One or two voters can never spare one: that is told with the plan, because waiting would not help."""
    voters, there = _voters(own), sum(1 for voice in voices.values() if voice.serves)
    quorum = voters // 2 + 1
    if voters >= SPARES_ONE and there - 1 < quorum:
        yield _refuse(
            name,
            "etcd would lose its quorum",
            f"{quorum} of {voters} voters while {name} is away",
            f"{there - 1}",
            "etcdctl endpoint health --cluster",
        )


def _behind(name: str, voices: Mapping[str, Voice]) -> Iterator[Failure]:
    ahead = max(voice.index for voice in voices.values())
    for each, voice in voices.items():
        if ahead - voice.applied > LAG:
            yield _refuse(
                name,
                f"the etcd member of {each} has not caught up",
                f"at most {LAG} entries behind",
                f"{each} is at {voice.applied}, the log at {ahead}",
                "wait, and run this again: etcdctl endpoint status --cluster",
            )


def heir(name: str, voices: Mapping[str, Voice]) -> str:
    """Whose member is to lead in place of ``name``'s: the one that has taken over most of the log.

    Empty: there is nobody else.
    """
    others = {each: voice for each, voice in voices.items() if each != name and voice.serves}
    return max(others, key=lambda each: others[each].applied, default="")
