from dataclasses import replace

import pytest

from nixkube_deploy.model.action import (
    AwaitBlockers,
    ConfirmActivation,
    DrainNode,
    OpenGate,
    PromoteEntry,
    ProveHost,
    RebootHost,
    RollBack,
    SwitchConfiguration,
    SwitchMode,
    WayBack,
)
from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Activator, Distribution
from nixkube_deploy.model.strategy import (
    AlertBlocker,
    DrainOptions,
    HostPolicy,
    OnFailure,
    PodBlocker,
    RebootBlockers,
    RebootMethod,
    RebootPolicy,
    Strategy,
)
from nixkube_deploy.plan.outline import chains
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.builders import a_failure, a_flake, a_fleet, a_system, closures_for, facts_for, store_path, with_hosts


def plan_of(fleet, changed="", *, choices=None, edit=None, **facts):
    """The plan of a rollout; ``edit`` maps hosts to fields of their facts that are different."""
    found = facts_for(fleet, **facts)
    for host, fields in (edit or {}).items():
        found[host] = replace(found[host], **fields)
    prepared = Prepared(flake=a_flake(), facts=found, closures=closures_for(fleet, changed=changed))
    return rollout(fleet, prepared, choices or Choices())


def steps(plan, host):
    return list(chains(plan).get(host, ()))


def line(plan, host):
    return next(each for each in plan.hosts if each.host == host)


def action(plan, task):
    return plan.graph[task].action


ONE = a_fleet("w1")


def test_a_converged_fleet_has_nothing_to_do():
    plan = plan_of(a_fleet())
    assert not plan.changes_anything
    assert plan.notes == ()
    assert {host.change.kind for host in plan.hosts} == {ChangeClass.UNCHANGED}


def test_a_node_restart_is_drained_switched_proven_gated_confirmed_given_back_and_watched():
    plan = plan_of(a_fleet("w1", strategy=Strategy(on_failure=OnFailure.HALT)), "w1=node-restart")
    assert steps(plan, "w1") == [
        "copy",
        "cordon",
        "drain",
        "activate",
        "prove",
        "gate",
        "confirm",
        "uncordon",
        "soak",
        "undrain",
    ]
    assert action(plan, "w1/activate").mode is SwitchMode.SWITCH


def test_a_reboot_activates_for_the_next_boot_and_boots():
    plan = plan_of(ONE, "w1=reboot")
    facts = facts_for(ONE)["w1"]
    target = closures_for(ONE, changed="w1=reboot")["w1"].out
    assert action(plan, "w1/activate").mode is SwitchMode.BOOT
    expected = RebootHost(host="w1", closure=target, boot_id=facts.boot_id, fallback=(facts.current.path,))
    assert action(plan, "w1/reboot") == expected
    assert action(plan, "w1/prove") == ProveHost(host="w1", closure=target, rebooted_from=facts.boot_id)
    assert action(plan, "w1/gate").rebooted_from == facts.boot_id


def test_a_reboot_falls_back_to_what_runs_and_then_to_what_booted():
    facts, booted = facts_for(ONE)["w1"], store_path("nixos-system-w1-booted")
    same_kernel = replace(facts.current, path=booted)
    plan = plan_of(ONE, "w1=reboot", edit={"w1": {"booted": same_kernel}})
    assert action(plan, "w1/reboot").fallback == (facts.current.path, booted)
    assert action(plan, "w1/promote") == PromoteEntry(host="w1", closure=action(plan, "w1/reboot").closure)
    assert plan.graph["w1/promote"].requires == {"w1/gate"}


def test_a_reboot_falls_back_to_the_kernel_that_booted_where_the_running_system_brings_another():
    booted = a_system("w1", kernel="6.12.1")
    plan = plan_of(ONE, "w1=reboot", edit={"w1": {"booted": booted}})
    assert action(plan, "w1/reboot").fallback == (booted.path, facts_for(ONE)["w1"].current.path)


