from dataclasses import replace

import pytest

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.change import Change, ChangeClass
from nixkube_deploy.model.fleet import Activator, Distribution
from nixkube_deploy.model.strategy import HostPolicy, RebootPolicy, Strategy
from nixkube_deploy.plan.outline import chains
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.rollback import Earlier, rollback
from tests.builders import a_failure, a_flake, a_fleet, a_system, closures_for, facts_for, store_path, with_hosts

OLD = store_path("nixos-system-w1-25.05")


def plan_of(fleet, targets, *, edit=None, closures=None, choices=None, **prepared):
    facts = facts_for(fleet, bare=prepared.pop("bare", ""))
    for host, fields in (edit or {}).items():
        facts[host] = replace(facts[host], **fields)
    known = Prepared(flake=a_flake(), facts=facts, closures=closures or {}, **prepared)
    earlier = {host: path if isinstance(path, Earlier) else Earlier(system=path) for host, path in targets.items()}
    return rollback(fleet, known, earlier, choices or Choices())


def line(plan, host="w1"):
    return next(each for each in plan.hosts if each.host == host)


def test_a_system_of_which_only_the_path_is_known_is_booted_to_be_sure():
    plan = plan_of(a_fleet("w1"), {"w1": OLD})
    assert line(plan).change == Change(
        kind=ChangeClass.REBOOT,
        reasons=(
            "system: nixos-25.11 -> nixos-25.05",
            "its kernel is not known here, so it may be another",
        ),
    )
    assert chains(plan)["w1"][:4] == ("cordon", "drain", "activate", "reboot")
    assert plan.graph["w1/activate"].action.closure == OLD
    assert plan.graph["w1/activate"].action.mode is SwitchMode.BOOT
    assert "w1/copy" not in plan.graph


@pytest.mark.parametrize(
    ("distribution", "kind"), [(Distribution.K3S, ChangeClass.NODE_RESTART), (Distribution.NONE, ChangeClass.LIVE)]
)
def test_reboot_never_holds_for_a_rollback_too(distribution, kind):
    strategy = Strategy(host=HostPolicy(reboot=RebootPolicy.NEVER))
    plan = plan_of(a_fleet("w1", strategy=strategy, distribution=distribution), {"w1": OLD})
    assert line(plan).change.kind is kind
    assert line(plan).change.reasons[1] == "its kernel is not known here, and the strategy says reboot: never"


def test_a_system_whose_contents_are_known_is_classified():
    fleet = a_fleet("w1 w2 w3")
    booted = a_system("w1", salt="older")
    closures = closures_for(fleet, changed="w2=node-restart")
    targets = {"w1": booted.path, "w2": closures["w2"].out, "w3": closures["w3"].out}
    plan = plan_of(fleet, targets, edit={"w1": {"booted": booted}}, closures=closures)
    kinds = [line(plan, host).change.kind for host in ("w1", "w2", "w3")]
    assert kinds == [ChangeClass.LIVE, ChangeClass.NODE_RESTART, ChangeClass.UNCHANGED]


def test_hosts_without_a_recorded_system_are_skipped():
    plan = plan_of(a_fleet("w1 w2"), {"w2": OLD}, bare="w2")
    assert line(plan).skipped == "no system is recorded to go back to"
    assert line(plan, "w2").skipped == "does not run NixOS"
    assert not plan.changes_anything


def test_hosts_that_do_not_answer_are_listed():
    plan = plan_of(a_fleet("w1"), {"w1": OLD}, problems={"w1": a_failure()})
    assert line(plan).problem == a_failure()


def test_a_rollback_has_waves_and_a_way_back_of_its_own():
    fleet = a_fleet("cp1 | w1 w2")
    plan = plan_of(fleet, dict.fromkeys(fleet.hosts, OLD))
    assert {host: section.wave for host, section in plan.graph.sections.items()} == {"w1": 1, "cp1": 2, "w2": 3}
    assert plan.graph["w1/rollback"].action.way_back.system == facts_for(fleet)["w1"].current.path


def test_a_rollback_can_leave_out_the_drain():
    plan = plan_of(a_fleet("w1"), {"w1": OLD}, choices=Choices(no_drain=True))
    assert "w1/drain" not in plan.graph


def test_activators_that_cannot_keep_a_generations_number_say_so():
    fleet = with_hosts(a_fleet("w1"), "w1", activation=Activator.NIXOS_REBUILD)
    plan = plan_of(fleet, {"w1": Earlier(system=OLD, generation=41)})
    assert "nixos-rebuild makes a new generation of generation 41" in line(plan).risks
