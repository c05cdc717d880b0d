"""What holds for every look at a host, and for every sequence of looks."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from nixkube_deploy.model.cluster import Node, Pod
from nixkube_deploy.protocols.verdict import (
    PASSES,
    RENEWALS,
    Conjunct,
    Expectation,
    HostSeen,
    InsideSeen,
    NodeSeen,
    Observation,
    Renewals,
    Watch,
    count_renewals,
    verdict,
    watch_on,
)

EXPECT = Expectation(node=True, rebooted_from="old")
DAEMON = Pod(namespace="kube-system", name="cni", uid="1", owner_kind="DaemonSet", owner_name="cni")
CRITICAL = Pod(namespace="kube-system", name="dns", uid="2", priority_class="system-cluster-critical")
NODE = Node(name="n1", ready="True", boot_id="new", kernel_version="6.12")
HEALTHY = Observation(
    at=0.0,
    host=HostSeen(boot_id="new", kernel="6.12"),
    node=NodeSeen(node=NODE, renew_time="t"),
    inside=InsideSeen(pods=(DAEMON, CRITICAL)),
    users=(Conjunct(name="http", holds=True, expected="", seen=""),),
)
COUNTED = Renewals(boot_id="new", last="t", count=RENEWALS)

BREAKAGES = (
    lambda o: replace(o, host="no route to host"),
    lambda o: replace(o, host=replace(o.host, boot_id="old")),
    lambda o: replace(o, host=replace(o.host, kubelet="curl: (7)")),
    lambda o: replace(o, host=replace(o.host, kernel="6.13")),
    lambda o: replace(o, node="no answer within 20 s"),
    lambda o: replace(o, node=NodeSeen(node=None)),
    *(
        (lambda o, change=change: replace(o, node=NodeSeen(node=replace(NODE, **change))))
        for change in (
            {"boot_id": "old"},
            {"boot_id": ""},
            {"ready": "False"},
            {"ready": "Unknown"},
            {"kernel_version": "6.11"},
            {"taints": ("node.kubernetes.io/not-ready:NoSchedule",)},
            {"taints": ("node.kubernetes.io/unreachable:NoExecute",)},
        )
    ),
    lambda o: replace(o, inside="no answer within 20 s"),
    lambda o: replace(o, inside=InsideSeen(proxy="status 500: [-]syncloop failed")),
    lambda o: replace(o, inside=InsideSeen(pods=(replace(DAEMON, ready=False),))),
    lambda o: replace(o, inside=InsideSeen(pods=(replace(DAEMON, deleting_since=1.0),))),
    lambda o: replace(o, inside=InsideSeen(pods=(replace(CRITICAL, ready=False),))),
    lambda o: replace(o, users=(Conjunct(name="http", holds=False, expected="", seen=""),)),
)


def holds(seen: Observation, renewals: Renewals = COUNTED) -> bool:
    return all(conjunct.holds for conjunct in verdict(EXPECT, seen, renewals))


def test_a_healthy_look_holds() -> None:
    assert holds(HEALTHY)


@given(st.lists(st.sampled_from(BREAKAGES), min_size=1, max_size=1), st.integers(0, RENEWALS))
def test_one_broken_thing_is_enough_to_close_it(breakages: list, count: int) -> None:
    seen = breakages[0](HEALTHY)

    assert not holds(seen, replace(COUNTED, count=count))


@given(st.integers(0, RENEWALS - 1))
def test_too_few_renewals_keep_it_closed(count: int) -> None:
    assert not holds(HEALTHY, replace(COUNTED, count=count))


@given(st.sampled_from(BREAKAGES))
def test_a_plain_host_depends_on_itself_and_the_users_gates_only(breakage) -> None:
    plain = Expectation(node=False)
    broken = breakage(HEALTHY)
    touches_host = broken.host == "no route to host" or broken.users != HEALTHY.users

    assert all(c.holds for c in verdict(plain, broken, Renewals())) is not touches_host


@given(st.sampled_from(BREAKAGES))
def test_conjuncts_have_distinct_names_and_say_something(breakage) -> None:
    found = verdict(EXPECT, breakage(HEALTHY), COUNTED)[:-1]

    assert len({conjunct.name for conjunct in found}) == len(found)
    assert all(conjunct.seen and conjunct.expected for conjunct in found if conjunct.name != "http")


looks = st.lists(st.tuples(st.floats(0.01, 5), st.booleans(), st.sampled_from(["t1", "t1", "t1", "t2"])), max_size=40)


@settings(max_examples=300)
@given(looks, st.floats(0, 10))
def test_it_opens_exactly_when_an_unbroken_run_of_passes_is_long_enough(
    steps: list[tuple[float, bool, str]], ready_for: float
) -> None:
    watch, at, run, before = Watch(), 0.0, [], ""
    for pause, passed, epoch in steps:
        at += pause
        run = [] if not passed else [*run, at] if epoch == before else [at]
        before = epoch
        watch = watch_on(watch, at, (Conjunct(name="c", holds=passed, expected="", seen=""),), epoch)

        should = len(run) >= PASSES and at - run[PASSES - 1] >= ready_for
        assert watch.is_open(at, ready_for) is should


@given(st.lists(st.frozensets(st.sampled_from("abc")), min_size=1, max_size=20))
def test_since_when_something_is_closed_is_when_it_last_closed(looks: list[frozenset[str]]) -> None:
    watch = Watch()
    for at, closed in enumerate(looks):
        conjuncts = tuple(Conjunct(name=n, holds=n not in closed, expected="", seen="") for n in "abc")
        watch = watch_on(watch, float(at), conjuncts)

    for name in looks[-1]:
        streak = next((i for i, closed in enumerate(reversed(looks)) if name not in closed), len(looks))
        assert watch.closed_since[name] == len(looks) - streak
    assert watch.closed_since.keys() == looks[-1]


def test_no_look_at_all_opens_nothing() -> None:
    assert not watch_on(watch_on(Watch(), 0.0, ()), 1.0, ()).is_open(100.0, 0.0)


beats = st.lists(st.tuples(st.sampled_from(["old", "new"]), st.sampled_from(["", "t1", "t2", "t3"])), max_size=30)


@settings(max_examples=300)
@given(beats)
def test_only_changes_seen_in_the_hosts_own_boot_are_renewals(seen: list[tuple[str, str]]) -> None:
    renewals = Renewals()
    for boot, stamp in seen:
        node = NodeSeen(node=replace(NODE, boot_id=boot), renew_time=stamp)
        renewals = count_renewals(renewals, replace(HEALTHY, node=node))

    since = next((i for i, (boot, _) in enumerate(reversed(seen)) if boot == "old"), len(seen))
    stamps = [stamp for _, stamp in seen[len(seen) - since :] if stamp]
    changes = sum(1 for before, after in pairwise(stamps) if before != after)
    assert renewals.count == changes


@given(st.sampled_from(["no route", None]))
def test_a_look_that_saw_nothing_neither_counts_nor_forgets(nothing: str | None) -> None:
    assert count_renewals(COUNTED, replace(HEALTHY, node=nothing)) == COUNTED
