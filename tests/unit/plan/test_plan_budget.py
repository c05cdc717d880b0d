from dataclasses import replace

import pytest

from nixkube_deploy.model.strategy import Limit, OnFailure, Strategy, Window
from nixkube_deploy.plan.budget import control_plane
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_failure, a_flake, a_fleet, closures_for, facts_for, names, with_hosts


def plan_of(fleet, changed, *, voters="", problems=(), **facts):
    found = facts_for(fleet, **facts)
    for name in problems:
        del found[name]
    prepared = Prepared(
        flake=a_flake(),
        facts=found,
        closures=closures_for(fleet, changed=changed),
        problems={name: a_failure() for name in problems},
        voters=frozenset(names(voters)),
    )
    return rollout(fleet, prepared, Choices())


def rules(*args, **kwargs):
    return plan_of(*args, **kwargs).graph.rules


def budgets(*args, **kwargs):
    return [(budget.name, budget.limit) for budget in rules(*args, **kwargs).budgets]


def test_each_group_with_changing_hosts_has_a_budget_and_the_control_plane_always_one():
    fleet = a_fleet("cp1..cp3 | w1..w9 | storage: s1 s2")
    assert budgets(fleet, "cp1 w1") == [
        ("control plane: always one at a time, of 3", 1),
        ("workers: max_unavailable 25% = 2 of 9", 2),
    ]


def test_etcd_voters_go_one_at_a_time_wherever_they_run():
    fleet = a_fleet("cp1 cp2 | w1..w4")
    assert budgets(fleet, "cp1 w1", voters="cp1 cp2")[0] == ("control plane and etcd: always one at a time, of 2", 1)
    assert budgets(fleet, "w1", voters="cp1 w1 w2") == [
        ("etcd voters: always one at a time, of 3", 1),
        ("workers: max_unavailable 25% = 1 of 4", 1),
    ]


def test_a_budget_of_nothing_still_lets_one_host_go():
    fleet = a_fleet("w1..w3")
    assert budgets(fleet, "w1") == [("workers: max_unavailable 25%, at least 1 = 1 of 3", 1)]


def test_a_group_may_set_its_own_limit():
    fleet = a_fleet("w1..w9")
    groups = {"workers": replace(fleet.groups["workers"], max_unavailable=Limit(50, percent=True))}
    assert budgets(replace(fleet, groups=groups), "w1") == [("workers: max_unavailable 50% = 4 of 9", 4)]


def test_a_selection_does_not_shrink_the_group():
    fleet = a_fleet("cp1..cp3 | w1..w9").only(frozenset({"cp2", "w7"}))
    assert budgets(fleet, "cp2 w7") == [
        ("control plane: always one at a time, of 3", 1),
        ("workers: max_unavailable 25% = 2 of 9", 2),
    ]


def test_a_mixed_group_says_nothing_about_who_is_control_plane():
    fleet = a_fleet("cp1 | w1 w2")
    groups = {**fleet.groups, "rack": replace(fleet.groups["workers"], name="rack", members=("cp1", "w1", "x9"))}
    assert control_plane(replace(fleet, groups=groups)) == {"cp1"}


def test_machines_that_run_no_nixos_yet_are_not_counted():
    fleet = a_fleet("w1..w8")
    assert budgets(fleet, "w1", bare="w5..w8") == [("workers: max_unavailable 25% = 1 of 4", 1)]


def test_hosts_in_no_group_share_a_budget():
    fleet = replace(a_fleet("w1..w4"), groups={})
    assert budgets(fleet, "w1") == [("hosts in no group: max_unavailable 25% = 1 of 4", 1)]


def test_hosts_that_are_away_count_from_the_start():
    found = rules(a_fleet("w1..w9"), "w1 w2", problems=("w9",), unready="w8", leftover="w7")
    assert found.unhealthy == {"w7", "w8", "w9"}


def test_a_host_that_does_not_answer_counts_although_the_cluster_still_calls_it_ready():
    fleet = a_fleet("w1 w2")
    prepared = Prepared(
        flake=a_flake(), facts=facts_for(fleet), closures=closures_for(fleet), problems={"w2": a_failure()}
    )
    assert rollout(fleet, prepared, Choices()).graph.rules.unhealthy == {"w2"}


def test_a_host_whose_configuration_is_broken_is_not_away():
    fleet = a_fleet("w1 w2")
    closures = closures_for(fleet, changed="w1")
    del closures["w2"]
    plan = rollout(fleet, Prepared(flake=a_flake(), facts=facts_for(fleet), closures=closures), Choices())
    assert plan.graph.rules.unhealthy == frozenset()


