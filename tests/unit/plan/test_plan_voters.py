"""What the plan says of etcd, and when it takes a voter out."""

from dataclasses import replace

import pytest

from nixkube_deploy.model.action import SpareVoter
from nixkube_deploy.model.etcd import Voice
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.outline import chains
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.rollout import rollout
from tests.builders import a_flake, a_fleet, closures_for, facts_for
from tests.fakes.etcd import voices_of

DOWN = Voice(trouble="Failed to connect", absent=True)


def planned(changed: str, hosts: str = "cp1 cp2 cp3 | w1", **told: Voice) -> Plan:
    fleet, voices = a_fleet(hosts), voices_of() | told
    facts = facts_for(fleet)
    for name in facts:
        facts[name] = replace(facts[name], etcd=voices.get(name))
    return rollout(
        fleet,
        Prepared(flake=a_flake(), facts=facts, closures=closures_for(fleet, changed=changed), etcd=voices),
        Choices(),
    )


def problems(plan: Plan) -> dict[str, str]:
    return {host.host: host.problem.message for host in plan.hosts if host.problem is not None}


def notes(plan: Plan) -> list[str]:
    return [note for note in plan.notes if "etcd" in note]


def test_a_voter_is_asked_for_before_it_is_cordoned_and_gated_on_etcd():
    plan = planned("cp1=node-restart w1=node-restart")
    assert chains(plan)["cp1"][:3] == ("copy", "etcd", "cordon")
    assert plan.graph["cp1/etcd"].action == SpareVoter(host="cp1")
    assert plan.graph["cp1/gate"].action.expect_etcd
    assert "etcd" not in chains(plan)["w1"]
    assert not plan.graph["w1/gate"].action.expect_etcd
    assert notes(plan) == ["etcd voters: cp1..cp3 (3 hosts), cp1 leads; each is asked for before it is touched"]


def test_a_refusal_leaves_the_host_as_it_was():
    graph = planned("cp1=node-restart").graph
    assert "cp1/etcd" in graph["cp1/undrain"].on_failure_of
    graph = planned("cp1=live").graph
    assert graph["cp1/untouched"].on_failure_of == {"cp1/etcd"}


def test_where_no_voter_is_touched_etcd_is_not_mentioned():
    plan = planned("w1", cp2=DOWN)
    assert not notes(plan)
    assert not problems(plan)


def test_with_a_dead_voter_the_others_are_refused():
    plan = planned("cp1 cp3 w1", cp2=DOWN)
    assert list(problems(plan)) == ["cp1", "cp3"]
    assert problems(plan)["cp1"].startswith("cp1 is not touched: the etcd member of cp2 does not answer")
    failure = next(host.problem for host in plan.hosts if host.host == "cp1")
    assert failure is not None
    assert failure.kind is FailureKind.PREFLIGHT


def test_a_dead_voter_on_a_host_of_the_plan_goes_first_and_the_others_wait():
    plan = planned("cp1 cp2 cp3", cp2=DOWN)
    assert not problems(plan)
    assert plan.graph.rules.unhealthy == {"cp2"}
    assert next(iter(plan.graph.sections)) == "cp2"
    assert "etcd of cp2: it does not answer: Failed to connect; no other voter begins before it is well" in plan.notes


def test_a_dead_voter_that_was_not_asked_for_counts():
    assert list(problems(planned("cp1", hosts="cp1 | w1", cp3=DOWN))) == ["cp1"]


@pytest.mark.parametrize("sick", [{"learner": True}, {"alarms": (("2", "NOSPACE"),)}, {"trouble": "RANGE ERROR"}])
def test_a_learner_an_alarm_or_a_sick_member_refuse_too(sick):
    told = replace(voices_of()["cp2"], **sick)
    assert list(problems(planned("cp1", cp2=told))) == ["cp1"]


def test_where_nobody_answers_the_note_says_so():
    everybody = dict.fromkeys(("cp1", "cp2", "cp3"), DOWN)
    assert notes(planned("cp1", **everybody))[0].startswith("etcd voters: none answers;")
