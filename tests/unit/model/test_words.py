"""The questions that enums and small values answer."""

import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.cluster import MIRROR_ANNOTATION, DisruptionBudget, LabelRequirement, Pod
from nixkube_deploy.model.decision import Skip, Start, Wait
from nixkube_deploy.model.error import (
    DeployError,
    Locked,
    OutcomeUnknown,
    Refused,
    TaskError,
    Unreachable,
    UsageError,
    failure_of,
    task_error,
)
from nixkube_deploy.model.event import Outcome, SkipCause, Verdict
from nixkube_deploy.model.facts import HostFacts, NodeFacts, SystemContents
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Distribution, Role
from nixkube_deploy.model.names import HostName, NodeName, name_some
from nixkube_deploy.model.secret import Secret
from nixkube_deploy.model.strategy import Limit, OnFailure, RetryPolicy, Window
from tests.builders import a_failure, a_fleet, a_host, a_system, facts_of

# --- names and verdicts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "text"),
    [("", ""), ("b a", "a, b"), ("c b a", "a, b, c"), ("d c b a", "a, b, c and 1 more"), ("a b", "a, b")],
)
def test_a_sentence_bears_three_names(names, text):
    assert name_some(names.split()) == text


def test_finding_nothing_to_do_went_well():
    assert [v for v in Verdict if v.went_well] == [Verdict.SUCCEEDED, Verdict.UNCHANGED]


def test_refusals_are_what_the_rollouts_rules_forbade():
    assert [c for c in SkipCause if c.is_refusal] == [SkipCause.HALTED, SkipCause.BUDGET, SkipCause.WINDOW]


def test_outcomes_have_the_documented_exit_codes():
    codes = {"converged": 0, "broken": 1, "halted": 4, "rolled-back": 5, "interrupted": 130}
    assert {outcome.value: outcome.exit_code for outcome in Outcome} == codes


def test_decisions_read_as_sentences():
    said = [str(d) for d in (Start(), Skip(SkipCause.HALTED, "w1 failed"), Wait("waits for w1/copy"))]
    assert said == ["may start now", "w1 failed", "waits for w1/copy"]


# --- errors ----------------------------------------------------------------------------------------------------------


def test_every_way_to_end_a_command_has_its_exit_code():
    errors = {DeployError: 1, UsageError: 2, Refused: 3, Locked: 6}
    assert {kind: kind("no", hint="try").exit_code for kind in errors} == errors
    refused = Refused("no", failures=(("w1", a_failure()),))
    assert (str(refused), refused.hint, refused.failures[0][0]) == ("no", "", "w1")


def test_a_task_error_carries_its_failure():
    error = task_error(FailureKind.DRAIN, "2 pods are left", seen="kube-system/dns", transient=True)
    assert str(error) == "2 pods are left"
    assert error.failure.seen == "kube-system/dns"


@pytest.mark.parametrize("kind", [TaskError, Unreachable, OutcomeUnknown])
def test_an_expected_error_stands_for_its_failure_however_deeply_it_is_wrapped(kind):
    failure = a_failure()
    assert failure_of(kind(failure)) is failure
    assert failure_of(ExceptionGroup("a", [ExceptionGroup("b", [kind(failure)])])) is failure


def test_running_out_of_time_may_be_tried_again():
    assert failure_of(TimeoutError()).message == "took too long"
    failure = failure_of(TimeoutError("no answer within 5 s"))
    assert (failure.kind, failure.message, failure.transient) == (FailureKind.TIMEOUT, "no answer within 5 s", True)


def test_anything_else_is_a_bug_with_its_trace():
    try:
        _ = {}["node"]
    except KeyError as error:
        failure = failure_of(error)
    assert (failure.kind, failure.message, failure.transient) == (FailureKind.BUG, "a bug: KeyError('node')", False)
    assert failure.evidence[-1] == "KeyError: 'node'"
    two = ExceptionGroup("two", [TaskError(a_failure()), ValueError()])
    assert failure_of(two).kind is FailureKind.BUG


# --- changes, closures, facts ----------------------------------------------------------------------------------------


