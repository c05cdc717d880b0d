"""Small fleets, facts, closures and graphs from one line of text, for every test that needs a world to talk about.

Values only: nothing here touches a disk, a network or a clock.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from nixkube_deploy.model.action import Stage
from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.closure import Closure, FlakeState
from nixkube_deploy.model.facts import DiskSpace, HostFacts, NodeFacts, SystemContents
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Cluster, Distribution, Fleet, Group, Host, Role
from nixkube_deploy.model.names import GroupName, HostName, NodeName, StorePath, TaskId
from nixkube_deploy.model.strategy import HostPolicy, Strategy
from nixkube_deploy.model.task import Rules, Section, Task, TaskGraph

_NIX32 = "0123456789abcdfghijklmnpqrsvwxyz"
_UNIT = {
    Distribution.K3S: "k3s.service",
    Distribution.RKE2: "rke2-agent.service",
    Distribution.KUBERNETES: "kubelet.service",
    Distribution.NONE: "",
}


# --- names -----------------------------------------------------------------------------------------------------------


def names(text: str) -> tuple[HostName, ...]:
    """``"cp1 w1..w3"`` -> cp1, w1, w2, w3; commas and blanks separate."""
    return tuple(name for word in re.split(r"[\s,]+", text.strip()) if word for name in _spread(word))


def _spread(word: str) -> Iterator[HostName]:
    first, dots, last = word.partition("..")
    if not dots:
        yield HostName(word)
        return
    (prefix, low), (_, high) = _numbered(first), _numbered(last)
    for number in range(int(low), int(high) + 1):
        yield HostName(f"{prefix}{number:0{len(low)}}")


def _numbered(word: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.*?)(\d+)", word)
    assert match, f"{word!r} does not end in a number"
    return match[1], match[2]


# --- the fleet -------------------------------------------------------------------------------------------------------


def a_host(name: str = "w1", **fields: object) -> Host:
    """A host; one whose name begins with ``cp`` is a control-plane host."""
    control = name.startswith("cp")
    host = Host(
        name=HostName(name),
        address=f"{name}.lan",
        groups=(GroupName("control-plane" if control else "workers"),),
        role=Role.CONTROL_PLANE if control else Role.WORKER,
    )
    return replace(host, **fields)  # type: ignore[arg-type]


def a_fleet(
    text: str = "cp1 cp2 cp3 | w1..w3",
    *,
    strategy: Strategy | None = None,
    distribution: Distribution = Distribution.K3S,
    zones: str = "",
    **fields: object,
) -> Fleet:
    """``"cp1 cp2 cp3 | w1..w9 | storage: s1 s2"``: groups between bars, ``name:`` optional.

    The group of names that begin with ``cp`` is the control plane. ``zones="a b c"`` labels hosts ``zone=a``, ``b``,
    ``c``, ``a`` ... in turn. The strategy's ``host`` policy becomes every host's. ``fields`` are fields of ``Fleet``.
    """
    strategy = strategy or Strategy()
    hosts: dict[HostName, Host] = {}
    groups: dict[GroupName, Group] = {}
    ring = zones.split()
    for part in text.split("|"):
        title, _, members = part.rpartition(":")
        control = members.strip().startswith("cp")
        group = GroupName(title.strip() or ("control-plane" if control else "workers"))
        before = groups[group].members if group in groups else ()
        groups[group] = Group(name=group, members=before + names(members))
        for name in names(members):
            hosts[name] = a_host(
                name,
                groups=(group,),
                policy=strategy.host,
                labels={"zone": ring[len(hosts) % len(ring)]} if ring else {},
            )
    fleet = Fleet(
        cluster=Cluster(name="lab", distribution=distribution),
        flake="/flake",
        hosts=hosts,
        groups=groups,
        strategy=strategy,
        source="/etc/fleet/inventory.yaml",
    )
    return replace(fleet, **fields)  # type: ignore[arg-type]


def with_hosts(fleet: Fleet, text: str, **fields: object) -> Fleet:
    """The fleet with ``fields`` of the hosts in ``text`` replaced."""
    chosen = {name: replace(fleet.hosts[name], **fields) for name in names(text)}  # type: ignore[arg-type]
    return replace(fleet, hosts={**fleet.hosts, **chosen})


def with_policy(fleet: Fleet, policy: HostPolicy) -> Fleet:
    """The fleet with one host policy everywhere."""
    hosts = {name: replace(host, policy=policy) for name, host in fleet.hosts.items()}
    return replace(fleet, hosts=hosts, strategy=replace(fleet.strategy, host=policy))


# --- systems ---------------------------------------------------------------------------------------------------------


def store_path(name: str, salt: str = "") -> StorePath:
    """``/nix/store/<32 characters>-<name>``, the same for the same name and salt."""
    digest = hashlib.sha256(f"{name}\0{salt}".encode()).digest()
    return StorePath(f"/nix/store/{''.join(_NIX32[byte % 32] for byte in digest)}-{name}")


def a_system(
    host: str = "w1",
    *,
    kernel: str = "6.12.7",
    kubernetes: str = "1.31.4",
    salt: str = "",
    distribution: Distribution = Distribution.K3S,
    **fields: object,
) -> SystemContents:
    """The contents of a system closure: equal arguments, equal paths."""
    unit = _UNIT[distribution]
    contents = SystemContents(
        path=StorePath(""),
        kernel=store_path(f"linux-{kernel}") + "/bzImage",
        initrd=store_path(f"initrd-linux-{kernel}") + "/initrd",
        kernel_modules=store_path(f"linux-{kernel}-modules"),
        kernel_params="loglevel=4 lsm=landlock,yama,bpf",
        systemd=store_path("systemd-257.1"),
        units={unit: store_path(f"unit-{unit}", kubernetes) + f"/{unit}"} if unit else {},
    )
    contents = replace(contents, **fields)  # type: ignore[arg-type]
    return replace(contents, path=store_path(f"nixos-system-{host}-25.11", f"{salt}{contents!r}"))


_CHANGED: dict[ChangeClass, dict[str, str]] = {
    ChangeClass.UNCHANGED: {},
    ChangeClass.LIVE: {"salt": "2"},
    ChangeClass.NODE_RESTART: {"kubernetes": "1.31.5"},
    ChangeClass.REBOOT: {"kernel": "6.12.8"},
    ChangeClass.INSTALL: {},
}


def facts_for(fleet: Fleet, *, bare: str = "", unready: str = "", leftover: str = "") -> dict[HostName, HostFacts]:
    """What a probe of a healthy fleet finds; hosts in ``bare`` run Debian, in ``unready`` their Node is not Ready,
    in ``leftover`` a run that died had cordoned them.
    """
    return {
        name: facts_of(
            host,
            distribution=fleet.cluster.distribution,
            bare=name in names(bare),
            ready=name not in names(unready),
            cordoned_by="20260101T000000Z-dead" if name in names(leftover) else None,
        )
        for name, host in fleet.hosts.items()
    }


def facts_of(
    host: Host,
    *,
    distribution: Distribution = Distribution.K3S,
    bare: bool = False,
    ready: bool = True,
    cordoned_by: str | None = None,
) -> HostFacts:
    """What a probe of one host finds."""
    seed = hashlib.sha256(host.name.encode()).hexdigest()
    facts = HostFacts(
        host=host.name,
        system=host.system,
        boot_id=f"boot-{seed[:8]}",
        machine_id=seed[:32],
        kernel_release="6.1.0",
        os_id="debian",
        hostname=host.name,
        serial=f"SN-{host.name}",
    )
    if bare:
        return facts
    system = a_system(host.name, distribution=distribution)
    node = NodeFacts(
        name=NodeName(host.name),
        ready=ready,
        unschedulable=cordoned_by is not None,
        cordoned_by=cordoned_by,
        boot_id=facts.boot_id,
        kernel_version="6.12.7",
        kubelet_version="v1.31.4+k3s1",
    )
    return replace(
        facts,
        os_id="nixos",
        kernel_release="6.12.7",
        current=system,
        booted=system,
        profile=system.path,
        generation=7,
        loader="systemd-boot",
        disk=DiskSpace(store=50 * 2**30, boot=400 * 2**20),
        node=node if distribution.has_kubelet else None,
    )


def closures_for(fleet: Fleet, *, changed: str = "") -> dict[HostName, Closure]:
    """What the flake says: the running system, except for ``changed``: ``"w1..w3=live cp1=reboot w4"``.

    The word after ``=`` is a change class; without one it is ``node-restart``. ``install`` adds a disko script.
    """
    classes = dict(_changes(changed))
    return {name: _closure(host, classes.get(name), fleet) for name, host in fleet.hosts.items()}


def _changes(text: str) -> Iterator[tuple[HostName, ChangeClass]]:
    for word in re.split(r"[\s,]+", text.strip()):
        hosts, equals, kind = word.partition("=")
        for name in names(hosts):
            yield name, ChangeClass(kind) if equals else ChangeClass.NODE_RESTART


def _closure(host: Host, kind: ChangeClass | None, fleet: Fleet) -> Closure:
    changes: Mapping[str, str] = _CHANGED[kind or ChangeClass.UNCHANGED]
    contents = a_system(host.name, distribution=fleet.cluster.distribution, **changes)
    return Closure(
        host=host.name,
        drv=contents.path + ".drv",
        contents=contents,
        system=host.system,
        disko=store_path(f"disko-{host.name}") if kind is ChangeClass.INSTALL else None,
    )


def a_flake() -> FlakeState:
    """The flake's state."""
    return FlakeState(url="git+file:///flake", revision="1f2e3d4c5b6a798877665544332211000ffeeddc")


