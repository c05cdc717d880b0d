"""What holds for every plan, whatever the fleet, the facts and the strategy."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.codec import to_plain
from nixkube_deploy.model.graph_codec import plan_from_plain, plan_to_plain
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.strategy import Mode
from nixkube_deploy.plan.explain import describe, dot, mermaid
from nixkube_deploy.plan.intent import needs_finishing
from nixkube_deploy.plan.outline import chains
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.reboot import reboot
from nixkube_deploy.plan.rollback import Earlier, rollback
from nixkube_deploy.plan.rollout import rollout
from tests.builders import store_path
from tests.strategies import fleets, preparations

DISRUPTIVE = {"cordon", "drain", "activate", "reboot", "install-disko", "rollback"}
CASES = settings(max_examples=150, deadline=None)


@st.composite
def worlds(draw):
    fleet = draw(fleets())
    return fleet, draw(preparations(fleet)), Choices(bootstrap=draw(st.booleans()), no_drain=draw(st.booleans()))


@st.composite
def plans(draw):
    """A fleet, and a plan of any of the three kinds for it."""
    fleet, prepared, choices = draw(worlds())
    some = frozenset(draw(st.sets(st.sampled_from(list(fleet.hosts)))))
    match draw(st.sampled_from(["rollout", "rollout", "rollback", "reboot"])):
        case "rollout":
            return fleet, prepared, rollout(fleet, prepared, choices)
        case "rollback":
            targets = {name: store_path(f"nixos-system-{name}-25.05") for name in some}
            earlier = {host: Earlier(system=path) for host, path in targets.items()}
            return fleet, prepared, rollback(fleet, prepared, earlier, choices)
        case _:
            return fleet, prepared, reboot(fleet, prepared, some, choices)


@CASES
@given(plans())
def test_every_host_has_one_line_and_acting_hosts_one_section(world):
    fleet, _, plan = world
    assert [host.host for host in plan.hosts] == list(fleet.hosts)
    acting = {host.host for host in plan.hosts if host.wave is not None}
    assert acting == plan.graph.sections.keys()
    assert acting == {task.host for task in plan.graph.values() if task.host is not None}
    for host in plan.hosts:
        assert (host.change is None) == (host.problem is not None)
        assert host.wave is None or (host.problem is None and not host.skipped)


@CASES
@given(worlds())
def test_changed_hosts_act_and_unchanged_ones_only_to_finish_what_a_dead_run_left(world):
    fleet, prepared, choices = world
    plan = rollout(fleet, prepared, choices)
    for host in plan.hosts:
        if host.problem is not None or host.skipped:
            continue
        changes = host.change.kind.touches_host
        assert (host.wave is not None) == (changes or needs_finishing(prepared.facts[host.host]))
    silent = {name for name in fleet.hosts if name not in prepared.facts}
    assert silent <= plan.graph.rules.unhealthy
    assert silent.isdisjoint(plan.graph.sections)


@CASES
@given(plans())
def test_disruption_happens_only_in_sections_and_only_to_their_host(world):
    _, _, plan = world
    for task_id, task in plan.graph.items():
        assert task.section in {None, task.host}
        if task_id.rpartition("/")[2] in DISRUPTIVE:
            assert task.section == task.host


@CASES
@given(plans())
def test_a_section_s_exits_are_its_own_and_its_tasks_wait_for_no_other_host(world):
    _, _, plan = world
    for host, section in plan.graph.sections.items():
        members = set(plan.graph.members(host))
        assert section.exits <= members
        assert section.wave >= 1
        outside = {d for member in members for d in plan.graph[member].dependencies} - members
        assert outside <= {f"{host}/copy", "fleet/staged"}


@CASES
@given(plans())
def test_a_rollback_is_planned_exactly_where_the_policy_asks_for_it_and_there_is_a_way_back(world):
    fleet, _, plan = world
    steps = chains(plan)
    for host in plan.hosts:
        if host.wave is None:
            continue
        changes = host.change.kind not in {ChangeClass.UNCHANGED, ChangeClass.INSTALL}
        stays = any(risk.startswith("never taken back automatically") for risk in host.risks)
        wanted = fleet.strategy.on_failure.rolls_back and changes and not stays
        assert ("rollback" in steps[host.host]) == wanted
        if wanted and "rollback-uncordon" in steps[host.host]:
            assert "uncordon" in steps[host.host]


@CASES
@given(plans())
def test_a_node_that_is_cordoned_is_always_given_back(world):
    _, _, plan = world
    for host, steps in chains(plan).items():
        if "cordon" in steps:
            assert {"uncordon", "undrain"} <= set(steps)
            untouched = {"cordon", "drain"} | ({"activate"} & set(steps) if "reboot" in steps else set())
            assert plan.graph[f"{host}/undrain"].on_failure_of == {f"{host}/{step}" for step in untouched}


@CASES
@given(plans())
def test_budgets_let_at_least_one_host_go_and_bind_every_disrupted_host(world):
    fleet, prepared, plan = world
    budgets = plan.graph.rules.budgets
    assert all(budget.limit >= 1 for budget in budgets)
    for host in plan.graph.sections:
        bare = not prepared.facts[host].runs_nixos and prepared.facts[host].node is None
        assert bare or any(host in budget.members for budget in budgets)
        if fleet.hosts[host].role.is_control_plane or host in prepared.voters:
            assert any(host in budget.members and budget.limit == 1 for budget in budgets)


@CASES
@given(plans())
def test_waves_of_the_waves_mode_fit_the_budgets(world):
    fleet, _, plan = world
    if fleet.strategy.mode is not Mode.WAVES:
        return
    waves: dict[int, set[HostName]] = {}
    for host, section in plan.graph.sections.items():
        waves.setdefault(section.wave, set()).add(host)
    for budget in plan.graph.rules.budgets:
        assert all(len(members & budget.members) <= budget.limit for members in waves.values())
    for members in waves.values():
        assert len({plan.graph.rules.domains.get(host) for host in members}) <= 1
    assert sorted(waves) == list(range(1, len(waves) + 1))


@CASES
@given(plans())
def test_a_plan_survives_its_file_and_equal_plans_have_equal_fingerprints(world):
    _, _, plan = world
    again = plan_from_plain(plan_to_plain(plan))
    assert again.graph.fingerprint == plan.graph.fingerprint
    assert (again.hosts, again.notes, again.flake, again.digest) == (plan.hosts, plan.notes, plan.flake, plan.digest)
    assert list(again.graph.sections) == list(plan.graph.sections)


@CASES
@given(worlds())
def test_the_same_input_gives_the_same_plan(world):
    fleet, prepared, choices = world
    shuffled = Prepared(
        flake=prepared.flake,
        facts=dict(reversed(prepared.facts.items())),
        closures=dict(reversed(prepared.closures.items())),
        problems=dict(reversed(prepared.problems.items())),
        voters=prepared.voters,
    )
    one, two = rollout(fleet, prepared, choices), rollout(fleet, shuffled, choices)
    assert one.graph.fingerprint == two.graph.fingerprint
    assert to_plain(one.hosts) == to_plain(two.hosts)
    assert one.notes == two.notes


@CASES
@given(plans())
def test_every_plan_can_be_told_and_drawn(world):
    fleet, _, plan = world
    text = describe(plan)
    assert text.startswith("/etc/fleet/inventory.yaml: ")
    assert all(name in text or ".." in text for name in fleet.hosts)
    for lines, opening, closing in ((mermaid(plan), "subgraph", "end"), (dot(plan), "{", "}")):
        words = lines.split()
        assert words.count(opening) == words.count(closing)
        assert lines.count('"') % 2 == 0