@pytest.mark.parametrize("loader", ["grub", "generic-extlinux", "unknown"])
def test_other_boot_loaders_boot_plainly_and_have_nothing_to_promote(loader):
    plan = plan_of(ONE, "w1=reboot", edit={"w1": {"loader": loader}})
    assert action(plan, "w1/reboot").fallback == ()
    assert "promote" not in steps(plan, "w1")


def test_a_reboot_may_go_straight_into_the_new_kernel():
    fleet = with_hosts(ONE, "w1", policy=HostPolicy(reboot_method=RebootMethod.KEXEC))
    assert action(plan_of(fleet, "w1=reboot"), "w1/reboot").kexec
    assert not action(plan_of(ONE, "w1=reboot"), "w1/reboot").kexec


def test_what_blocks_reboots_is_waited_for_before_the_host_is_touched():
    blockers = RebootBlockers(pods=(PodBlocker(selector="app=backup"),), timeout=90.0)
    fleet = with_hosts(ONE, "w1", policy=HostPolicy(reboot_blockers=blockers))
    plan = plan_of(fleet, "w1=reboot")
    assert steps(plan, "w1")[:3] == ["copy", "blockers", "cordon"]
    assert action(plan, "w1/blockers") == AwaitBlockers(host="w1", blockers=blockers, expect_node=True)
    assert plan.graph["w1/blockers"].timeout > 90.0
    assert "w1/blockers" in plan.graph["w1/undrain"].on_failure_of
    assert "w1/blockers" not in plan.graph["w1/rollback"].on_failure_of


def test_the_plan_says_how_hosts_reboot_and_what_that_waits_for():
    blockers = RebootBlockers(
        pods=(PodBlocker(selector="app=backup"), PodBlocker(selector="batch", namespace="jobs")),
        prometheus=(AlertBlocker(url="http://prometheus"),),
        timeout=90.0,
    )
    policy = HostPolicy(reboot_method=RebootMethod.KEXEC, reboot_blockers=blockers)
    notes = plan_of(with_hosts(ONE, "w1", policy=policy), "w1=reboot").notes
    once = "the new system is booted once, and is the default only behind its gate: w1"
    assert f"{once}; a power cycle before that boots the old one" in notes
    assert "reboots go by kexec, past firmware and boot loader, where the kernel can be loaded: w1" in notes
    waits = 'pods app=backup; pods batch in jobs; ALERTS{alertstate="firing"} at http://prometheus'
    assert f"reboots begin only without {waits}, waiting 90 s: w1" in notes
    assert not any("boot" in note for note in plan_of(ONE, "w1=live").notes)


def test_nothing_blocks_what_does_not_reboot():
    blockers = RebootBlockers(prometheus=(AlertBlocker(url="http://prometheus"),))
    fleet = with_hosts(ONE, "w1", policy=HostPolicy(reboot_blockers=blockers))
    assert "blockers" not in steps(plan_of(fleet, "w1=node-restart"), "w1")


def test_a_host_that_may_not_reboot_and_is_no_node_is_as_available_as_before():
    blockers = RebootBlockers(prometheus=(AlertBlocker(url="http://prometheus"),))
    fleet = with_hosts(ONE, "w1", policy=HostPolicy(reboot_blockers=blockers))
    plan = plan_of(fleet, "w1=reboot", edit={"w1": {"node": None}})
    assert not action(plan, "w1/blockers").expect_node
    assert plan.graph["w1/untouched"].on_failure_of == {"w1/blockers"}
    assert "w1/untouched" in plan.graph.sections["w1"].exits
    assert "untouched" not in steps(plan_of(fleet, "w1=reboot"), "w1")


def test_a_live_change_is_switched_without_a_drain():
    plan = plan_of(ONE, "w1=live")
    assert steps(plan, "w1") == [
        "copy", "activate", "prove", "gate", "confirm", "soak", "rollback", "rollback-gate",
    ]  # fmt: skip


