"""Whether what must come fits: /boot is refused, the store is a risk; both numbers are said."""

from dataclasses import replace

import pytest

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.facts import DiskSpace
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import CopySettings
from nixkube_deploy.model.packages import ClosureSizes, HostDifference
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.rollout import rollout
from tests.builders import a_flake, a_fleet, a_system, closures_for, facts_for, with_hosts

MIB = 1024**2


def plan_of(*, boot=None, store=None, changed="w1=reboot", travels=None, choices=None, **copy):
    fleet = with_hosts(a_fleet("w1 w2"), "w1", copy=CopySettings(**copy))
    facts, closures = facts_for(fleet), closures_for(fleet, changed=changed)
    facts["w1"] = replace(facts["w1"], disk=DiskSpace(store=store, boot=boot))
    contents = closures["w1"].contents
    sizes = {contents.kernel: 12 * MIB, contents.initrd: 30 * MIB}
    closures["w1"] = replace(closures["w1"], contents=replace(contents, boot_sizes=sizes))
    told = {} if travels is None else {"w1": HostDifference(sizes=ClosureSizes(paths=3, travels=travels))}
    prepared = Prepared(flake=a_flake(), facts=facts, closures=closures, differences=told)
    return rollout(fleet, prepared, choices or Choices()).hosts[0]


def test_a_boot_partition_that_cannot_hold_the_new_kernel_is_a_problem_with_both_numbers():
    problem = plan_of(boot=41 * MIB).problem
    assert problem is not None
    assert problem.kind is FailureKind.DISK_FULL
    assert problem.message == "/boot of w1 has 41 MiB free, and the new system needs 42 MiB there"
    assert problem.expected == "42 MiB free on /boot: linux-6.12.8 12 MiB, initrd-linux-6.12.8 30 MiB"
    assert problem.seen == "41 MiB free"
    assert problem.next.startswith("on w1, as root: nix-collect-garbage --delete-older-than 14d; ")


@pytest.mark.parametrize("boot", [42 * MIB, None])
def test_one_that_can_or_that_is_not_there_is_none(boot):
    assert plan_of(boot=boot).problem is None


@pytest.mark.parametrize("changed", ["", "w1=live", "w1=node-restart"])
def test_what_brings_no_new_kernel_needs_no_room(changed):
    assert plan_of(boot=0, changed=changed).problem is None


def test_a_kernel_that_the_booted_system_has_is_there_already():
    fleet = a_fleet("w1")
    facts, closures = facts_for(fleet), closures_for(fleet, changed="w1=reboot")
    contents = closures["w1"].contents
    booted = a_system("w1", kernel="6.12.8", salt="another")
    closures["w1"] = replace(closures["w1"], contents=replace(contents, boot_sizes={contents.kernel: MIB}))
    facts["w1"] = replace(facts["w1"], booted=booted, disk=DiskSpace(boot=0))
    plan = rollout(fleet, Prepared(flake=a_flake(), facts=facts, closures=closures), Choices())
    assert plan.hosts[0].problem is None


def test_a_trial_writes_no_boot_entry():
    assert plan_of(boot=0, changed="w1=live", choices=Choices(mode=SwitchMode.TEST)).problem is None


def test_a_store_that_cannot_hold_what_must_travel_is_a_risk_with_both_numbers():
    risks = plan_of(store=100 * MIB, changed="w1=live", travels=101 * MIB).risks
    assert risks[0] == (
        "the store has 100 MiB free, 101 MiB must come: the copy may not fit; "
        "on w1, as root: nix-collect-garbage --delete-older-than 14d"
    )


def test_what_must_stay_free_counts():
    assert plan_of(store=100 * MIB, changed="w1=live", travels=99 * MIB).risks == ()
    risks = plan_of(store=100 * MIB, changed="w1=live", travels=99 * MIB, min_free=2 * MIB).risks
    assert "99 MiB must come and 2.0 MiB must stay free" in risks[0]


def test_where_nothing_is_known_nothing_is_said():
    assert plan_of(store=0, changed="w1=live").risks == ()
    assert plan_of(store=None, changed="w1=live", travels=5).risks == ()