def test_only_an_unchanged_host_is_not_touched():
    assert [c for c in ChangeClass if not c.touches_host] == [ChangeClass.UNCHANGED]


def test_restarts_and_reboots_take_the_node_down():
    assert [c for c in ChangeClass if c.takes_node_down] == [ChangeClass.NODE_RESTART, ChangeClass.REBOOT]


def test_a_closures_path_is_its_contents():
    contents = a_system("w1")
    assert Closure(host=HostName("w1"), drv="x.drv", contents=contents, system="x86_64-linux").out == contents.path


def test_a_bare_machine_and_an_installer_cannot_be_switched():
    facts = facts_of(a_host())
    assert facts.runs_nixos
    assert not facts_of(a_host(), bare=True).runs_nixos
    assert not replace(facts, variant="installer").runs_nixos


def test_a_host_is_healthy_when_its_node_is_ready_or_it_has_none():
    facts = facts_of(a_host())
    assert facts.is_healthy
    assert replace(facts, node=None).is_healthy
    assert not replace(facts, node=NodeFacts(name=NodeName("w1"), ready=False)).is_healthy


def test_a_reboot_is_pending_when_another_kernel_runs_than_the_systems():
    facts = facts_of(a_host())
    assert not facts.reboot_pending
    assert replace(facts, booted=a_system("w1", kernel="6.12.1")).reboot_pending
    assert not replace(facts, booted=None).reboot_pending
    assert not HostFacts(host=HostName("w1"), system="x", boot_id="", machine_id="").reboot_pending
    assert SystemContents(path=facts.current.path).boot_parts == ("", "", "", "")


# --- fleet -----------------------------------------------------------------------------------------------------------


def test_a_control_plane_host_is_one():
    assert [role for role in Role if role.is_control_plane] == [Role.CONTROL_PLANE]


def test_distributions_know_their_units_and_where_the_kubeconfig_is():
    assert [d for d in Distribution if not d.has_kubelet] == [Distribution.NONE]
    for distribution in Distribution:
        assert (distribution.kubelet_unit is None) == (not distribution.has_kubelet)
        assert (distribution.admin_kubeconfig is None) == (not distribution.has_kubelet)
        assert distribution.kubelet_unit in distribution.node_units or not distribution.has_kubelet


def test_a_hosts_attribute_is_quoted_unless_it_is_given():
    assert a_host("w1").flake_attr == 'nixosConfigurations."w1"'
    assert a_host("w1", attr="pkgs.w1").flake_attr == "pkgs.w1"


def test_a_narrowed_fleet_keeps_its_groups_whole():
    fleet = a_fleet("w1 w2 w3").only(frozenset({HostName("w2")}))
    assert list(fleet.hosts) == ["w2"]
    (group,) = fleet.groups.values()
    assert len(group.members) == 3


# --- the cluster's objects -------------------------------------------------------------------------------------------


def a_pod(**fields: object) -> Pod:
    return Pod(namespace="default", name="web", uid="1", **fields)


def test_pods_say_what_draining_asks():
    assert a_pod().key == "default/web"
    assert a_pod(annotations={MIRROR_ANNOTATION: "x"}).is_mirror
    assert not a_pod().is_mirror
    assert [phase for phase in ("Running", "Succeeded", "Failed") if a_pod(phase=phase).is_finished] == [
        "Succeeded",
        "Failed",
    ]


@pytest.mark.parametrize(
    ("operator", "admits_a", "admits_b", "admits_none"),
    [
        ("In", True, False, False),
        ("NotIn", False, True, True),
        ("Exists", True, True, False),
        ("DoesNotExist", False, False, True),
        ("Resembles", False, False, False),
    ],
)
def test_a_label_requirement_admits_what_the_api_says(operator, admits_a, admits_b, admits_none):
    requirement = LabelRequirement(key="k", operator=operator, values=frozenset({"a"}))
    labels = [{"k": "a"}, {"k": "b"}, {}]
    assert [requirement.admits(each) for each in labels] == [admits_a, admits_b, admits_none]