def test_a_policy_can_ask_for_a_drain_of_live_changes():
    fleet = with_hosts(ONE, "w1", policy=HostPolicy(drain=DrainOptions(live=True, timeout=33.0)))
    plan = plan_of(fleet, "w1=live")
    assert steps(plan, "w1")[1:3] == ["cordon", "drain"]
    assert action(plan, "w1/drain") == DrainNode(host="w1", options=DrainOptions(live=True, timeout=33.0))
    assert plan.graph["w1/drain"].timeout > 33.0


@pytest.mark.parametrize("way", ["no-drain", "policy", "none"])
def test_nothing_is_drained_where_draining_is_off_or_there_is_no_kubernetes(way):
    fleet, choices = ONE, Choices()
    match way:
        case "no-drain":
            choices = Choices(no_drain=True)
        case "policy":
            fleet = with_hosts(ONE, "w1", policy=HostPolicy(drain=DrainOptions(enabled=False)))
        case "none":
            fleet = a_fleet("w1", distribution=Distribution.NONE)
    found = steps(plan_of(fleet, "w1=reboot", choices=choices), "w1")
    assert not {"cordon", "drain", "undrain", "uncordon", "rollback-uncordon"} & set(found)


def test_a_plain_host_is_gated_without_expecting_a_node():
    fleet = a_fleet("w1", distribution=Distribution.NONE)
    plan = plan_of(fleet, "w1=live")
    assert action(plan, "w1/gate").expect_node is False
    assert action(plan, "w1/soak").expect_node is False


def test_a_machine_without_node_units_in_a_kubernetes_fleet_is_no_node():
    plain = replace(facts_for(ONE)["w1"].current, units={})
    plan = plan_of(ONE, "w1=live", edit={"w1": {"node": None, "current": plain, "booted": plain}})
    assert action(plan, "w1/gate").expect_node is True, "the new system has the unit"
    closures = closures_for(ONE, changed="w1=live")
    closures["w1"] = replace(closures["w1"], contents=replace(closures["w1"].contents, units={}))
    facts = {"w1": replace(facts_for(ONE)["w1"], node=None, current=plain, booted=plain)}
    plan = rollout(ONE, Prepared(flake=a_flake(), facts=facts, closures=closures), Choices())
    assert action(plan, "w1/gate").expect_node is False


def test_a_soak_of_no_length_is_left_out():
    fleet = with_hosts(ONE, "w1", policy=HostPolicy(soak=0))
    assert "soak" not in steps(plan_of(fleet, "w1"), "w1")


def test_every_section_waits_until_all_closures_are_staged():
    plan = plan_of(a_fleet("w1 w2"), "w1 w2=live")
    assert plan.graph["fleet/staged"].after == {"w1/copy", "w2/copy"}
    assert plan.graph["w1/cordon"].requires == {"w1/copy"}
    assert plan.graph["w1/cordon"].after == {"fleet/staged"}
    assert plan.graph["w2/activate"].after == {"fleet/staged"}
    assert plan.graph["w1/copy"].section is None


def test_the_way_back_is_recorded_before_anything_changes():
    facts = facts_for(ONE)["w1"]
    way_back = WayBack(
        system=facts.current.path, booted=facts.booted.path, generation=facts.generation, boot_id=facts.boot_id
    )
    plan = plan_of(ONE, "w1=reboot")
    assert action(plan, "w1/activate").way_back == way_back
    assert action(plan, "w1/rollback") == RollBack(host="w1", way_back=way_back, reboot=True)
    assert action(plan_of(ONE, "w1"), "w1/rollback").reboot is False


def test_a_failure_behind_the_drain_takes_the_host_back_and_gives_it_back_behind_a_gate():
    plan = plan_of(ONE, "w1=reboot")
    watched = {f"w1/{step}" for step in ("activate", "reboot", "prove", "gate", "promote", "confirm", "soak")}
    assert plan.graph["w1/rollback"].on_failure_of == watched
    assert plan.graph["w1/rollback-gate"].requires == {"w1/rollback"}
    assert plan.graph["w1/rollback-uncordon"].requires == {"w1/rollback-gate"}
    assert plan.graph.sections["w1"].exits == {"w1/soak", "w1/undrain", "w1/rollback-uncordon"}


