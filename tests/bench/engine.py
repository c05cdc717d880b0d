"""What the engine and the journal cost, and how well a rollout is scheduled. Exits with 1 when a promise is broken.

Run it as ``python -m tests.bench.engine``. The engine is measured alone: effects do nothing, the ledger is memory.
"""

import argparse
import gc
import heapq
import random
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import anyio
from trio.testing import MockClock

from nixkube_deploy.engine.limits import Limits
from nixkube_deploy.engine.run import Attempt, Done, Run, RunWorld
from nixkube_deploy.journal.file import open_journal
from nixkube_deploy.model.action import RollBack, Stage, WayBack
from nixkube_deploy.model.closure import FlakeState
from nixkube_deploy.model.event import Event, Outcome, Record, TaskSettled, Verdict
from nixkube_deploy.model.names import HostName, RunId, StorePath, TaskId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.model.task import Budget, Pool, Rules, Section, Task, TaskGraph
from tests.fakes.clock import LoopClock, ManualClock

T = TypeVar("T")
MICROSECONDS = 100.0
KIBIBYTES = 2.0
GROWTH = 1.5
"""How much dearer a task may be at the largest size than at the smallest: caches miss more often, and Python's garbage
collector walks the whole graph a few times.
"""
OVER_BOUND = 1.05
HOSTS_PER_PLACE = 50
"""From so many hosts a place in the budget on, the lower bound can be reached; with fewer the last hosts' random
lengths decide, and the schedule is held against the best greedy one instead.
"""
POOLS = {"cordon": Pool.CLUSTER, "drain": Pool.CLUSTER, "gate": Pool.WAIT, "uncordon": Pool.CLUSTER}
RUN = RunId("20261123T030000Z-0000")
STEPS = ("cordon", "drain", "activate", "prove", "gate", "uncordon")


class CountingLedger:
    """Numbers events and forgets them: what the engine itself keeps is what is measured."""

    past: tuple[Record, ...] = ()

    def __init__(self) -> None:
        self.count = 0

    def append(self, event: Event) -> Record:
        self.count += 1
        return Record(seq=self.count - 1, at=0.0, event=event)


