from dataclasses import replace

import pytest

from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.rollout import rollout
from tests.builders import a_failure, a_flake, a_fleet, closures_for, facts_for


def planned(
    hosts: str, now: str = "", wanted: str = "", *, unknown: str = "", undrainable: str = "", changed: str = ""
) -> Plan:
    """A plan for ``now`` (``cp1=1.31``, else 1.31) and ``wanted`` minors; what is wanted nowhere else stays unread."""
    fleet = a_fleet(hosts)
    runs, wants = (dict(word.split("=") for word in text.split()) for text in (now, wanted))
    facts = facts_for(fleet)
    for name, version in runs.items():
        facts[name] = replace(facts[name], node=replace(facts[name].node, kubelet_version=f"v{version}.0"))
    for name in unknown.split():
        facts[name] = replace(facts[name], node=None)
    closures = closures_for(fleet, changed=changed or " ".join(wants))
    for name, version in wants.items():
        closures[name] = replace(closures[name], contents=replace(closures[name].contents, kubernetes=f"{version}.0"))
    away = dict.fromkeys(undrainable.split(), a_failure(kind=FailureKind.PREFLIGHT))
    prepared = Prepared(flake=a_flake(), facts=facts, closures=closures, undrainable=away)
    return rollout(fleet, prepared, Choices())


def problem(plan: Plan, host: str) -> Failure:
    found = next(each.problem for each in plan.hosts if each.host == host)
    assert found is not None
    return found


def refused(plan: Plan) -> dict[str, str]:
    return {each.host: each.problem.message for each in plan.hosts if each.problem is not None}


def test_a_fleet_goes_up_one_minor_version_together():
    plan = planned("cp1 | w1", wanted="cp1=1.32 w1=1.32")
    assert refused(plan) == {}
    assert not [note for note in plan.notes if "skew" in note or "newer than" in note]


def test_a_control_plane_never_skips_a_minor_version():
    plan = planned("cp1 | w1", wanted="cp1=1.33")
    failure = problem(plan, "cp1")
    assert failure.message == "cp1 would skip a minor version: its API server is 1.31, the new system brings 1.33"
    assert failure.next.startswith("pin Kubernetes 1.32 in the configuration of cp1")
    assert failure.kind is FailureKind.PREFLIGHT


def test_going_down_skips_nothing_either():
    plan = planned("cp1", wanted="cp1=1.29")
    assert problem(plan, "cp1").next.startswith("pin Kubernetes 1.30 in the configuration of cp1")


def test_a_kubelet_never_gets_newer_than_an_api_server_that_stays():
    plan = planned("cp1 cp2 | w1", wanted="cp1=1.32 w1=1.32")
    failure = problem(plan, "w1")
    assert failure.message == "w1's kubelet would be 1.32, newer than the API server of cp2, 1.31"
    assert failure.next == "upgrade the control plane first: deploy apply /etc/fleet/inventory.yaml --on cp2"
    assert set(refused(plan)) == {"w1"}


@pytest.mark.parametrize("how", ["skips", "cannot be drained"])
def test_an_api_server_that_is_not_upgraded_after_all_holds_the_kubelets_back(how):
    if how == "skips":
        plan = planned("cp1 | w1", wanted="cp1=1.33 w1=1.33")
    else:
        plan = planned("cp1 | w1", wanted="cp1=1.32 w1=1.32", undrainable="cp1")
    assert set(refused(plan)) == {"cp1", "w1"}


def test_a_kubelet_more_than_three_minor_versions_older_is_refused():
    assert refused(planned("cp1 | w1", now="w1=1.27", wanted="w1=1.28")) == {}
    plan = planned("cp1 | w1", now="w1=1.26", wanted="w1=1.27")
    failure = problem(plan, "w1")
    assert failure.message == "w1's kubelet would be 1.27, too old for the API server of cp1, 1.31"
    assert failure.next == "pin a Kubernetes nearer to 1.31 in the configuration of w1"


def test_a_kubelet_before_1_25_may_be_two_minor_versions_older():
    assert refused(planned("cp1 | w1", now="cp1=1.26", wanted="w1=1.24")) == {}
    assert set(refused(planned("cp1 | w1", now="cp1=1.27", wanted="w1=1.24"))) == {"w1"}


@pytest.mark.parametrize(("worker", "wanted"), [("1.28", "1.32"), ("1.31", "1.30")])
def test_an_api_server_never_leaves_the_kubelets_it_has_behind(worker, wanted):
    plan = planned("cp1 | w1", now=f"w1={worker}", wanted=f"cp1={wanted}")
    failure = problem(plan, "cp1")
    expected = f"cp1's API server would be {wanted}, beside w1's kubelet {worker}: Kubernetes does not support that"
    assert failure.message == expected
    assert failure.next.endswith("deploy apply /etc/fleet/inventory.yaml --on w1")


def test_api_servers_are_at_most_one_minor_version_apart():
    plan = planned("cp1 cp2", now="cp2=1.30", wanted="cp1=1.32 cp2=1.31")
    assert refused(plan) == {
        "cp1": "cp1's API server would be 1.32, beside cp2's API server 1.30: Kubernetes does not support that"
    }


def test_another_major_version_is_never_near_enough():
    assert set(refused(planned("cp1", wanted="cp1=2.0"))) == {"cp1"}


def test_a_host_whose_minor_version_stays_is_not_refused_for_an_old_skew():
    assert refused(planned("cp1 | w1", now="cp1=1.30", wanted="w1=1.31")) == {}


def test_a_machine_that_becomes_an_api_server_is_judged_beside_the_others():
    plan = planned("cp1 cp2", unknown="cp2", wanted="cp2=1.33")
    assert set(refused(plan)) == {"cp2"}


def test_what_cannot_be_read_is_said_and_never_guessed():
    plan = planned("cp1 | w1 w2", wanted="w2=1.32", changed="cp1 w1 w2")
    assert refused(plan) == {}, "nobody knows what cp1 will serve"
    assert "version skew is not checked for cp1, w1: which Kubernetes comes cannot be read beforehand" in plan.notes


def test_api_servers_nobody_knows_are_said():
    plan = planned("cp1 | w1", unknown="cp1", wanted="w1=1.32")
    assert refused(plan) == {}
    assert "version skew is not checked against cp1: what runs there is not known" in plan.notes


def test_a_change_without_new_node_units_says_nothing_of_versions():
    assert not [note for note in planned("cp1 | w1", changed="cp1=live w1=reboot").notes if "skew" in note]


def test_a_kubelet_that_may_meet_an_older_api_server_is_noted():
    plan = planned("cp1 cp2 cp3", now="cp3=1.32", wanted="cp1=1.32 cp2=1.32")
    assert refused(plan) == {}
    assert any(note.startswith("the kubelet of cp1, cp2 is newer than the API servers still") for note in plan.notes)