def test_a_disruption_budget_covers_pods_of_its_namespace_that_it_selects():
    pod = a_pod(labels={"app": "web", "tier": "front"})
    exists = LabelRequirement(key="tier", operator="Exists")
    assert DisruptionBudget(namespace="default", name="b").selects(pod)
    assert DisruptionBudget(namespace="default", name="b", match_labels={"app": "web"}).selects(pod)
    assert DisruptionBudget(namespace="default", name="b", match_expressions=(exists,)).selects(pod)
    assert not DisruptionBudget(namespace="default", name="b", match_expressions=(exists,)).selects(a_pod())
    assert not DisruptionBudget(namespace="default", name="b", match_labels={"app": "db"}).selects(pod)
    assert not DisruptionBudget(namespace="other", name="b").selects(pod)


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_a_secret_shows_itself_to_nobody_but_whoever_asks_by_name():
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    assert f"{secret} {secret!r} {[secret]}" == "*** *** [***]"
    with pytest.raises(TypeError, match="never serialised"):
        pickle.dumps(secret)


# --- strategy --------------------------------------------------------------------------------------------------------


def test_a_limit_is_a_number_or_a_share_rounded_down():
    assert [Limit(3).of(n) for n in (1, 100)] == [3, 3]
    assert [Limit(25, percent=True).of(n) for n in (3, 4, 7, 8)] == [0, 1, 1, 2]
    assert (str(Limit(3)), str(Limit(25, percent=True))) == ("3", "25%")


def test_policies_on_failure_say_what_they_mean():
    assert [p for p in OnFailure if p.rolls_back] == [OnFailure.ROLLBACK]
    assert [p for p in OnFailure if p.keeps_going] == [OnFailure.CONTINUE]


MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "inside"), [(1.99, False), (2, True), (5.99, True), (6, False), (24 + 3, False), (7 * 24 + 3, True)]
)
def test_a_window_begins_inside_and_ends_outside(hours, inside):
    window = Window(days=frozenset({0}), start=120, end=360)
    assert window.contains(MONDAY + timedelta(hours=hours)) is inside


@pytest.mark.parametrize(
    ("hours", "inside"), [(21, False), (22, True), (24 + 1, True), (24 + 2, False), (24 + 22, False), (1, False)]
)
def test_a_window_that_wraps_midnight_belongs_to_the_day_it_begins_on(hours, inside):
    window = Window(days=frozenset({0}), start=22 * 60, end=2 * 60)
    assert window.contains(MONDAY + timedelta(hours=hours)) is inside


def test_a_window_is_read_in_its_own_time_zone():
    window = Window(days=frozenset({0}), start=120, end=180, tz="Europe/Zurich")
    assert window.contains(MONDAY + timedelta(hours=1))
    assert str(window) == "mon 02:00-03:00 Europe/Zurich"


def test_back_off_grows_to_its_ceiling_and_varies_within_its_jitter():
    policy = RetryPolicy(backoff=2.0, factor=3.0, ceiling=30.0, jitter=0.1)
    assert [policy.delay(n, 0.5) for n in (1, 2, 3, 4)] == [2.0, 6.0, 18.0, 30.0]
    assert policy.delay(1, 0.0) == pytest.approx(1.8)
    assert policy.delay(10_000, 0.75) == pytest.approx(31.5)


@pytest.mark.parametrize(
    ("healthy", "desired", "expected", "never"), [(1, 1, 1, True), (0, 1, 1, True), (2, 2, 3, False), (0, 0, 0, False)]
)
def test_a_budget_never_allows_a_disruption_when_it_wants_all_the_pods_there_are_to_be(
    healthy, desired, expected, never
):
    budget = DisruptionBudget(
        namespace="n", name="b", healthy=healthy, desired=desired, expected=expected, is_observed=True
    )
    assert budget.never_allows is never
    assert not replace(budget, is_observed=False).never_allows
    assert not replace(budget, disruptions_allowed=1).never_allows


@pytest.mark.parametrize(("kind", "has"), [(None, False), ("ReplicaSet", False), ("InstanceManager.longhorn.io", True)])
def test_a_pod_has_an_operator_when_its_controller_is_none_of_kubernetes(kind, has):
    assert Pod(namespace="n", name="p", uid="u", owner_kind=kind).has_operator is has