def fleet_graph(hosts: int, *, per_wave: int | None, share: float = 0.25) -> TaskGraph:
    """Eight tasks a host: copy, six in the section, and a way back; three zones' worth of budgets, a barrier."""
    names = [HostName(f"n{number:05}") for number in range(hosts)]
    staged = TaskId("fleet/staged")
    tasks = [task for name in names for task in _host_tasks(name, staged)]
    tasks.append(Task(id=staged, action=Stage(), after=frozenset(TaskId(f"{name}/copy") for name in names)))
    waves = [1 if per_wave is None else 1 + number // per_wave for number in range(hosts)]
    sections = [
        Section(host=name, wave=wave, exits=frozenset({TaskId(f"{name}/uncordon"), TaskId(f"{name}/rollback")}))
        for name, wave in zip(names, waves, strict=True)
    ]
    whole = Budget(name="all", members=frozenset(names), limit=max(1, int(hosts * share)))
    thirds = [Budget(name=f"zone {i}", members=frozenset(names[i::3]), limit=whole.limit) for i in range(3)]
    return TaskGraph(tasks, sections, Rules(budgets=(whole, *thirds)))


def _host_tasks(name: HostName, staged: TaskId) -> Iterator[Task]:
    copy = TaskId(f"{name}/copy")
    yield Task(id=copy, action=Stage(), host=name, pool=Pool.COPY)
    before = copy
    for step in STEPS:
        after = frozenset({staged}) if step == "cordon" else frozenset()
        task = TaskId(f"{name}/{step}")
        pool = POOLS.get(step, Pool.SSH)
        requires = frozenset({before})
        yield Task(id=task, action=Stage(), host=name, pool=pool, requires=requires, after=after, section=name)
        before = task
    way_back = WayBack(system=StorePath("/nix/store/x"), booted=None, generation=None, boot_id="")
    causes = frozenset(TaskId(f"{name}/{step}") for step in ("activate", "prove", "gate"))
    action = RollBack(host=name, way_back=way_back, reboot=False)
    yield Task(id=TaskId(f"{name}/rollback"), action=action, host=name, on_failure_of=causes, section=name)


async def nothing(_task: Task, _attempt: Attempt) -> Done:
    return DONE


DONE = Done()


def a_world(clock: LoopClock | ManualClock, limits: Limits | None = None) -> RunWorld:
    return RunWorld(clock=clock, random=random.Random(1), limits=limits or Limits(), sinks=(), run=RUN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    hosts: int
    tasks: int
    graph: float
    """Microseconds a task to build and fingerprint the graph; not the engine's, shown beside."""
    run: float
    graph_memory: float
    """Kibibytes a task, for the graph."""
    run_memory: float
    """Kibibytes a task at the run's peak, besides the graph."""

    @property
    def kibibytes(self) -> float:
        return self.graph_memory + self.run_memory


def cost_of(hosts: int, *, repeats: int) -> Cost:
    begin = time.perf_counter()
    graph = fleet_graph(hosts, per_wave=None)
    assert graph.fingerprint
    built = time.perf_counter() - begin
    seconds = min(_time_run(graph) for _ in range(repeats))
    del graph
    graph, graph_bytes = _measured(lambda: fleet_graph(hosts, per_wave=None))
    _, run_bytes = _measured(lambda: anyio.run(Run(graph, nothing, CountingLedger(), a_world(ManualClock())).__call__))
    return Cost(
        hosts=hosts,
        tasks=len(graph),
        graph=built / len(graph) * 1e6,
        run=seconds / len(graph) * 1e6,
        graph_memory=graph_bytes / len(graph) / 1024,
        run_memory=run_bytes / len(graph) / 1024,
    )


def _time_run(graph: TaskGraph) -> float:
    gc.collect()
    begin = time.perf_counter()
    outcome = anyio.run(Run(graph, nothing, CountingLedger(), a_world(ManualClock())).__call__)
    assert outcome is Outcome.CONVERGED, outcome
    return time.perf_counter() - begin


def _measured(work: Callable[[], T]) -> tuple[T, int]:
    """What ``work`` returns, and the most bytes it held at any moment."""
    gc.collect()
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Makespan:
    hosts: int
    budget: int
    bound: float
    """No schedule is shorter: all the work shared evenly, or the longest host."""
    greedy: float
    """List scheduling, computed on its own: the next host goes to the place that is free first."""
    rolling: float
    waves: float

    @property
    def promise(self) -> float:
        return OVER_BOUND * (self.bound if self.hosts >= HOSTS_PER_PLACE * self.budget else self.greedy)


def makespan_of(hosts: int, share: float, seed: int) -> Makespan:
    """Virtual seconds until the last host is back; every host's section lasts its own random time."""
    chance = random.Random(seed)
    lengths = {HostName(f"n{i:05}"): chance.lognormvariate(5.0, 0.5) for i in range(hosts)}
    budget = max(1, int(hosts * share))
    return Makespan(
        hosts=hosts,
        budget=budget,
        bound=max(sum(lengths.values()) / budget, *lengths.values()),
        greedy=_greedy(list(lengths.values()), budget),
        rolling=_virtual(fleet_graph(hosts, per_wave=None, share=share), lengths),
        waves=_virtual(fleet_graph(hosts, per_wave=budget, share=share), lengths),
    )


def _greedy(lengths: Sequence[float], places: int) -> float:
    free = [0.0] * places
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def _virtual(graph: TaskGraph, lengths: dict[HostName, float]) -> float:
    async def perform(task: Task, _attempt: Attempt) -> Done:
        await anyio.sleep(lengths[task.host] / len(STEPS) if task.section is not None else 0.0)
        return DONE

    async def main() -> float:
        begin = anyio.current_time()
        # Pools are not what is measured: the disruption budget is the only thing that makes a host wait.
        roomy = Limits(capacities=dict.fromkeys(Pool, 100_000))
        outcome = await Run(graph, perform, CountingLedger(), a_world(LoopClock(), roomy))()
        assert outcome is Outcome.CONVERGED, outcome
        return anyio.current_time() - begin

    return anyio.run(main, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


def append_cost(count: int = 500) -> float:
    """Microseconds to make one event durable, where the journal would be written."""
    plan = Plan(inventory="/i", digest="", flake=FlakeState(url="", revision=""), hosts=(), graph=TaskGraph([]))
    settled = TaskSettled(task=TaskId("n00001/activate"), verdict=Verdict.SUCCEEDED, detail="switched")
    with TemporaryDirectory(dir=".") as state, open_journal(Path(state), RUN, plan, ManualClock()) as journal:
        begin = time.perf_counter()
        for _ in range(count):
            journal.append(settled)
        return (time.perf_counter() - begin) / count * 1e6


def broken_promises(costs: Sequence[Cost], makespans: Sequence[Makespan]) -> list[str]:
    broken = [f"{c.hosts} hosts: {c.run:.0f} µs a task > {MICROSECONDS:.0f}" for c in costs if c.run > MICROSECONDS]
    broken += [f"{c.hosts} hosts: {c.kibibytes:.2f} KiB > {KIBIBYTES}" for c in costs if c.kibibytes > KIBIBYTES]
    if (growth := costs[-1].run / costs[0].run) > GROWTH:
        broken.append(f"not linear: a task costs {growth:.2f} times as much at {costs[-1].hosts} hosts")
    return broken + [
        f"{m.hosts} hosts, budget {m.budget}: rolling takes {m.rolling:.0f} s > {m.promise:.0f} s"
        for m in makespans
        if m.rolling > m.promise
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000], help="hosts; 8 tasks each")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing; the best counts")
    options = parser.parse_args()
    out = sys.stdout.write
    out("hosts    tasks    µs/task  KiB/task = graph + run  (µs/task to build and fingerprint the graph)\n")
    costs = []
    for size in sorted(options.sizes):
        costs.append(cost := cost_of(size, repeats=options.repeats))
        memory = f"{cost.kibibytes:<8.2f} = {cost.graph_memory:<5.2f} + {cost.run_memory:<5.2f}"
        out(f"{cost.hosts:<8} {cost.tasks:<8} {cost.run:<8.1f} {memory} {cost.graph:.1f}\n")
    out(f"linearity: {costs[-1].run / costs[0].run:.2f} times the cost a task at the largest size\n")
    out(f"peak RSS of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB\n")
    out(f"journal: {append_cost():.0f} µs to make one event durable here\n\n")
    out("virtual seconds until the last host is back\n")
    out("hosts  budget  bound   greedy  rolling  /bound  waves   /bound\n")
    makespans = [makespan_of(*case) for case in ((1_000, 0.02, 1), (1_000, 0.1, 2), (300, 0.05, 3))]
    for m in makespans:
        out(f"{m.hosts:<6} {m.budget:<7} {m.bound:<7.0f} {m.greedy:<7.0f} {m.rolling:<8.0f} ")
        out(f"{m.rolling / m.bound:<7.3f} {m.waves:<7.0f} {m.waves / m.bound:.3f}\n")
    broken = broken_promises(costs, makespans)
    out("".join(f"BROKEN: {line}\n" for line in broken) or "every promise kept\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
