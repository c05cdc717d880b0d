"""A task graph (and the plan around it) as plain data; the one value the generic codec cannot rebuild by itself."""

from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.closure import FlakeState
from nixkube_deploy.model.codec import CodecError, Plain, from_plain, to_plain
from nixkube_deploy.model.packages import SharedChanges
from nixkube_deploy.model.rollout import HostPlan, Plan
from nixkube_deploy.model.strategy import Strategy
from nixkube_deploy.model.task import Rules, Section, Task, TaskGraph

PLAN_VERSION = 1
"""Version of the plan file's shape; a file with another version is refused."""


def graph_to_plain(graph: TaskGraph) -> Plain:
    """Tasks in dependency order, sections in opening order, rules."""
    return {
        "tasks": to_plain(list(graph.values())),
        "sections": to_plain(list(graph.sections.values())),
        "rules": to_plain(graph.rules),
    }


def graph_from_plain(data: Plain, where: str = "$") -> TaskGraph:
    """The graph ``graph_to_plain`` described.

    Raises:
        CodecError: wrong shape, or a graph that could not be run.
    """
    if not isinstance(data, dict):
        raise CodecError(f"{where}: expected an object, got {type(data).__name__}")
    tasks: tuple[Task, ...] = from_plain(tuple[Task, ...], data.get("tasks"), f"{where}.tasks")
    sections: tuple[Section, ...] = from_plain(tuple[Section, ...], data.get("sections"), f"{where}.sections")
    rules: Rules = from_plain(Rules, data.get("rules"), f"{where}.rules")
    try:
        return TaskGraph(tasks, sections, rules)
    except ValueError as error:
        raise CodecError(f"{where}: {error}") from error


def plan_to_plain(plan: Plan) -> Plain:
    """A whole plan, as ``plan --json`` and ``plan -o`` write it."""
    return {
        "version": PLAN_VERSION,
        "inventory": plan.inventory,
        "digest": plan.digest,
        "flake": to_plain(plan.flake),
        "hosts": to_plain(plan.hosts),
        "notes": list(plan.notes),
        "mode": to_plain(plan.mode),
        "strategy": to_plain(plan.strategy),
        "differences": to_plain(plan.differences),
        "graph": graph_to_plain(plan.graph),
        "fingerprint": plan.graph.fingerprint,
    }


def plan_from_plain(data: Plain) -> Plan:
    """The plan ``plan_to_plain`` described.

    Raises:
        CodecError: wrong version, wrong shape, or a graph that is not the one that was fingerprinted.
    """
    if not isinstance(data, dict):
        raise CodecError(f"$: expected an object, got {type(data).__name__}")
    if data.get("version") != PLAN_VERSION:
        raise CodecError(f"$.version: expected {PLAN_VERSION}, got {data.get('version')!r}")
    graph = graph_from_plain(data.get("graph"), "$.graph")
    if graph.fingerprint != data.get("fingerprint"):
        raise CodecError("$.fingerprint: the graph was changed after the plan was written")
    return Plan(
        inventory=from_plain(str, data.get("inventory"), "$.inventory"),
        digest=from_plain(str, data.get("digest"), "$.digest"),
        flake=from_plain(FlakeState, data.get("flake"), "$.flake"),
        hosts=from_plain(tuple[HostPlan, ...], data.get("hosts"), "$.hosts"),
        notes=from_plain(tuple[str, ...], data.get("notes"), "$.notes"),
        mode=from_plain(SwitchMode, data.get("mode", SwitchMode.SWITCH.value), "$.mode"),
        strategy=from_plain(Strategy | None, data.get("strategy"), "$.strategy"),
        differences=from_plain(tuple[SharedChanges, ...], data.get("differences", []), "$.differences"),
        graph=graph,
    )
