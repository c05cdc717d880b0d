"""When a voter may be taken away, and what is said where it may not."""

from dataclasses import replace

import pytest

from nixkube_deploy.model.etcd import LAG, Member, Voice, ailment, cost, heir, lost, objection
from nixkube_deploy.model.failure import Failure, FailureKind
from tests.fakes.etcd import voices_of

DOWN = Voice(trouble="Failed to connect", absent=True)


def refused(voices: dict[str, Voice], name: str = "cp1") -> Failure:
    failure = objection(name, voices)
    assert failure is not None
    assert failure.kind is FailureKind.ETCD
    assert failure.message.startswith(f"{name} is not touched: ")
    assert all((failure.expected, failure.seen, failure.next))
    return failure


@pytest.mark.parametrize("names", ["cp1 cp2 cp3", "cp1 cp2 cp3 cp4 cp5", "cp1", "cp1 cp2"])
def test_a_healthy_cluster_spares_a_voter_and_one_too_small_for_that_is_not_waited_for(names: str) -> None:
    assert objection("cp1", voices_of(names)) is None


def test_a_dead_member_is_named_with_what_it_said_and_the_quorum() -> None:
    failure = refused(voices_of() | {"cp2": DOWN})
    assert "the etcd member of cp2 does not answer" in failure.message
    assert failure.expected == "every etcd member to answer: 2 of 3 voters serve, 2 are the quorum"
    assert failure.seen == "cp2: Failed to connect"
    assert "etcdctl member remove ID" in failure.next


def test_also_where_the_arithmetic_would_allow_it_nobody_else_is_taken_away_beside_a_dead_member() -> None:
    failure = refused(voices_of("cp1 cp2 cp3 cp4 cp5") | {"cp2": DOWN})
    assert "4 of 5 voters serve, 3 are the quorum" in failure.expected


def test_a_member_that_is_down_takes_no_vote_with_it() -> None:
    assert objection("cp2", voices_of() | {"cp2": DOWN, "cp3": DOWN}) is None


def test_a_member_that_cannot_be_asked_is_not_taken_for_a_dead_one() -> None:
    failure = refused(voices_of() | {"cp1": Voice(trouble="certificate required")})
    assert "its own etcd member does not answer" in failure.message
    assert failure.expected == "an answer of every etcd member"


def test_a_cluster_that_lists_nobody_any_more_is_not_reckoned_with() -> None:
    silent = {name: replace(v, members=(), trouble="timed out") for name, v in voices_of().items()}
    assert refused(silent | {"cp2": DOWN}).expected == "every etcd member to answer"


@pytest.mark.parametrize(
    ("name", "says"), [("etcd-4", "etcd-4 (https://x:2379) does not answer"), ("", "has never started")]
)
def test_a_member_of_the_list_for_whom_nobody_speaks_is_named(name: str, says: str) -> None:
    voices = voices_of()
    stranger = Member(id="255", name=name, clients=("https://x:2379",) if name else (), peers=("https://x:2380",))
    voices = {each: replace(v, members=(*v.members, stranger)) for each, v in voices.items()}
    assert lost(voices) == (stranger,)
    failure = refused(voices)
    assert says in failure.message
    assert failure.next == "start it, or remove it: etcdctl member remove ff"


def test_the_member_with_another_list_is_named() -> None:
    voices = voices_of()
    fewer = replace(voices["cp3"], members=voices["cp3"].members[:2])
    failure = refused(voices | {"cp3": fewer})
    assert "cp3 is alone with its list" in failure.message
    assert failure.seen == "cp3 lists cp1 (https://cp1:2379), cp2 (https://cp2:2379)"
    mute = replace(voices["cp3"], members=(), trouble="request timed out")
    assert refused(voices | {"cp3": mute}).seen == "cp3 lists nothing: request timed out"


def test_a_learner_is_named_by_the_list_and_by_itself() -> None:
    voices = voices_of()
    titled = {n: replace(v, members=(*v.members[:2], replace(v.members[2], learner=True))) for n, v in voices.items()}
    titled["cp3"] = replace(voices["cp3"], learner=True, members=(), trouble="rpc not supported for learner")
    failure = refused(titled)
    assert failure.message == "cp1 is not touched: the etcd member of cp3 is a learner"
    assert "etcdctl member promote 3" in failure.next