@pytest.mark.parametrize("activation", list(Activator))
@pytest.mark.parametrize("change", ["w1=reboot", "w1", "w1=live"])
def test_an_action_always_reports_its_own_deadline_before_the_engine_does(change, activation):
    policy = HostPolicy(activation_timeout=1000, reboot_timeout=2000, drain=DrainOptions(timeout=4000))
    fleet = with_hosts(a_fleet("w1"), "w1", policy=policy, activation=activation)
    graph = plan_of(fleet, change).graph
    own = {
        "copy": 3600,
        "drain": 4000,
        "activate": 1000 if activation is Activator.NATIVE else 3600,
        "reboot": 2000 + 4000,
        "gate": fleet.gates.kubelet.timeout,
        "soak": policy.soak,
        "rollback": 1000 + 2000,
        "rollback-gate": fleet.gates.kubelet.timeout,
    }
    late = {t.id for t in graph.values() if (step := t.id.rpartition("/")[2]) in own and t.timeout < own[step] + 60}
    assert late == set()


def test_a_node_is_given_back_at_once_when_its_host_was_not_touched():
    """Making a system that of the next boot touches nothing that runs; switching does."""
    undrains = [plan_of(ONE, change).graph["w1/undrain"].on_failure_of for change in ("w1=reboot", "w1")]
    assert undrains == [{"w1/cordon", "w1/drain", "w1/activate"}, {"w1/cordon", "w1/drain"}]


def test_a_rollback_that_may_not_reboot_is_not_gated_on_a_new_boot():
    gate = action(plan_of(ONE, "w1=reboot"), "w1/rollback-gate")
    assert gate == OpenGate(host="w1", gates=ONE.gates, rebooted_from=None)


@pytest.mark.parametrize("on_failure", [OnFailure.HALT, OnFailure.CONTINUE])
def test_without_rollback_a_failed_section_has_no_way_out_but_its_own_end(on_failure):
    plan = plan_of(a_fleet("w1", strategy=Strategy(on_failure=on_failure)), "w1=reboot")
    assert "rollback" not in steps(plan, "w1")
    assert plan.graph.sections["w1"].exits == {"w1/soak", "w1/undrain"}


def test_units_that_failed_before_do_not_count_and_are_named():
    plan = plan_of(ONE, "w1", edit={"w1": {"failed_units": ("backup.service",)}})
    assert action(plan, "w1/prove").failed_before == ("backup.service",)
    assert "already failed before the change, so not counted: backup.service" in line(plan, "w1").risks


# --- pending reboots and drift ---------------------------------------------------------------------------------------


def test_a_pending_reboot_reboots_without_copying_or_switching():
    plan = plan_of(ONE, edit={"w1": {"booted": a_system("w1", kernel="6.12.1")}})
    assert steps(plan, "w1") == [
        "cordon", "drain", "reboot", "prove", "gate", "promote", "uncordon", "soak",
        "undrain", "rollback", "rollback-gate", "rollback-uncordon",
    ]  # fmt: skip
    booted = a_system("w1", kernel="6.12.1").path
    assert action(plan, "w1/rollback").way_back.system == booted
    assert any(risk.startswith("going back means booting the older system") for risk in line(plan, "w1").risks)


def test_a_pending_reboot_does_not_go_back_to_a_system_with_other_node_units():
    plan = plan_of(ONE, edit={"w1": {"booted": a_system("w1", kernel="6.12.1", kubernetes="1.30.1")}})
    assert "rollback" not in steps(plan, "w1")
    assert any(
        r.startswith("never taken back automatically: the system it last booted") for r in line(plan, "w1").risks
    )


def test_a_profile_that_drifted_is_activated_without_a_copy_and_without_a_way_back():
    plan = plan_of(ONE, edit={"w1": {"profile": store_path("nixos-system-w1-24.11")}})
    assert line(plan, "w1").change.kind is ChangeClass.LIVE
    assert steps(plan, "w1") == ["activate", "prove", "gate", "confirm", "soak"]
    assert action(plan, "w1/activate").way_back.system == closures_for(ONE)["w1"].out
    assert "fleet/staged" not in plan.graph


