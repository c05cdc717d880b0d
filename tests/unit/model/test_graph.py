import json
from dataclasses import replace

import pytest
from hypothesis import given, settings

from nixkube_deploy.model.action import CopyClosure, Stage
from nixkube_deploy.model.change import Change, ChangeClass
from nixkube_deploy.model.codec import CodecError
from nixkube_deploy.model.graph_codec import graph_from_plain, graph_to_plain, plan_from_plain, plan_to_plain
from nixkube_deploy.model.names import HostName, TaskId
from nixkube_deploy.model.rollout import HostPlan, Plan
from nixkube_deploy.model.task import Budget, Rules, Section, Task, TaskGraph
from tests.builders import a_failure, a_flake, a_graph, store_path
from tests.strategies import rollout_graphs


def a_task(name: str, **fields: object) -> Task:
    return Task(id=TaskId(name), action=Stage(), **fields)


def section(host: str, *exits: str) -> Section:
    return Section(host=HostName(host), wave=1, exits=frozenset(map(TaskId, exits)))


# --- graphs ----------------------------------------------------------------------------------------------------------


def test_a_graph_is_a_mapping_in_dependency_order():
    graph = a_graph("c; b>c; a>b; a~c; b!d")
    assert list(graph) == ["a", "b", "c", "d"]
    assert len(graph) == 4
    assert graph[TaskId("c")].dependencies == {"a", "b"}
    assert graph.dependents(TaskId("b")) == ("c", "d")
    assert TaskId("e") not in graph


def test_a_graph_knows_its_sections_members_in_dependency_order():
    graph = a_graph("w1/a>w1/b; x", sections={"w1": "w1/b w1/a"})
    assert graph.members(HostName("w1")) == ("w1/a", "w1/b")
    assert list(graph.sections) == ["w1"]


@pytest.mark.parametrize(
    ("tasks", "sections", "message"),
    [
        ([a_task("a"), a_task("a"), a_task("b")], [], r"duplicate task ids: \['a'\]"),
        ([a_task("a", section=HostName("w1"))], [section("w1"), section("w1")], r"duplicate section ids: \['w1'\]"),
        ([a_task("a", requires=frozenset({TaskId("z")}))], [], r"unknown task ids: \['z'\]"),
        ([a_task("a", section=HostName("w1"))], [section("w1", "y")], r"unknown task ids: \['y'\]"),
        ([a_task("a", section=HostName("w1"))], [], r"unknown sections: \['w1'\]"),
        ([a_task("a")], [section("w1")], r"sections without a task: \['w1'\]"),
    ],
)
def test_a_graph_that_could_not_be_run_cannot_be_made(tasks, sections, message):
    with pytest.raises(ValueError, match=message):
        TaskGraph(tasks, sections)


def test_a_cycle_is_named():
    with pytest.raises(ValueError, match=r"a cycle: [ab] -> [ab] -> [ab]"):
        a_graph("a>b; b~a")


def test_a_fingerprint_tells_graphs_apart_by_all_that_would_be_done():
    graph = a_graph("w1/a>w1/b", sections={"w1": "w1/a w1/b"})
    same = a_graph("w1/a>w1/b", sections={"w1": "w1/a w1/b"})
    assert graph.fingerprint == same.fingerprint
    others = [
        a_graph("w1/a~w1/b", sections={"w1": "w1/a w1/b"}),
        a_graph("w1/a>w1/b", sections={"w1": "w1/a w1/b"}, waves={"w1": 2}),
        a_graph("w1/a>w1/b", sections={"w1": "w1/a w1/b"}, rules=Rules(max_failures=3)),
        TaskGraph([replace(t, timeout=1.0) for t in graph.values()], graph.sections.values()),
    ]
    assert len({graph.fingerprint, *(other.fingerprint for other in others)}) == 5


# --- as plain data ---------------------------------------------------------------------------------------------------


def a_plan() -> Plan:
    copy = CopyClosure(host=HostName("w1"), closure=store_path("nixos"))
    graph = a_graph("w1/copy>w1/switch", sections={"w1": "w1/switch"}, task=a_task("", timeout=5.0))
    tasks = [replace(task, action=copy) if task.id == "w1/copy" else task for task in graph.values()]
    rules = Rules(budgets=(Budget(name="b", members=frozenset({HostName("w1")}), limit=1),))
    change = Change(kind=ChangeClass.REBOOT, reasons=("kernel",))
    return Plan(
        inventory="/i.yaml",
        digest="d",
        flake=a_flake(),
        hosts=(
            HostPlan(host=HostName("w1"), change=change, wave=1, target=store_path("nixos")),
            HostPlan(host=HostName("w2"), change=None, problem=a_failure()),
        ),
        graph=TaskGraph(tasks, graph.sections.values(), rules),
        notes=("one at a time",),
    )


def test_a_plan_survives_a_file():
    plan = a_plan()
    back = plan_from_plain(json.loads(json.dumps(plan_to_plain(plan))))
    assert back.graph.fingerprint == plan.graph.fingerprint
    assert dict(back.graph) == dict(plan.graph)
    assert replace(back, graph=plan.graph) == plan
    assert back.changes_anything


def test_a_plan_without_tasks_changes_nothing():
    assert not replace(a_plan(), graph=TaskGraph([])).changes_anything


@given(graph=rollout_graphs())
@settings(max_examples=100, deadline=None)
def test_any_graph_survives_a_file(graph: TaskGraph):
    back = graph_from_plain(json.loads(json.dumps(graph_to_plain(graph))))
    assert (list(back.items()), dict(back.sections), back.rules) == (
        list(graph.items()),
        dict(graph.sections),
        graph.rules,
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"\$: expected an object, got list"),
        ({"tasks": [], "sections": [], "rules": None}, r"\$\.rules: expected an object, got NoneType"),
        (
            graph_to_plain(a_graph("a")) | {"tasks": graph_to_plain(a_graph("a"))["tasks"] * 2},
            r"\$: duplicate task ids: \['a'\]",
        ),
    ],
)
def test_plain_data_that_is_no_graph_is_refused(data, message):
    with pytest.raises(CodecError, match=message):
        graph_from_plain(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("plan", r"\$: expected an object, got str"),
        ({"version": 7}, r"\$\.version: expected 1, got 7"),
        (plan_to_plain(a_plan()) | {"fingerprint": "0"}, "the graph was changed after the plan was written"),
        (plan_to_plain(a_plan()) | {"digest": None}, r"\$\.digest: expected str, got NoneType"),
    ],
)
def test_plain_data_that_is_no_plan_is_refused(data, message):
    with pytest.raises(CodecError, match=message):
        plan_from_plain(data)