@pytest.mark.parametrize(("kind", "then"), [("NOSPACE", "etcdctl defrag --cluster"), ("CORRUPT", "restore it")])
def test_an_alarm_is_told_with_who_raised_it(kind: str, then: str) -> None:
    voices = {n: replace(v, alarms=(("2", kind),), trouble="its /health says no") for n, v in voices_of().items()}
    failure = refused(voices)
    assert f"the alarm {kind}" in failure.message
    assert failure.seen == f"alarm {kind} of the member of cp2"
    assert then in failure.next


def test_a_sick_member_is_named() -> None:
    voices = voices_of()
    failure = refused(voices | {"cp2": replace(voices["cp2"], trouble="RANGE ERROR")})
    assert failure.seen == "cp2: it is not healthy: RANGE ERROR"
    assert "knows no leader" in refused(voices | {"cp2": replace(voices["cp2"], leader="0")}).seen


def test_two_leaders_are_one_too_many() -> None:
    voices = voices_of()
    failure = refused(voices | {"cp3": replace(voices["cp3"], leader="3")})
    assert failure.seen == "cp1 says 1, cp2 says 1, cp3 says 3"


def test_the_quorum_is_reckoned_with_the_voters_that_serve() -> None:
    voices = voices_of()
    failure = refused({name: voices[name] for name in ("cp1", "cp2")} | {"cp3": voices["cp2"]} | {})
    assert "cp3" in failure.message  # It is in the list, and no voice has its id.
    beside = {n: replace(v, members=(*v.members, Member(id="1", name="x"))) for n, v in voices.items()}
    beside = {n: replace(v, members=(*v.members, Member(id="2", name="y"))) for n, v in beside.items()}
    assert refused(beside).message == "cp1 is not touched: etcd would lose its quorum"


def test_a_way_back_is_held_up_by_nothing_but_the_quorum() -> None:
    voices = voices_of()
    assert cost("cp1", voices) is None
    assert cost("cp1", {n: replace(v, alarms=(("2", "NOSPACE"),)) for n, v in voices.items()}) is None
    failure = cost("cp1", voices | {"cp2": DOWN})
    assert failure is not None
    assert failure.message == "cp1 is not touched: etcd would lose its quorum"
    assert cost("cp2", voices | {"cp2": DOWN, "cp3": DOWN}) is None


def test_a_member_far_behind_is_named() -> None:
    voices = voices_of(index=9000)
    failure = refused(voices | {"cp2": replace(voices["cp2"], applied=9000 - LAG - 1)})
    assert "cp2 has not caught up" in failure.message
    assert objection("cp1", voices | {"cp2": replace(voices["cp2"], applied=9000 - LAG)}) is None


def test_a_member_by_itself_is_well_or_says_what_it_has() -> None:
    well = voices_of()["cp1"]
    assert ailment("cp1", well) is None
    for sick in (DOWN, replace(well, learner=True), replace(well, alarms=(("1", "NOSPACE"),))):
        failure = ailment("cp1", sick)
        assert failure is not None
        assert failure.seen == str(sick)


def test_the_voter_that_has_taken_over_most_leads_next() -> None:
    voices = voices_of()
    assert heir("cp1", voices | {"cp3": replace(voices["cp3"], applied=200)}) == "cp3"
    assert heir("cp1", {"cp1": voices["cp1"]}) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "the leader"),
        ({"leader": "2"}, "a voter"),
        ({"leader": ""}, "it knows no leader"),
        ({"learner": True}, "it is a learner: it does not vote yet"),
        ({"alarms": (("1", "NOSPACE"),)}, "alarm NOSPACE"),
        ({"trouble": "no"}, "it is not healthy: no"),
        ({"id": "", "trouble": "refused"}, "it does not answer: refused"),
    ],
)
def test_a_voice_in_words(change: dict[str, object], words: str) -> None:
    assert str(replace(voices_of()["cp1"], **change)) == words  # type: ignore[arg-type]


def test_a_member_without_any_address_is_called_by_its_id() -> None:
    assert Member(id="17").title == "without a name (id 11)"
    assert Member(id="?", name="x").title == "x (id ?)"
