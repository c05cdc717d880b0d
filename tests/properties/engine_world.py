"""Random rollouts, an oracle that says how they must end, and an observer that watches from within the effects.

The oracle and the observer know the rules of ``Rules`` and ``Section`` and nothing of how the engine keeps them.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

import anyio
import trio._core._run as trio_scheduler
from hypothesis import register_random
from hypothesis import strategies as st
from trio.testing import MockClock

from nixkube_deploy.engine.limits import Limits
from nixkube_deploy.engine.run import Attempt, Done, Run, RunWorld
from nixkube_deploy.model.action import RollBack, Stage, WayBack
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.event import Outcome, Record, TaskSettled, TaskStarted, Verdict
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import HostName, RunId, StorePath, TaskId
from nixkube_deploy.model.strategy import RetryPolicy
from nixkube_deploy.model.task import Budget, Pool, Rules, Section, Task, TaskGraph
from tests.fakes.clock import LoopClock
from tests.fakes.ledger import MemoryLedger

# Trio shuffles what is runnable; under Hypothesis it shuffles the same way every time, so that failures repeat.
trio_scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
register_random(trio_scheduler._r)

RUN = RunId("20261123T030000Z-0000")
LIMITS = Limits(capacities={Pool.SSH: 3, Pool.COPY: 2, Pool.CLUSTER: 2, Pool.INSTALL: 1})
TIMEOUT = 5.0
TOO_LONG = 8.0
WAY_BACK = WayBack(system=StorePath("/nix/store/x"), booted=None, generation=None, boot_id="")
OK, UNCHANGED, TRANSIENT, FINAL, HANGS = "ok", "unchanged", "transient", "final", "hangs"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A graph and what every attempt of every task will come to."""

    graph: TaskGraph
    ends: dict[TaskId, tuple[str, ...]]
    """By attempt; the last one for ever."""
    durations: dict[TaskId, float]

    def end_of(self, task: TaskId, attempt: int) -> str:
        ends = self.ends.get(task, (OK,))
        return ends[min(attempt, len(ends)) - 1]

    def verdict_of(self, task: Task) -> Verdict:
        """What a task comes to if it runs."""
        for attempt in range(1, task.retry.attempts + 1):
            match self.end_of(task.id, attempt):
                case "ok":
                    return Verdict.SUCCEEDED
                case "unchanged":
                    return Verdict.UNCHANGED
                case "final":
                    return Verdict.FAILED
        return Verdict.FAILED

    def foretell(self) -> dict[TaskId, Verdict]:
        """How every task settles if no rule ever refuses a section."""
        known: dict[TaskId, Verdict] = {}
        for task_id, task in self.graph.items():
            needed = not task.on_failure_of or any(known[t] is Verdict.FAILED for t in task.on_failure_of)
            possible = all(known[t].went_well for t in task.requires)
            known[task_id] = self.verdict_of(task) if needed and possible else Verdict.SKIPPED
        return known


# --- random worlds ---------------------------------------------------------------------------------------------------

_ENDS = st.sampled_from(
    [(OK,)] * 10 + [(UNCHANGED,)] * 2 + [(FINAL,)] * 2 + [(TRANSIENT, OK)] * 2 + [(HANGS, OK), (TRANSIENT,), (HANGS,)]
)
_DURATIONS = st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0])
_RETRIES = st.sampled_from([RetryPolicy(), RetryPolicy(attempts=2, backoff=1.0), RetryPolicy(attempts=3, backoff=20.0)])
_CHAINS = st.sampled_from(
    [("switch",), ("switch", "gate"), ("cordon", "drain", "switch", "gate", "uncordon"), ("cordon", "switch", "gate")]
)
_POOLS = {"copy": Pool.COPY, "cordon": Pool.CLUSTER, "drain": Pool.CLUSTER, "gate": Pool.WAIT}


@st.composite
def worlds(draw: st.DrawFn, *, max_hosts: int = 5, unlimited: bool = False) -> World:
    """Copies, a barrier, sections with undrains and rollbacks, loose tasks; ``unlimited``: no rule ever refuses."""
    hosts = [HostName(f"h{number}") for number in range(draw(st.integers(1, max_hosts)))]
    tasks = [_task(draw, f"{host}/copy", host) for host in hosts]
    tasks.append(Task(id=TaskId("fleet/staged"), action=Stage(), pool=Pool.WAIT, after=_ids(tasks)))
    sections: list[Section] = []
    wave = 0
    for host in hosts:
        wave += draw(st.sampled_from([0, 0, 0, 1]))
        members, exits = _section(draw, host)
        if draw(st.integers(0, 5)) == 0:  # A second way into the section, after something of another host.
            others = draw(st.sets(st.sampled_from([task.id for task in tasks]), max_size=2))
            members.append(_task(draw, f"{host}/aside", host, section=host, after=frozenset(others)))
        tasks += members
        sections.append(Section(host=host, wave=wave, exits=exits))
    if draw(st.booleans()):
        loose = draw(st.sets(st.sampled_from([task.id for task in tasks]), max_size=3))
        tasks.append(_task(draw, "fleet/report", None, after=frozenset(loose)))
    ends = {task.id: draw(_ENDS) for task in tasks if task.id != "fleet/staged"}
    durations = {task.id: draw(_DURATIONS) for task in tasks}
    order = draw(st.permutations(sections))
    rules = _free_rules(hosts) if unlimited else _rules(draw, hosts)
    return World(graph=TaskGraph(tasks, order, rules), ends=ends, durations=durations)