# --- what a dead run left ------------------------------------------------------------------------------------------


def test_a_node_that_a_dead_run_cordoned_is_given_back_behind_a_gate():
    plan = plan_of(a_fleet("w1 w2"), "w2=live", leftover="w1")
    assert steps(plan, "w1") == ["prove", "gate", "confirm", "uncordon"]
    assert line(plan, "w1").change.kind is ChangeClass.UNCHANGED
    assert line(plan, "w1").change.reasons == ("cordoned by run 20260101T000000Z-dead, which died",)
    assert plan.graph["w1/prove"].after == frozenset(), "it need not wait for copies"
    assert plan.graph.rules.unhealthy == {"w1"}


def test_a_dead_man_timer_that_a_dead_run_armed_is_disarmed():
    timer = "nixkube-deploy-deadman-20260101T000000Z-dead-1234abcd.timer"
    plan = plan_of(ONE, edit={"w1": {"activations": (timer,)}})
    assert steps(plan, "w1") == ["prove", "gate", "confirm"]
    assert isinstance(action(plan, "w1/confirm"), ConfirmActivation)
    assert line(plan, "w1").change.reasons == ("a dead-man timer of a run that died is still armed",)


def test_a_host_that_a_dead_run_cordoned_is_given_back_even_when_nothing_is_drained():
    plan = plan_of(ONE, "w1=live", leftover="w1", choices=Choices(no_drain=True))
    assert "uncordon" in steps(plan, "w1")
    assert "cordon" not in steps(plan, "w1")


# --- hosts that cannot be planned ------------------------------------------------------------------------------------


def test_hosts_with_problems_are_listed_and_left_alone():
    fleet = a_fleet("w1 w2 w3 w4")
    facts, closures = facts_for(fleet), closures_for(fleet, changed="w1..w4")
    del facts["w1"], facts["w2"], closures["w3"]
    problem = a_failure()
    plan = rollout(
        fleet, Prepared(flake=a_flake(), facts=facts, closures=closures, problems={"w1": problem}), Choices()
    )
    assert line(plan, "w1").problem == problem
    assert line(plan, "w2").problem.message == "nothing is known about w2: it was not probed"
    assert line(plan, "w3").problem.message == "the flake has no built configuration for w3"
    assert [line(plan, name).wave for name in ("w1", "w2", "w3", "w4")] == [None, None, None, 1]
    assert plan.graph.rules.unhealthy == {"w1", "w2"}


def test_a_configuration_for_another_architecture_is_refused():
    plan = plan_of(ONE, "w1", edit={"w1": {"system": "aarch64-linux"}})
    problem = line(plan, "w1").problem
    assert problem.kind is FailureKind.PREFLIGHT
    assert (problem.expected, problem.seen) == ("aarch64-linux", "x86_64-linux")
    assert not plan.changes_anything


def test_an_inhibitor_and_reboot_never_cannot_both_be_honoured():
    fleet = with_hosts(a_fleet("w1 w2"), "w1", policy=HostPolicy(reboot=RebootPolicy.NEVER))
    closures = closures_for(fleet)
    for name in ("w1", "w2"):
        closures[name] = replace(closures[name], contents=a_system(name, inhibitors="dbus-broker"))
    plan = rollout(fleet, Prepared(flake=a_flake(), facts=facts_for(fleet), closures=closures), Choices())
    assert line(plan, "w1").problem.evidence == ("switch inhibitors: +dbus-broker",)
    assert line(plan, "w1").problem.next == "deploy apply INVENTORY --on w1 --reboot=auto"
    assert line(plan, "w2").change.kind is ChangeClass.REBOOT


def test_reboot_never_without_an_inhibitor_switches_and_says_what_waits():
    fleet = with_hosts(ONE, "w1", policy=HostPolicy(reboot=RebootPolicy.NEVER))
    plan = plan_of(fleet, "w1=reboot")
    assert line(plan, "w1").change.kind is ChangeClass.LIVE
    assert "the new kernel waits for the next reboot" in line(plan, "w1").risks


