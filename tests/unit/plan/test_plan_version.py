from dataclasses import replace

import pytest

from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.version import crossing, minor, overtakers, running
from tests.builders import a_flake, a_fleet, closures_for, facts_for

FLEET = a_fleet("cp1 cp2 | w1 w2")
CONTROL = frozenset({"cp1", "cp2"})


def holding(closure, version):
    return replace(closure, contents=replace(closure.contents, kubernetes=version))


@pytest.mark.parametrize(
    ("text", "version"), [("v1.31.4+k3s1", (1, 31)), ("1.9.0", (1, 9)), ("", None), ("nightly", None)]
)
def test_a_minor_version_is_read_from_what_kubernetes_prints(text, version):
    assert minor(text) == version


def test_what_runs_is_what_the_kubelet_says_else_what_the_system_holds():
    facts = facts_for(FLEET)["w1"]
    assert running(facts) == (1, 31)
    system = replace(facts.current, kubernetes="1.30.1")
    assert running(replace(facts, node=None, current=system)) == (1, 30)
    assert running(replace(facts, node=None, current=None)) is None


def test_a_crossing_is_claimed_only_when_both_versions_are_known():
    facts, closure = facts_for(FLEET)["cp1"], closures_for(FLEET)["cp1"]
    assert crossing(facts, holding(closure, "1.32.0")) == "1.31 -> 1.32"
    assert crossing(facts, holding(closure, "1.31.9")) == ""
    assert crossing(facts, closure) == ""


def test_a_worker_overtakes_when_its_kubelet_would_be_newer_than_an_api_server():
    closures = closures_for(FLEET)
    closures |= {"w1": holding(closures["w1"], "1.32.0"), "w2": holding(closures["w2"], "1.31.9")}
    prepared = Prepared(flake=a_flake(), facts=facts_for(FLEET), closures=closures)
    assert overtakers(prepared, CONTROL, ["w1", "w2", "w3"]) == {"w1"}


def test_without_a_known_api_server_nothing_is_claimed():
    prepared = Prepared(flake=a_flake(), closures=closures_for(FLEET))
    assert overtakers(prepared, CONTROL, ["w1"]) == frozenset()
