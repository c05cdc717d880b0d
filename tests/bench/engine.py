"""What the engine costs and how well it schedules. Prints a table; exits with 1 when a promise is broken.

Run it as ``python -m tests.bench.engine``. It measures the engine alone: effects do nothing, the ledger is memory.
"""

import argparse
import gc
import random
import resource
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import anyio
from trio.testing import MockClock

from nixkube_deploy.engine.limits import Limits
from nixkube_deploy.engine.run import Attempt, Done, Run, RunWorld
from nixkube_deploy.model.action import RollBack, Stage, WayBack
from nixkube_deploy.model.event import Event, Outcome, Record
from nixkube_deploy.model.names import HostName, RunId, StorePath, TaskId
from nixkube_deploy.model.task import Budget, Pool, Rules, Section, Task, TaskGraph
from tests.fakes.clock import LoopClock, ManualClock

MICROSECONDS = 100.0
KIBIBYTES = 2.0
GROWTH = 1.35
"""How much dearer a task may be at the largest size than at the smallest: caches miss more, nothing else."""
OVER_BOUND = 1.05
POOLS = {"cordon": Pool.CLUSTER, "drain": Pool.CLUSTER, "gate": Pool.WAIT, "uncordon": Pool.CLUSTER}
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
    return RunWorld(
        clock=clock, random=random.Random(1), limits=limits or Limits(), sinks=(), run=RunId("20261123T030000Z-0000")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    hosts: int
    tasks: int
    graph: float
    """Microseconds a task to build and fingerprint the graph; not the engine's, shown beside."""
    run: float
    kibibytes: float


def cost_of(hosts: int, *, repeats: int) -> Cost:
    begin = time.perf_counter()
    graph = fleet_graph(hosts, per_wave=None)
    assert graph.fingerprint
    built = time.perf_counter() - begin
    seconds = min(_time_run(graph) for _ in range(repeats))
    return Cost(
        hosts=hosts,
        tasks=len(graph),
        graph=built / len(graph) * 1e6,
        run=seconds / len(graph) * 1e6,
        kibibytes=_peak(graph) / len(graph) / 1024,
    )


def _time_run(graph: TaskGraph) -> float:
    gc.collect()
    begin = time.perf_counter()
    outcome = anyio.run(Run(graph, nothing, CountingLedger(), a_world(ManualClock())).__call__)
    assert outcome is Outcome.CONVERGED, outcome
    return time.perf_counter() - begin


def _peak(graph: TaskGraph) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        anyio.run(Run(graph, nothing, CountingLedger(), a_world(ManualClock())).__call__)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Makespan:
    hosts: int
    budget: int
    bound: float
    rolling: float
    waves: float


def makespan_of(hosts: int, share: float, seed: int) -> Makespan:
    """Virtual seconds until the last host is back; every host's section lasts its own random time."""
    chance = random.Random(seed)
    lengths = {HostName(f"n{i:05}"): chance.lognormvariate(5.0, 0.5) for i in range(hosts)}
    budget = max(1, int(hosts * share))
    bound = max(sum(lengths.values()) / budget, *lengths.values())
    rolling = _virtual(fleet_graph(hosts, per_wave=None, share=share), lengths)
    waves = _virtual(fleet_graph(hosts, per_wave=budget, share=share), lengths)
    return Makespan(hosts=hosts, budget=budget, bound=bound, rolling=rolling, waves=waves)


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


def broken_promises(costs: Sequence[Cost], makespans: Sequence[Makespan]) -> list[str]:
    broken = [f"{c.hosts} hosts: {c.run:.0f} µs a task > {MICROSECONDS:.0f}" for c in costs if c.run > MICROSECONDS]
    broken += [f"{c.hosts} hosts: {c.kibibytes:.2f} KiB > {KIBIBYTES}" for c in costs if c.kibibytes > KIBIBYTES]
    if (growth := costs[-1].run / costs[0].run) > GROWTH:
        broken.append(f"not linear: a task costs {growth:.2f} times as much at {costs[-1].hosts} hosts")
    broken += [
        f"{m.hosts} hosts, budget {m.budget}: rolling is {m.rolling / m.bound:.3f} times the lower bound"
        for m in makespans
        if m.rolling > OVER_BOUND * m.bound
    ]
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000], help="hosts; 8 tasks each")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing; the best counts")
    options = parser.parse_args()
    out = sys.stdout.write
    out("hosts    tasks    µs/task  KiB/task  (graph: µs/task to build and fingerprint)\n")
    costs = []
    for size in sorted(options.sizes):
        costs.append(cost := cost_of(size, repeats=options.repeats))
        out(f"{cost.hosts:<8} {cost.tasks:<8} {cost.run:<8.1f} {cost.kibibytes:<9.2f} {cost.graph:.1f}\n")
    out(f"linearity: {costs[-1].run / costs[0].run:.2f} times the cost a task at the largest size\n\n")
    out("makespan  budget   bound      rolling  x bound   waves    x bound\n")
    makespans = [makespan_of(*case) for case in ((1_000, 0.02, 1), (1_000, 0.1, 2), (300, 0.05, 3))]
    for m in makespans:
        out(f"{m.hosts:<9} {m.budget:<8} {m.bound:<10.0f} {m.rolling:<8.0f} {m.rolling / m.bound:<9.3f} ")
        out(f"{m.waves:<8.0f} {m.waves / m.bound:.3f}\n")
    out(f"\npeak RSS of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB\n")
    broken = broken_promises(costs, makespans)
    out("".join(f"BROKEN: {line}\n" for line in broken) or "every promise kept\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