# --- what a plan says ------------------------------------------------------------------------------------------------


def test_a_plan_says_what_it_was_made_from():
    plan = plan_of(ONE, "w1=reboot", choices=Choices(digest="d1"))
    facts = facts_for(ONE)["w1"]
    assert (plan.inventory, plan.digest, plan.flake) == ("/etc/fleet/inventory.yaml", "d1", a_flake())
    host = line(plan, "w1")
    assert (host.current, host.boot_id, host.wave) == (facts.current.path, facts.boot_id, 1)
    assert host.target == closures_for(ONE, changed="w1=reboot")["w1"].out


def test_the_same_input_gives_the_same_plan():
    assert (
        plan_of(a_fleet(), "cp1..cp3 w1..w3").graph.fingerprint
        == plan_of(a_fleet(), "cp1..cp3 w1..w3").graph.fingerprint
    )


def test_a_known_minor_version_of_the_control_plane_is_never_rolled_back_over():
    fleet = a_fleet("cp1 | w1")
    closures = closures_for(fleet, changed="cp1 w1")
    for name, closure in closures.items():
        closures[name] = replace(closure, contents=replace(closure.contents, kubernetes="1.32.0"))
    plan = rollout(fleet, Prepared(flake=a_flake(), facts=facts_for(fleet), closures=closures), Choices())
    assert "rollback" not in steps(plan, "cp1")
    assert "rollback" in steps(plan, "w1")
    reason = "never taken back automatically: Kubernetes 1.31 -> 1.32 may cross a minor version of etcd"
    assert reason in line(plan, "cp1").risks
    assert isinstance(action(plan, "cp1/activate"), SwitchConfiguration)
    assert (action(plan, "w1/gate").kubernetes, action(plan, "w1/rollback-gate").kubernetes) == ("1.32.0", "")
    assert plan.graph.rules.canaries == {"cp1"}, "w1's kubelet would overtake the API server"


def test_the_gate_wants_the_storage_drivers_of_before():
    node = replace(facts_for(ONE)["w1"].node, csi_drivers=frozenset({"rbd", "cephfs"}))
    plan = plan_of(ONE, "w1", edit={"w1": {"node": node}})
    assert action(plan, "w1/gate").csi_drivers == ("cephfs", "rbd")


def test_storage_drivers_that_nobody_could_be_asked_for_are_noted():
    fleet = a_fleet("w1..w3")
    prepared = Prepared(
        facts=facts_for(fleet),
        closures=closures_for(fleet, changed="w1 w2"),
        flake=a_flake(),
        without_drivers=dict.fromkeys(("w2", "w3"), a_failure("the API was away")),
    )
    note = "storage drivers are not known, so no gate waits for them to be back: w2; the API was away"
    assert note in rollout(fleet, prepared, Choices()).notes


def test_a_switch_knows_what_to_fall_back_to_should_it_need_a_reboot():
    running = facts_for(ONE)["w1"].current.path
    plan = plan_of(ONE, "w1")
    assert action(plan, "w1/activate").fallback == (running,)
    assert action(plan, "w1/rollback").armed
    other = plan_of(ONE, "w1", edit={"w1": {"loader": "grub"}})
    assert action(other, "w1/activate").fallback == ()
    assert not action(other, "w1/rollback").armed
    assert action(plan_of(ONE, "w1=reboot"), "w1/activate").fallback == ()


def test_a_soak_may_wait_for_an_api_that_is_away_as_long_as_a_gate_may():
    fleet = a_fleet("w1")
    prepared = Prepared(facts=facts_for(fleet), closures=closures_for(fleet, changed="w1"), flake=a_flake())
    graph = rollout(fleet, prepared, Choices()).graph
    assert graph["w1/soak"].timeout >= fleet.hosts["w1"].policy.soak + fleet.gates.kubelet.timeout
