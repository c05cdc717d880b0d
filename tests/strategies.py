"""Hypothesis strategies for the whole vocabulary: fleets, rollout strategies, preparations, graphs with sections.

Everything drawn is valid: a graph from here can be run, a preparation can be planned.
"""

from dataclasses import replace

from hypothesis import strategies as st

from nixkube_deploy.model.action import Stage
from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.fleet import Activator, Distribution, Fleet, Group, Host
from nixkube_deploy.model.names import GroupName, HostName, TaskId
from nixkube_deploy.model.strategy import (
    DrainOptions,
    HostPolicy,
    Limit,
    Mode,
    OnFailure,
    RebootPolicy,
    RetryPolicy,
    Strategy,
)
from nixkube_deploy.model.task import Budget, Pool, Rules, Section, Task, TaskGraph
from nixkube_deploy.plan.prepared import Prepared
from tests.builders import a_failure, a_flake, a_fleet, closures_for, facts_for

# --- fleets ----------------------------------------------------------------------------------------------------------


def limits() -> st.SearchStrategy[Limit]:
    """Numbers and percentages, zero and more than everything included."""
    return st.one_of(
        st.integers(0, 5).map(Limit), st.integers(0, 100).map(lambda percent: Limit(percent, percent=True))
    )


def policies() -> st.SearchStrategy[HostPolicy]:
    """What may differ from host to host."""
    return st.builds(
        HostPolicy,
        soak=st.sampled_from([0.0, 5.0, 60.0]),
        drain=st.builds(DrainOptions, enabled=st.booleans(), live=st.booleans()),
        reboot=st.sampled_from(RebootPolicy),
    )


def rollout_strategies() -> st.SearchStrategy[Strategy]:
    """Every kind of rollout."""
    return st.builds(
        Strategy,
        canary=st.integers(0, 3),
        max_unavailable=limits(),
        mode=st.sampled_from(Mode),
        spread=st.sampled_from([None, "zone"]),
        max_failures=limits(),
        on_failure=st.sampled_from(OnFailure),
        host=policies(),
    )


@st.composite
def fleets(draw: st.DrawFn, *, max_workers: int = 8) -> Fleet:
    """A control plane of 0 to 3 hosts, up to ``max_workers`` workers in up to two groups, some with zones."""
    control, workers = draw(st.integers(0, 3)), draw(st.integers(1, max_workers))
    parts = [f"cp1..cp{control}"] if control else []
    fleet = a_fleet(
        " | ".join([*parts, f"w1..w{workers}"]),
        strategy=draw(rollout_strategies()),
        distribution=draw(st.sampled_from([*Distribution, Distribution.K3S])),
    )
    hosts = {name: draw(_varied(host)) for name, host in fleet.hosts.items()}
    groups = {name: replace(g, max_unavailable=draw(st.none() | limits())) for name, g in fleet.groups.items()}
    if draw(st.booleans()):
        picked = tuple(draw(st.lists(st.sampled_from(list(hosts)), min_size=1, unique=True)))
        groups[GroupName("mixed")] = Group(name=GroupName("mixed"), members=picked, max_unavailable=draw(limits()))
    return replace(fleet, hosts=hosts, groups=groups)


def _varied(host: Host) -> st.SearchStrategy[Host]:
    return st.builds(
        lambda zone, activator, policy: replace(
            host, labels={"zone": zone} if zone else {}, activation=activator, policy=policy
        ),
        st.sampled_from(["", "a", "b"]),
        st.sampled_from(Activator),
        policies(),
    )


@st.composite
def preparations(draw: st.DrawFn, fleet: Fleet) -> Prepared:
    """What probing, evaluating and building ``fleet`` may have found: every class of change, and hosts that failed."""
    hosts = list(fleet.hosts)
    some = st.lists(st.sampled_from(hosts), unique=True).map(" ".join)
    classes = {name: draw(st.sampled_from(ChangeClass)) for name in hosts}
    bare = " ".join(name for name, kind in classes.items() if kind is ChangeClass.INSTALL)
    facts = facts_for(fleet, bare=bare, unready=draw(some), leftover=draw(some))
    closures = closures_for(fleet, changed=" ".join(f"{name}={kind}" for name, kind in classes.items()))
    problems = {}
    for name in draw(some).split():
        problems[HostName(name)] = a_failure()
        if draw(st.booleans()):
            del facts[HostName(name)]
        else:
            del closures[HostName(name)]
    for name in [name for name in facts if facts[name].booted is not None and draw(st.integers(0, 5)) == 0]:
        booted = facts[name].booted
        assert booted is not None
        facts[name] = replace(facts[name], booted=replace(booted, kernel=booted.kernel.replace("6.12.7", "6.12.1")))
    voters = frozenset(draw(st.sets(st.sampled_from(hosts), max_size=3)))
    return Prepared(flake=a_flake(), facts=facts, closures=closures, problems=problems, voters=voters)


