"""What ``--mode`` and a specialisation make of a plan: fewer steps, another verb, or a refusal with what to type."""

from dataclasses import replace

import pytest

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.fleet import Activator
from nixkube_deploy.model.graph_codec import plan_from_plain, plan_to_plain
from nixkube_deploy.model.strategy import HostPolicy, RebootPolicy
from nixkube_deploy.plan.outline import chains
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_flake, a_fleet, closures_for, facts_for, store_path, with_hosts, with_policy

ONE = a_fleet("w1")
TOP = store_path("nixos-system-w1-top")


def plan_of(mode, changed="w1=node-restart", *, fleet=ONE, edit=None, toplevel=None):
    facts, closures = facts_for(fleet), closures_for(fleet, changed=changed)
    facts["w1"] = replace(facts["w1"], **(edit or {}))
    closures["w1"] = replace(closures["w1"], toplevel=toplevel)
    prepared = Prepared(flake=a_flake(), facts=facts, closures=closures)
    return rollout(fleet, prepared, Choices(mode=mode))


def line(plan):
    return plan.hosts[0]


def steps(plan):
    return chains(plan).get("w1", ())


@pytest.mark.parametrize("changed", ["w1=live", "w1=node-restart", "w1=reboot"])
def test_a_next_boot_is_only_prepared_whatever_it_will_change(changed):
    plan = plan_of(SwitchMode.BOOT, changed)
    assert steps(plan) == ("copy", "activate", "rollback")
    assert plan.graph["w1/activate"].action.mode is SwitchMode.BOOT
    assert line(plan).change.reasons[0] == "only the next boot starts it; what runs stays as it is"


def test_a_next_boot_that_cannot_be_prepared_is_prepared_as_before():
    action = plan_of(SwitchMode.BOOT).graph["w1/rollback"].action
    assert (action.reboot, action.mode) == (True, SwitchMode.SWITCH)


def test_a_next_boot_that_is_prepared_already_is_no_change_and_says_what_is_pending():
    closure = closures_for(ONE, changed="w1=reboot")["w1"]
    plan = plan_of(SwitchMode.BOOT, "w1=reboot", edit={"profile": closure.out})
    assert not plan.changes_anything
    assert line(plan).change.reasons[0].startswith("reboot pending: the next boot starts ")


def test_a_trial_goes_through_everything_a_switch_does_and_back_without_the_profile():
    plan = plan_of(SwitchMode.TEST)
    assert steps(plan) == steps(plan_of(SwitchMode.SWITCH))
    assert plan.graph["w1/activate"].action.mode is SwitchMode.TEST
    assert plan.graph["w1/rollback"].action.mode is SwitchMode.TEST
    assert line(plan).change.reasons[-1].startswith("on trial")


def test_a_trial_of_what_runs_is_nothing_whatever_the_next_boot_starts():
    assert not plan_of(SwitchMode.TEST, "", edit={"profile": TOP}).changes_anything


def test_a_switch_after_a_trial_makes_it_the_next_boots_system():
    plan = plan_of(SwitchMode.SWITCH, "", edit={"profile": TOP})
    assert plan.graph["w1/activate"].action.mode is SwitchMode.SWITCH


def test_a_trial_that_takes_a_reboot_is_refused_with_what_to_type():
    plan = plan_of(SwitchMode.TEST, "w1=reboot")
    assert "takes a reboot, and a reboot ends a trial" in line(plan).problem.message
    assert line(plan).problem.next.startswith("deploy apply INVENTORY --on w1 --mode test --reboot never")
    never = with_policy(ONE, HostPolicy(reboot=RebootPolicy.NEVER))
    assert line(plan_of(SwitchMode.TEST, "w1=reboot", fleet=never)).problem is None


def test_the_mode_is_in_the_saved_plan_and_old_plans_have_none():
    plan = plan_of(SwitchMode.BOOT)
    plain = plan_to_plain(plan)
    assert plan_from_plain(plain) == plan
    del plain["mode"]
    assert plan_from_plain(plain).mode is SwitchMode.SWITCH


# --- specialisations -------------------------------------------------------------------------------------------------


def test_of_a_specialisation_the_toplevel_is_copied_and_the_specialisation_proved():
    plan = plan_of(SwitchMode.SWITCH, toplevel=TOP)
    inner = closures_for(ONE, changed="w1=node-restart")["w1"].out
    assert plan.graph["w1/copy"].action.closure == TOP
    activate = plan.graph["w1/activate"].action
    assert (activate.closure, activate.profile) == (inner, TOP)
    assert plan.graph["w1/prove"].action.closure == plan.graph["w1/confirm"].action.closure == inner
    assert "a reboot ends the specialisation: no boot loader starts it by itself" in line(plan).risks


def test_a_specialisation_of_the_profile_is_no_drift():
    inner = facts_for(ONE)["w1"].current.path
    there = {"profile": TOP, "specialisations": (inner,)}
    assert not plan_of(SwitchMode.SWITCH, "", edit=there, toplevel=TOP).changes_anything


def test_a_specialisation_whose_toplevel_is_another_now_gets_the_profile_set():
    inner = facts_for(ONE)["w1"].current.path
    there = {"profile": store_path("older-top"), "specialisations": (inner,)}
    plan = plan_of(SwitchMode.SWITCH, "", edit=there, toplevel=TOP)
    assert line(plan).change.kind is ChangeClass.LIVE
    assert plan.graph["w1/activate"].action.profile == TOP


def test_a_host_that_runs_a_specialisation_goes_back_to_both_parts():
    inner = facts_for(ONE)["w1"].current.path
    plan = plan_of(SwitchMode.SWITCH, edit={"profile": TOP, "specialisations": (inner,)})
    back = plan.graph["w1/rollback"].action.way_back
    assert (back.system, back.profile, line(plan).profile) == (inner, TOP, TOP)


def test_a_specialisation_that_takes_a_reboot_is_refused_with_the_three_lines_that_do_it():
    problem = line(plan_of(SwitchMode.SWITCH, "w1=reboot", toplevel=TOP)).problem
    assert (
        problem.message == f"w1 cannot be rebooted into a specialisation: a boot starts {TOP[11:19]}-{TOP[44:]} itself"
    )
    assert problem.next == (
        "deploy apply INVENTORY --on w1 --mode boot; deploy reboot INVENTORY --on w1; deploy apply INVENTORY --on w1"
    )


@pytest.mark.parametrize("activator", [Activator.NIXOS_REBUILD, Activator.DEPLOY_RS])
def test_other_activators_are_not_asked_for_what_they_cannot_do(activator):
    fleet = with_hosts(ONE, "w1", activation=activator)
    assert "cannot run a specialisation" in line(plan_of(SwitchMode.SWITCH, fleet=fleet, toplevel=TOP)).problem.message
    problem = line(plan_of(SwitchMode.TEST, fleet=fleet)).problem
    assert (problem is None) == (activator is Activator.NIXOS_REBUILD)
