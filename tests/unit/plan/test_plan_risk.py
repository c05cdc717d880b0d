from dataclasses import replace

import pytest

from nixkube_deploy.model.fleet import Activator, Distribution
from nixkube_deploy.model.strategy import DrainOptions, HostPolicy
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_flake, a_fleet, closures_for, facts_for, with_hosts


def risks(fleet, changed, host="w1", *, edit=None):
    facts = facts_for(fleet)
    facts[host] = replace(facts[host], **(edit or {}))
    plan = rollout(
        fleet, Prepared(flake=a_flake(), facts=facts, closures=closures_for(fleet, changed=changed)), Choices()
    )
    return next(each.risks for each in plan.hosts if each.host == host)


def with_drain(**options):
    return with_hosts(a_fleet("cp1 | w1"), "w1", policy=HostPolicy(drain=DrainOptions(**options)))


WORKER = a_fleet("cp1..cp3 | w1")


def test_an_ordinary_change_of_a_worker_has_no_risk():
    assert risks(WORKER, "w1=reboot") == ()
    assert risks(WORKER, "w1=live") == ()


def test_a_lone_control_plane_takes_the_api_away():
    found = risks(a_fleet("cp1 | w1"), "cp1=reboot", "cp1")
    assert found == ("the only control-plane host: the Kubernetes API is away while it restarts",)
    assert risks(a_fleet("cp1 | w1"), "cp1=live", "cp1") == ()
    assert risks(a_fleet("cp1 | w1", distribution=Distribution.NONE), "cp1=reboot", "cp1") == ()


def test_a_selection_does_not_make_a_control_plane_host_the_only_one():
    assert risks(WORKER.only(frozenset({"cp2"})), "cp2=reboot", "cp2") == ()


def test_two_control_plane_hosts_cannot_spare_one():
    found = risks(a_fleet("cp1 cp2 | w1"), "cp1=reboot", "cp1")
    assert found == ("one of two control-plane hosts: etcd between them has no quorum while this one is away",)


def test_the_control_plane_has_no_safe_way_back_across_an_etcd_minor():
    found = risks(WORKER, "cp1=node-restart", "cp1")
    assert found == (
        "going back across a minor version of etcd is not safe: if this change brings one, use on_failure: halt",
    )
    assert risks(WORKER, "w1=node-restart") == ()


@pytest.mark.parametrize(
    ("loader", "risk"),
    [
        ("grub", "loader grub has no one-shot entry: a kernel that hangs does not fall back at a power cycle"),
        (
            "unknown",
            "an unknown boot loader has no one-shot entry: a kernel that hangs does not fall back at a power cycle",
        ),
    ],
)
def test_a_loader_without_one_shot_entries_cannot_fall_back(loader, risk):
    assert risks(WORKER, "w1=reboot", edit={"loader": loader}) == (risk,)
    assert risks(WORKER, "w1=live", edit={"loader": loader}) == ()


def test_pods_that_are_not_moved_away_are_a_risk():
    assert risks(with_drain(enabled=False), "w1") == ("drain is off: pods are not moved away first",)
    found = risks(WORKER, "w1", edit={"node": None})
    assert found == ("the cluster has no Node for this host: it is not cordoned or drained",)


def test_drain_options_that_hurt_are_named():
    assert risks(with_drain(force=True, disable_eviction=True), "w1") == (
        "drain deletes pods past every disruption budget (disable_eviction)",
        "drain deletes pods that no controller brings back (force)",
    )


def test_a_node_that_somebody_else_cordoned_stays_cordoned():
    node = replace(facts_for(WORKER)["w1"].node, unschedulable=True)
    assert risks(WORKER, "w1", edit={"node": node}) == ("cordoned by somebody else before this run: stays cordoned",)


@pytest.mark.parametrize(
    ("activator", "limits"),
    [
        (
            Activator.NIXOS_REBUILD,
            (
                "nixos-rebuild arms nothing on the host: if the controller dies in a bad switch, the host stays there",
                "nixos-rebuild's unit cannot be joined again: after a lost connection only its outcome is seen",
            ),
        ),
        (
            Activator.DEPLOY_RS,
            (
                "deploy-rs's magic rollback covers no reboot and no service: it ends with one new SSH connection",
                "deploy-rs evaluates and builds the flake by itself once more: what it brought is seen only afterwards",
                "deploy-rs runs in no unit of its own: what interrupts its activation may leave the host half switched",
                "deploy-rs did not deploy the system before, so its own rollback cannot activate that again",
            ),
        ),
    ],
)
def test_what_another_activator_cannot_promise_is_said(activator, limits):
    fleet = with_hosts(WORKER, "w1", activation=activator)
    assert risks(fleet, "w1=live") == limits
    assert risks(fleet, "") == ()