def a_failure(message: str = "no answer on port 22", kind: FailureKind = FailureKind.UNREACHABLE) -> Failure:
    """One expected failure."""
    return Failure(kind=kind, message=message)


# --- graphs ----------------------------------------------------------------------------------------------------------

_EDGES = {">": "requires", "~": "after", "!": "on_failure_of"}


def a_graph(
    text: str,
    *,
    sections: Mapping[str, str] | None = None,
    waves: Mapping[str, int] | None = None,
    rules: Rules = Rules(),
    task: Task | None = None,
) -> TaskGraph:
    """``"build>copy>drain; a,b>gate; drain!undrain"``: ``a>b`` is b requires a, ``a~b`` b after a, ``a!b`` b on failure
    of a; commas name several tasks, semicolons separate chains. The part of an id before ``/`` is its host.

    ``sections={"w1": "w1/cordon w1/drain -> w1/drain"}`` puts tasks into w1's section; the ids after ``->`` are its
    exits (else the last one is). ``waves`` are 1 unless given. ``task`` is the pattern for retry, timeout and pool.
    """
    edges: dict[str, dict[str, set[TaskId]]] = {}
    for chain in text.split(";"):
        parts = re.split(r"\s*([>~!])\s*", chain.strip())
        for left, edge, right in zip([None, *parts[:-2:2]], ["", *parts[1::2]], parts[::2], strict=True):
            for name in right.replace(",", " ").split():
                kinds = edges.setdefault(name, {})
                if left is not None:
                    kinds.setdefault(_EDGES[edge], set()).update(map(TaskId, left.replace(",", " ").split()))
    placed, made = _sections(sections or {}, waves or {})
    pattern = task or Task(id=TaskId(""), action=Stage())
    tasks = [
        replace(
            pattern,
            id=TaskId(name),
            host=HostName(name.partition("/")[0]) if "/" in name else None,
            section=placed.get(name),
            **{kind: frozenset(ids) for kind, ids in kinds.items()},  # type: ignore[arg-type]
        )
        for name, kinds in edges.items()
    ]
    return TaskGraph(tasks, made, rules)


def _sections(sections: Mapping[str, str], waves: Mapping[str, int]) -> tuple[dict[str, HostName], list[Section]]:
    placed: dict[str, HostName] = {}
    made: list[Section] = []
    for host, text in sections.items():
        members, _, exits = text.partition("->")
        placed |= dict.fromkeys(members.split(), HostName(host))
        made.append(
            Section(
                host=HostName(host),
                wave=waves.get(host, 1),
                exits=frozenset(map(TaskId, exits.split() or members.split()[-1:])),
            )
        )
    return placed, made