def _task(draw: st.DrawFn, name: str, host: HostName | None, **fields: object) -> Task:
    return Task(
        id=TaskId(name),
        action=RollBack(host=host, way_back=WAY_BACK, reboot=False) if name.endswith("/rollback") else Stage(),
        host=host,
        pool=_POOLS.get(name.partition("/")[2], Pool.SSH),
        retry=draw(_RETRIES),
        timeout=TIMEOUT,
        **fields,
    )


def _ids(tasks: Iterable[Task]) -> frozenset[TaskId]:
    return frozenset(task.id for task in tasks)


def _section(draw: st.DrawFn, host: HostName) -> tuple[list[Task], frozenset[TaskId]]:
    chain: list[Task] = []
    for step in draw(_CHAINS):
        first = frozenset({TaskId("fleet/staged")}) if not chain else frozenset()
        needs = frozenset({chain[-1].id if chain else TaskId(f"{host}/copy")})
        chain.append(_task(draw, f"{host}/{step}", host, requires=needs, after=first, section=host))
    exits = {chain[-1].id}
    members = list(chain)
    before = [task for task in chain if task.id.endswith(("cordon", "drain")) and "uncordon" not in task.id]
    if before:
        members.append(_task(draw, f"{host}/undrain", host, on_failure_of=_ids(before), section=host))
        exits.add(members[-1].id)
    if draw(st.booleans()):
        causes = _ids(task for task in chain if task.id.endswith(("switch", "gate")))
        back = _task(draw, f"{host}/rollback", host, on_failure_of=causes, section=host)
        gate = _task(draw, f"{host}/rollback-gate", host, requires=frozenset({back.id}), section=host)
        members += [back, gate]
        exits.add(gate.id)
    return members, frozenset(exits)


def _rules(draw: st.DrawFn, hosts: list[HostName]) -> Rules:
    everybody = [*hosts, HostName("elsewhere")]
    some = st.sets(st.sampled_from(everybody)).map(frozenset)
    budgets = [Budget(name="all", members=frozenset(everybody), limit=draw(st.integers(1, 4)))]
    if draw(st.booleans()):
        budgets.append(Budget(name="some", members=draw(some), limit=draw(st.integers(0, 2))))
    zones = st.sampled_from(["a", "b", None])
    drawn = {host: draw(zones) for host in everybody} if draw(st.booleans()) else {}
    return Rules(
        budgets=tuple(budgets),
        domains={host: zone for host, zone in drawn.items() if zone is not None},
        unhealthy=draw(some) if draw(st.integers(0, 2)) == 0 else frozenset(),
        max_failures=draw(st.sampled_from([None, None, 0, 1, 2])),
        canaries=draw(some) if draw(st.integers(0, 3)) == 0 else frozenset(),
    )


def _free_rules(hosts: list[HostName]) -> Rules:
    return Rules(
        budgets=(Budget(name="all", members=frozenset(hosts), limit=len(hosts)),),
        max_failures=None,
        canaries=frozenset(),
    )