# --- graphs ----------------------------------------------------------------------------------------------------------


def retry_policies() -> st.SearchStrategy[RetryPolicy]:
    """One to four attempts."""
    return st.builds(
        RetryPolicy, attempts=st.integers(1, 4), backoff=st.floats(0, 10), jitter=st.sampled_from([0.0, 0.2])
    )


@st.composite
def plain_graphs(draw: st.DrawFn, *, max_tasks: int = 12) -> TaskGraph:
    """A random DAG without sections: each task depends, in any of the three ways, on earlier ones."""
    tasks: list[Task] = []
    for number in range(draw(st.integers(1, max_tasks))):
        earlier = [task.id for task in tasks]
        edges = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
        kinds = [draw(st.sampled_from(["requires", "requires", "after", "on_failure_of"])) for _ in edges]
        by_kind = {
            kind: frozenset(edge for edge, chosen in zip(edges, kinds, strict=True) if chosen == kind)
            for kind in ("requires", "after", "on_failure_of")
        }
        tasks.append(
            Task(
                id=TaskId(f"t{number}"),
                action=Stage(),
                pool=draw(st.sampled_from(Pool)),
                retry=draw(retry_policies()),
                **by_kind,  # type: ignore[arg-type]
            )
        )
    return TaskGraph(tasks)


@st.composite
def rollout_graphs(draw: st.DrawFn, *, max_hosts: int = 6) -> TaskGraph:
    """A graph of the shape ``plan`` makes: copies, a barrier, a section per host, rollbacks, waves, budgets, zones."""
    hosts = [HostName(f"h{number}") for number in range(draw(st.integers(1, max_hosts)))]
    rolls_back = draw(st.booleans())
    tasks: list[Task] = [Task(id=TaskId(f"{host}/copy"), action=Stage(), host=host, pool=Pool.COPY) for host in hosts]
    staged = Task(id=TaskId("fleet/staged"), action=Stage(), pool=Pool.WAIT, after=frozenset(t.id for t in tasks))
    tasks.append(staged)
    sections: list[Section] = []
    wave = 1
    for host in hosts:
        wave += draw(st.sampled_from([0, 0, 1]))
        steps = draw(st.sampled_from([("switch",), ("switch", "gate"), ("drain", "switch", "gate", "uncordon")]))
        chain = [TaskId(f"{host}/{step}") for step in steps]
        tasks += _chain(host, chain, frozenset({TaskId(f"{host}/copy")}), staged.id)
        exits = {chain[-1]}
        if rolls_back:
            back = TaskId(f"{host}/rollback")
            tasks.append(Task(id=back, action=Stage(), host=host, section=host, on_failure_of=frozenset(chain)))
            exits.add(back)
        sections.append(Section(host=host, wave=wave, exits=frozenset(exits)))
    return TaskGraph(tasks, sections, draw(rules_for(hosts)))


def _chain(host: HostName, chain: list[TaskId], first: frozenset[TaskId], staged: TaskId) -> list[Task]:
    before = [first, *(frozenset({task}) for task in chain[:-1])]
    return [
        Task(
            id=task,
            action=Stage(),
            host=host,
            section=host,
            requires=requires,
            after=frozenset({staged}) if requires is first else frozenset(),
        )
        for task, requires in zip(chain, before, strict=True)
    ]


@st.composite
def rules_for(draw: st.DrawFn, hosts: list[HostName]) -> Rules:
    """Budgets over random sets of hosts (limits from 1), zones, unhealthy hosts (also such as are not in the graph)."""
    everybody = [*hosts, HostName("elsewhere")]
    some = st.sets(st.sampled_from(everybody)).map(frozenset)
    budgets = [
        Budget(name=f"budget {number}", members=draw(some), limit=draw(st.integers(1, 3)))
        for number in range(draw(st.integers(0, 2)))
    ]
    budgets.append(Budget(name="all", members=frozenset(everybody), limit=draw(st.integers(1, 4))))
    zoned = draw(st.booleans())
    return Rules(
        budgets=tuple(budgets),
        domains={host: draw(st.sampled_from(["a", "b"])) for host in hosts} if zoned else {},
        unhealthy=draw(some) if draw(st.integers(0, 3)) == 0 else frozenset(),
        max_failures=draw(st.none() | st.integers(0, 2)),
        canaries=frozenset(hosts[:1]) if draw(st.booleans()) else frozenset(),
    )
