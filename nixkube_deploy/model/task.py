"""One step of one host, and the graph of all of them. If a graph exists, it can be run."""

import graphlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType

from nixkube_deploy.model.action import Action
from nixkube_deploy.model.codec import to_plain
from nixkube_deploy.model.names import HostName, TaskId
from nixkube_deploy.model.strategy import RetryPolicy, Window


class Pool(StrEnum):
    """What a running task uses up; each pool has a capacity (``engine.limits``)."""

    SSH = "ssh"
    COPY = "copy"
    CLUSTER = "cluster"
    INSTALL = "install"
    WAIT = "wait"
    """Tasks that mostly sleep (gates, soaks, reboots): unbounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One step: ``requires`` must have succeeded, ``after`` have settled, of ``on_failure_of`` one have failed."""

    id: TaskId
    action: Action
    host: HostName | None = None
    pool: Pool = Pool.SSH
    requires: frozenset[TaskId] = frozenset()
    after: frozenset[TaskId] = frozenset()
    on_failure_of: frozenset[TaskId] = frozenset()
    section: HostName | None = None
    """The disruption section this task belongs to."""
    retry: RetryPolicy = RetryPolicy()
    timeout: float = 600.0
    """Seconds for one attempt."""

    @property
    def dependencies(self) -> frozenset[TaskId]:
        """Every task that must settle before this one is decided."""
        return self.requires | self.after | self.on_failure_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The stretch in which a host is unavailable.

    It opens with its first task and closes when all its tasks have settled and one of ``exits`` went well.
    A failed host's section stays open: the host is still unavailable.
    """

    host: HostName
    wave: int
    """Opens only when every section of a lower wave has settled."""
    exits: frozenset[TaskId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """At most ``limit`` of ``members`` may be unavailable at once."""

    name: str
    """For people: ``workers: max_unavailable 25% = 2 of 9``."""
    members: frozenset[HostName]
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a section may open: one pure rule made of these parts (``engine.progress``)."""

    budgets: tuple[Budget, ...] = ()
    domains: Mapping[HostName, str] = field(default_factory=dict)
    """Host to its spread domain (zone); never are hosts of two domains unavailable at once. Empty: no spread."""
    unhealthy: frozenset[HostName] = frozenset()
    """Found unavailable before the run: they count against every budget and domain until their own section closes."""
    max_failures: int | None = 0
    """More failed hosts than this and no section opens any more; None: never."""
    canaries: frozenset[HostName] = frozenset()
    """One failed canary stops the run whatever ``max_failures`` says (unless that is None)."""
    windows: tuple[Window, ...] = ()
    """Sections open only inside one of these; empty: always."""


class TaskGraph(Mapping[TaskId, Task]):
    """An immutable, validated DAG in dependency order, with the rules for its sections.

    Raises:
        ValueError: duplicate ids, unknown ids, a section without a task, or a cycle (named).
    """

    def __init__(self, tasks: Iterable[Task], sections: Iterable[Section] = (), rules: Rules = Rules()) -> None:
        tasks, sections = tuple(tasks), tuple(sections)
        by_id = {task.id: task for task in tasks}
        _reject_duplicates([task.id for task in tasks], "task")
        _reject_duplicates([section.host for section in sections], "section")
        self.sections: Mapping[HostName, Section] = MappingProxyType({s.host: s for s in sections})
        """In the order in which they would like to open."""
        self.rules = rules
        _reject_unknown(by_id, self.sections)
        self._order = _topological(by_id)
        self._tasks = by_id
        dependents: dict[TaskId, list[TaskId]] = {task: [] for task in self._order}
        members: dict[HostName, list[TaskId]] = {host: [] for host in self.sections}
        for task_id in self._order:
            task = by_id[task_id]
            for dependency in task.dependencies:
                dependents[dependency].append(task_id)
            if task.section is not None:
                members[task.section].append(task_id)
        if empty := [host for host, ids in members.items() if not ids]:
            raise ValueError(f"sections without a task: {empty}")
        self._dependents = {task: tuple(ids) for task, ids in dependents.items()}
        self._members = {host: tuple(ids) for host, ids in members.items()}

    def __getitem__(self, task: TaskId) -> Task:
        return self._tasks[task]

    def __iter__(self) -> Iterator[TaskId]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def dependents(self, task: TaskId) -> tuple[TaskId, ...]:
        """The tasks that wait for ``task``, in dependency order."""
        return self._dependents[task]

    def members(self, section: HostName) -> tuple[TaskId, ...]:
        """The tasks of a section, in dependency order."""
        return self._members[section]

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest over tasks, sections and rules: equal exactly when two graphs would do the same."""
        digest = hashlib.sha256()
        for part in (*self.values(), *self.sections.values(), self.rules):  # One by one: a fleet's graph is large.
            digest.update(json.dumps(to_plain(part), sort_keys=True).encode())
        return digest.hexdigest()[:16]


def _reject_duplicates(ids: list[TaskId] | list[HostName], what: str) -> None:
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        again = sorted({i for i in ids if i in seen or seen.add(i)})  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate {what} ids: {again}")


def _reject_unknown(tasks: Mapping[TaskId, Task], sections: Mapping[HostName, Section]) -> None:
    known = tasks.keys()
    missing = {d for task in tasks.values() for d in task.dependencies if d not in known}
    missing |= {e for section in sections.values() for e in section.exits if e not in known}
    if missing:
        raise ValueError(f"unknown task ids: {sorted(missing)}")
    if lost := sorted({t.section for t in tasks.values() if t.section is not None} - sections.keys()):
        raise ValueError(f"unknown sections: {lost}")


def _topological(tasks: Mapping[TaskId, Task]) -> tuple[TaskId, ...]:
    try:
        sorter = graphlib.TopologicalSorter({i: sorted(task.dependencies) for i, task in tasks.items()})
        return tuple(sorter.static_order())
    except graphlib.CycleError as error:
        raise ValueError("a cycle: " + " -> ".join(error.args[1])) from error
