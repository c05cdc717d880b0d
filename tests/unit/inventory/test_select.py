"""The selector against a naive model of sets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixkube_deploy.inventory.load import load_fleet
from nixkube_deploy.inventory.select import select
from nixkube_deploy.model.error import UsageError

TEXT = """
cluster: {name: lab}
flake: github:a/b
groups: {control-plane: {role: control-plane}, workers: {}, arm: {system: aarch64-linux}}
hosts:
  cp1: {groups: [control-plane], labels: {zone: a}}
  cp2: {groups: [control-plane, arm], labels: {zone: b}}
  w1: {groups: [workers], labels: {zone: a, disk: ssd}}
  w2: {groups: [workers, arm], labels: {zone: b}}
  w3: {groups: [workers], labels: {zone: c, disk: hdd}}
"""
FLEET = load_fleet("lab.yaml", text=TEXT).fleet
ALL = {"cp1", "cp2", "w1", "w2", "w3"}


@pytest.mark.parametrize(
    ("expression", "hosts"),
    [
        ("w1", "w1"),
        ("w1,cp1", "w1 cp1"),
        ("@workers", "w1 w2 w3"),
        ("w*", "w1 w2 w3"),
        ("w[12]", "w1 w2"),
        ("w[!12]", "w3"),
        ("?[p]1", "cp1"),
        ("@c*", "cp1 cp2"),
        ("zone=a", "cp1 w1"),
        ("zone=[ab]", "cp1 cp2 w1 w2"),
        ("disk=*", "w1 w3"),
        ("role=control-plane", "cp1 cp2"),
        ("system=aarch64*", "cp2 w2"),
        ("zone=a & @workers", "w1"),
        ("zone=a&@workers,cp2", "w1 cp2"),
        ("cp2,zone=a&@workers", "w1 cp2"),
        ("!w1", "cp1 cp2 w2 w3"),
        ("!w1,!w2", "cp1 cp2 w3"),
        ("!w1&!w2", "cp1 cp2 w3"),
        ("@workers,!w3", "w1 w2"),
        ("!w3,@workers", "w1 w2"),
        ("@workers&!zone=b", "w1 w3"),
        ("*,!@arm,!zone=c", "cp1 w1"),
        (" w1 , w2 ", "w1 w2"),
        ("! w1 & @workers", "w2 w3"),
    ],
)
def test_an_expression_names_hosts(expression: str, hosts: str) -> None:
    assert select(expression, FLEET) == frozenset(hosts.split())


@pytest.mark.parametrize(
    ("expression", "message", "hint"),
    [
        ("w4", "there is no host `w4`", "the hosts are"),
        ("workers", "there is no host `workers`", "did you mean `@workers`?"),
        ("@w1", "there is no group `w1`", "did you mean `w1`, without @?"),
        ("@worker", "there is no group `worker`", "did you mean `workers`?"),
        ("x*", "no host matches `x*`", "the hosts are cp1, cp2, w1, w2, w3"),
        ("zoen=a", "no host has the label `zoen`", "did you mean `zone`?"),
        ("zone=d", "no host has `zone=d`", "its values are a, b, c"),
        ("role=wroker", "no host has `role=wroker`", "did you mean `worker`?"),
        ("", "it is empty", "for example"),
        ("w1,,w2", "a name is missing", "for example"),
        ("w1&", "a name is missing", "for example"),
        ("!", "a name is missing", "for example"),
        ("w1 w2", "neither HOST, @GROUP nor KEY=VALUE", "for example"),
        ("zone!=a", "neither HOST, @GROUP nor KEY=VALUE", "write !zone=a"),
        ("(w1)", "neither HOST, @GROUP nor KEY=VALUE", "for example"),
        ("w1&w2", "leaves no host", "there are cp1"),
        ("!*", "leaves no host", "there are cp1"),
    ],
)
def test_an_expression_that_names_nobody_says_why(expression: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        select(expression, FLEET)

    assert message in caught.value.message
    assert hint in caught.value.hint


def test_hosts_outside_a_narrowed_fleet_are_not_selected() -> None:
    assert select("@workers", FLEET.only(frozenset({"w1", "cp1"}))) == frozenset({"w1"})


ATOMS = {
    "w1": {"w1"},
    "cp2": {"cp2"},
    "@workers": {"w1", "w2", "w3"},
    "@arm": {"cp2", "w2"},
    "zone=a": {"cp1", "w1"},
    "role=worker": {"w1", "w2", "w3"},
    "*2": {"cp2", "w2"},
}
FACTORS = st.tuples(st.booleans(), st.sampled_from(sorted(ATOMS)))


@settings(deadline=None)
@given(st.lists(st.lists(FACTORS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_selection_is_set_arithmetic(terms: list[list[tuple[bool, str]]]) -> None:
    text = ",".join("&".join(("!" if no else "") + atom for no, atom in term) for term in terms)
    positive, negative = set(), set()
    for term in terms:
        if all(no for no, _ in term):
            negative |= set().union(*(ATOMS[atom] for _, atom in term))
        else:
            positive |= {h for h in ALL if all((h in ATOMS[atom]) != no for no, atom in term)}
    only_exclusions = all(no for term in terms for no, _ in term)
    expected = (ALL if only_exclusions else positive) - negative

    if expected:
        assert select(text, FLEET) == expected
    else:
        with pytest.raises(UsageError, match="leaves no host"):
            select(text, FLEET)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_names_hosts_or_is_a_usage_error(text: str) -> None:
    try:
        assert select(text, FLEET) <= ALL
    except UsageError as error:
        assert error.message.isprintable()  # noqa: PT017