def test_failures_are_counted_in_changing_hosts():
    strategy = Strategy(max_failures=Limit(50, percent=True))
    assert rules(a_fleet("w1..w9", strategy=strategy), "w1..w4").max_failures == 2
    going_on = Strategy(max_failures=Limit(1), on_failure=OnFailure.CONTINUE)
    assert rules(a_fleet("w1..w9", strategy=going_on), "w1..w4").max_failures is None


def test_zones_become_domains_and_a_host_without_one_is_a_domain_of_its_own():
    fleet = with_hosts(a_fleet("w1..w4", strategy=Strategy(spread="zone"), zones="a b"), "w3", labels={})
    found = rules(fleet, "w1 w2 w3", problems=("w4",))
    assert found.domains == {"w1": "a", "w2": "b", "w3": "w3 alone", "w4": "b"}
    assert rules(a_fleet("w1", zones="a"), "w1").domains == {}


def test_a_machine_that_is_yet_to_join_is_in_no_domain():
    fleet = a_fleet("w1 w2", strategy=Strategy(spread="zone"), zones="a b")
    assert rules(fleet, "w1", bare="w2").domains == {"w1": "a"}


# --- notes -----------------------------------------------------------------------------------------------------------


def notes(*args, **kwargs):
    return plan_of(*args, **kwargs).notes


def test_hosts_that_are_away_and_what_they_block_are_noted():
    fleet = a_fleet("cp1 | w1..w4", strategy=Strategy(max_unavailable=Limit(1)))
    found = notes(fleet, "cp1 w1 w2", problems=("w4",))
    assert found[:2] == (
        "unavailable and not part of this run, counted in every budget: w4",
        "no room in workers for w1, w2: away already w4",
    )
    assert notes(fleet, "w1 w2", unready="w2")[0] == "unavailable already, so they go first: w2"


def test_more_hosts_away_than_the_budget_allows_block_even_themselves():
    fleet = a_fleet("w1..w4", strategy=Strategy(max_unavailable=Limit(1)))
    assert "no room in workers for w1, w2: away already w1, w2" in notes(fleet, "w1 w2", unready="w1 w2")


def test_zones_that_block_each_other_are_noted():
    fleet = a_fleet("w1..w6", strategy=Strategy(spread="zone"), zones="a b c")
    assert "never two values of the label zone at once" in notes(fleet, "w1 w2")
    assert "hosts of zone a are away: b, c wait for them" in notes(fleet, "w1 w2 w3", problems=("w4",))
    assert "hosts of zone a, b are away: a, b wait for them" in notes(fleet, "w1 w2", problems=("w4", "w5"))
    assert not any("are away" in note for note in notes(fleet, "w1", problems=("w4",)))


def test_hosts_without_the_label_are_noted():
    fleet = a_fleet("w1 w2", strategy=Strategy(spread="zone"))
    assert "without the label zone, so each goes alone: w1, w2" in notes(fleet, "w1 w2")


def test_a_canary_that_gets_its_kubelet_first_is_noted():
    fleet = a_fleet("cp1 | w1 w2")
    expected = (
        "canary w1 gets its kubelet before the API servers get theirs: "
        "if the Kubernetes minor version goes up, use --canary 0"
    )
    assert expected in notes(fleet, "cp1 w1 w2")
    assert expected not in notes(fleet, "cp1=reboot w1 w2")
    assert expected not in notes(fleet, "w1 w2")


HALTS = "a host that fails stays as it is; one that was switched goes back by its own timer all the same"


@pytest.mark.parametrize(
    ("strategy", "note"),
    [
        (
            Strategy(),
            "a host that fails is taken back to what it ran before; after the first failure no other host begins",
        ),
        (
            Strategy(on_failure=OnFailure.HALT, max_failures=Limit(2)),
            f"{HALTS}; after more than 2 hosts failed no other host begins",
        ),
        (Strategy(on_failure=OnFailure.CONTINUE), "failures never stop this run (on_failure: continue)"),
    ],
)
def test_what_stops_the_run_is_noted(strategy, note):
    assert note in notes(a_fleet("w1..w4", strategy=strategy), "w1")


def test_windows_are_noted():
    window = Window(days=frozenset({5, 6}), start=120, end=360, tz="Europe/Zurich")
    plan = plan_of(a_fleet("w1", strategy=Strategy(windows=(window,))), "w1")
    assert "sections open only within sat,sun 02:00-06:00 Europe/Zurich" in plan.notes
    assert plan.graph.rules.windows == (window,)