# --- the observer ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Observer:
    """A Perform that carries out a ``World`` and checks, at every beginning, that it was allowed to begin.

    It outlives controllers, as hosts do: after a crash the next Run is given the same observer.
    """

    world: World
    foretold: dict[TaskId, Verdict]
    running: dict[TaskId, Task] = field(default_factory=dict)
    final: dict[TaskId, Verdict] = field(default_factory=dict)
    """Tasks that came to an end for good, as seen from within."""
    begun: list[tuple[TaskId, Attempt]] = field(default_factory=list)
    entered: list[HostName] = field(default_factory=list)
    hook: Callable[[TaskId], None] = lambda task: None

    @classmethod
    def of(cls, world: World) -> "Observer":
        return cls(world, world.foretell())

    async def __call__(self, task: Task, attempt: Attempt) -> Done:
        self._check_beginning(task)
        self.begun.append((task.id, attempt))
        self.running[task.id] = task
        end = self.world.end_of(task.id, attempt.number)
        try:
            self.hook(task.id)
            await anyio.sleep(TOO_LONG if end == HANGS else self.world.durations[task.id])
            self._note(task, attempt, end)
        except anyio.get_cancelled_exc_class():
            if end == HANGS:
                self._note(task, attempt, end)
            raise
        finally:
            del self.running[task.id]
        match end:
            case "ok":
                return Done()
            case "unchanged":
                return Done(changed=False)
            case _:
                raise TaskError(Failure(kind=FailureKind.COMMAND, message=end, transient=end == TRANSIENT))

    def _note(self, task: Task, attempt: Attempt, end: str) -> None:
        if end in {OK, UNCHANGED, FINAL} or attempt.number >= task.retry.attempts:
            self.final[task.id] = self.world.verdict_of(task)

    def _check_beginning(self, task: Task) -> None:
        assert self.foretold[task.id] is not Verdict.SKIPPED, f"{task.id} should never run"
        for needed in task.requires:
            assert self.final[needed].went_well, f"{task.id} begins without {needed}"
        assert not task.dependencies & self.running.keys(), f"{task.id} begins beside what it waits for"
        if task.on_failure_of:
            assert any(self.final.get(t) is Verdict.FAILED for t in task.on_failure_of), f"{task.id} has no reason"
        for other in self.running.values():
            assert task.host is None or other.host != task.host, f"{task.id} and {other.id} share a host"
        in_pool = sum(other.pool is task.pool for other in self.running.values())
        assert in_pool < LIMITS.of(task.pool), f"pool {task.pool} overflows"
        for later in self.begun:
            assert task.id not in self.world.graph[later[0]].dependencies, f"{later[0]} began before {task.id}"
        if task.section is not None and task.section not in self.entered:
            self._check_entering(task.section)
            self.entered.append(task.section)

    def _check_entering(self, host: HostName) -> None:
        rules, sections = self.world.graph.rules, self.world.graph.sections
        down = self.unavailable() | {host}
        for budget in rules.budgets:
            assert host not in budget.members or len(down & budget.members) <= budget.limit, f"{host}: {budget.name}"
        zones = {rules.domains[name] for name in down if name in rules.domains}
        assert host not in rules.domains or len(zones) == 1, f"{host}: {zones} at once"
        for other in self.entered:
            assert sections[other].wave <= sections[host].wave, f"{host} enters after a later wave began"
            assert sections[other].wave == sections[host].wave or not self._is_busy(other), f"{host}: wave not done"
        failed = self.failed_hosts()
        if rules.max_failures is not None:
            assert len(failed) <= rules.max_failures, f"{host} enters after {failed} failed"
            assert not failed & rules.canaries, f"{host} enters after a canary failed"

    def failed_hosts(self) -> set[HostName]:
        tasks = (self.world.graph[t] for t, verdict in self.final.items() if verdict is Verdict.FAILED)
        return {task.host for task in tasks if task.host is not None}

    def unavailable(self) -> set[HostName]:
        """Hosts that are down: unhealthy before and not yet proven, or between entering and a good exit."""
        down = set(self.world.graph.rules.unhealthy)
        for host in self.entered:
            went_well = any(self.final.get(t, Verdict.SKIPPED).went_well for t in self.world.graph.sections[host].exits)
            if self._is_busy(host) or not went_well:
                down.add(host)
            elif host not in self.failed_hosts():
                down.discard(host)
        return down

    def _is_busy(self, host: HostName) -> bool:
        members = self.world.graph.members(host)
        return any(self.foretold[t] is not Verdict.SKIPPED and t not in self.final for t in members)


# --- running it ------------------------------------------------------------------------------------------------------


def run_world(
    observer: Observer,
    ledger: MemoryLedger,
    beside: Callable[[Run], None] | None = None,
    at: float = 0.0,
) -> Outcome:
    """Run to the end in virtual time; ``beside`` is called with the run after ``at`` seconds."""

    async def main() -> Outcome:
        async with anyio.create_task_group() as group:
            run = Run(
                observer.world.graph,
                observer,
                ledger,
                RunWorld(clock=LoopClock(), random=Random(7), limits=LIMITS, sinks=(), run=RUN),
            )

            async def meddle() -> None:
                await anyio.sleep(at)
                assert beside is not None
                beside(run)

            if beside is not None:
                group.start_soon(meddle)
            outcome = await run()
            group.cancel_scope.cancel()
        return outcome

    return anyio.run(main, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


def settled(records: Iterable[Record]) -> dict[TaskId, TaskSettled]:
    """Every verdict; fails when a task settled twice."""
    events = [record.event for record in records if isinstance(record.event, TaskSettled)]
    twice = [task for task, count in Counter(event.task for event in events).items() if count > 1]
    assert not twice, f"settled twice: {twice}"
    return {event.task: event for event in events}


def started(records: Iterable[Record]) -> set[TaskId]:
    """Tasks that were begun."""
    return {record.event.task for record in records if isinstance(record.event, TaskStarted)}
