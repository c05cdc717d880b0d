from dataclasses import replace

from nixkube_deploy.model.fleet import BootstrapSettings
from nixkube_deploy.model.strategy import Limit, Mode, Strategy
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_failure, a_flake, a_fleet, closures_for, facts_for, with_hosts


def waves(fleet, changed, *, problems=(), choices=None, **facts):
    found = facts_for(fleet, **facts)
    for name in problems:
        del found[name]
    prepared = Prepared(
        flake=a_flake(),
        facts=found,
        closures=closures_for(fleet, changed=changed),
        problems={name: a_failure() for name in problems},
    )
    plan = rollout(fleet, prepared, choices or Choices())
    found_waves: dict[int, list[str]] = {}
    for section in plan.graph.sections.values():
        found_waves.setdefault(section.wave, []).append(section.host)
    assert {s.host: s.wave for s in plan.graph.sections.values()} == {
        host.host: host.wave for host in plan.hosts if host.wave is not None
    }
    return [" ".join(found_waves[wave]) for wave in sorted(found_waves)]


ALL = "cp1..cp3=reboot w1..w6=reboot"


def test_a_worker_is_the_canary_then_the_control_plane_then_everybody_else():
    assert waves(a_fleet("cp1..cp3 | w1..w6"), ALL) == ["w1", "cp1 cp2 cp3", "w2 w3 w4 w5 w6"]


def test_more_canaries_or_none_can_be_asked_for():
    assert waves(a_fleet("cp1 | w1..w3", strategy=Strategy(canary=2)), "cp1 w1..w3") == ["w1 w2", "cp1", "w3"]
    assert waves(a_fleet("cp1 | w1..w3", strategy=Strategy(canary=0)), "cp1 w1..w3") == ["cp1", "w1 w2 w3"]


def test_without_changing_workers_a_control_plane_host_is_the_canary():
    assert waves(a_fleet("cp1..cp3 | w1"), "cp1..cp3") == ["cp1", "cp2 cp3"]


def test_hosts_that_are_unavailable_already_go_first():
    assert waves(a_fleet("cp1 | w1..w4"), "cp1 w1..w4", unready="w3", leftover="w4") == ["w3 w4", "w1", "cp1", "w2"]


def test_waves_are_cut_to_the_budget():
    strategy = Strategy(mode=Mode.WAVES, max_unavailable=Limit(2))
    fleet = a_fleet("cp1..cp3 | w1..w6", strategy=strategy)
    assert waves(fleet, ALL) == ["w1", "cp1", "cp2", "cp3", "w2 w3", "w4 w5", "w6"]


def test_waves_of_several_groups_are_packed_side_by_side():
    strategy = Strategy(mode=Mode.WAVES, max_unavailable=Limit(2), canary=0)
    fleet = a_fleet("w1..w4 | storage: s1 s2 s3", strategy=strategy)
    groups = {**fleet.groups, "storage": replace(fleet.groups["storage"], max_unavailable=Limit(1))}
    assert waves(replace(fleet, groups=groups), "w1..w4 s1 s2 s3") == ["w1 w2 s1", "w3 w4 s2", "s3"]


def test_waves_leave_room_for_hosts_that_are_away():
    strategy = Strategy(mode=Mode.WAVES, max_unavailable=Limit(3), canary=0)
    fleet = a_fleet("w1..w5", strategy=strategy)
    assert waves(fleet, "w1..w5", problems=("w5",)) == ["w1 w2", "w3 w4"]


def test_no_wave_mixes_two_zones():
    strategy = Strategy(mode=Mode.WAVES, max_unavailable=Limit(2), canary=0, spread="zone")
    assert waves(a_fleet("w1..w6", strategy=strategy, zones="a b"), "w1..w6") == ["w1 w3", "w5", "w2 w4", "w6"]


def test_hosts_of_one_zone_follow_each_other_when_rolling():
    strategy = Strategy(canary=1, spread="zone")
    fleet = a_fleet("cp1 cp2 | w1..w4", strategy=strategy, zones="a b")
    assert waves(fleet, "cp1 cp2 w1..w4") == ["w1", "cp1 cp2", "w3 w2 w4"]


def test_a_machine_that_is_installed_is_no_canary_while_anything_is_switched():
    fleet = with_hosts(a_fleet("cp1 | w1 w2"), "w1", bootstrap=BootstrapSettings(disks=("/dev/sda",)))
    found = waves(fleet, "cp1 w1=install w2", bare="w1", choices=Choices(bootstrap=True))
    assert found == ["w2", "cp1", "w1"]


def test_a_fleet_of_bare_machines_begins_with_its_control_plane():
    fleet = with_hosts(a_fleet("cp1 cp2 | w1 w2"), "cp1 cp2 w1 w2", bootstrap=BootstrapSettings(disks=("/dev/sda",)))
    found = waves(
        fleet, "cp1 cp2 w1 w2=install cp1=install cp2=install w1=install", bare="cp1 cp2 w1 w2",
        choices=Choices(bootstrap=True),
    )  # fmt: skip
    assert found == ["cp1", "cp2", "w1 w2"]


def test_nothing_to_do_has_no_waves():
    assert waves(a_fleet(), "") == []
