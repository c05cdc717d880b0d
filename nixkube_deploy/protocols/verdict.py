"""Is the node back? The pure half of the health gate: what was observed, what follows from it, since when.

Each look is taken in stages (host, Node, its pods, user gates) and stops at the first stage with something closed;
so a look is complete whenever all its conjuncts hold. It deliberately asks nothing and waits for nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nixkube_deploy.model.cluster import Node, Pod
from nixkube_deploy.model.etcd import LAG, Voice
from nixkube_deploy.model.strategy import PodsGate
from nixkube_deploy.protocols.nodes import gone_taints

RENEWALS = 2
"""How often the Lease must be seen to change. Ready alone stays True for up to 55 s after a kubelet dies."""
PASSES = 2
"""Complete passes in a row before the holding time begins."""
CRITICAL = frozenset({"system-node-critical", "system-cluster-critical"})
"""Priority classes whose pods the cluster cannot do without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What "back" means for one host."""

    node: bool
    rebooted_from: str | None = None
    pods: PodsGate = PodsGate()
    renewals: int = RENEWALS
    etcd: bool = False
    kubernetes: str = ""
    """The version the kubelet must be of; empty: any."""
    csi_drivers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """What the host itself said over SSH."""

    boot_id: str
    kernel: str = ""
    machine_id: str = ""
    kubelet: str | None = "ok"
    """The kubelet's answer or error; None where it could not be asked."""
    etcd: Voice | None = None
    """What its etcd member says; None where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """What the API said of the Node; None when there is no such Node."""

    node: Node | None
    renew_time: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InsideSeen:
    """What goes on inside the node: ``proxy`` None where asking through the API is not allowed."""

    proxy: str | None = "ok"
    pods: tuple[Pod, ...] = ()
    csi_drivers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conjunct:
    """One of the things that must all hold. ``name`` is stable; ``seen`` is for people."""

    name: str
    holds: bool
    expected: str
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look. A text in place of a stage says why it could not be seen; None: not asked."""

    at: float
    host: HostSeen | str
    node: NodeSeen | str | None = None
    inside: InsideSeen | str | None = None
    users: tuple[Conjunct, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewals:
    """How often the Node's Lease was seen to move since the host's boot was the Node's boot."""

    boot_id: str = ""
    last: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Everything seen so far, folded."""

    passes: int = 0
    holding_since: float | None = None
    """When the last unbroken holding began, at its second pass."""
    closed_since: Mapping[str, float] = field(default_factory=dict)
    last: tuple[Conjunct, ...] = ()
    epoch: str = ""
    """What ``epoch_of`` said at the last look."""

    @property
    def closed(self) -> tuple[Conjunct, ...]:
        """What did not hold at the last look."""
        return tuple(conjunct for conjunct in self.last if not conjunct.holds)

    def is_open(self, at: float, ready_for: float) -> bool:
        """Whether everything has held for long enough."""
        return self.holding_since is not None and at - self.holding_since >= ready_for


def epoch_of(seen: Observation) -> str:
    """Since when the Node has been Ready, in the API's words: it changes when the Node flapped between two looks."""
    node = seen.node.node if isinstance(seen.node, NodeSeen) else None
    return node.ready_since if node is not None else ""


def watch_on(watch: Watch, at: float, conjuncts: tuple[Conjunct, ...], epoch: str = "") -> Watch:
    """The watch after one more look. Something that closed, even between looks, starts the holding time anew."""
    passed = bool(conjuncts) and all(conjunct.holds for conjunct in conjuncts)
    unbroken = passed and epoch == watch.epoch
    passes = (watch.passes if unbroken else 0) + 1 if passed else 0
    since = watch.holding_since if unbroken else None
    return Watch(
        passes=passes,
        holding_since=at if since is None and passes >= PASSES else since,
        closed_since={c.name: watch.closed_since.get(c.name, at) for c in conjuncts if not c.holds},
        last=conjuncts,
        epoch=epoch,
    )


def count_renewals(before: Renewals, seen: Observation) -> Renewals:
    """Count changes of renewTime, from the moment the API knows of the boot the host is in."""
    if not isinstance(seen.host, HostSeen) or not isinstance(seen.node, NodeSeen) or seen.node.node is None:
        return before
    boot_id = seen.host.boot_id
    if seen.node.node.boot_id != boot_id:
        return Renewals()
    if before.boot_id != boot_id:
        return Renewals(boot_id=boot_id, last=seen.node.renew_time)
    if seen.node.renew_time in {"", before.last}:
        return before
    return replace(before, last=seen.node.renew_time, count=before.count + (1 if before.last else 0))


def verdict(expect: Expectation, seen: Observation, renewals: Renewals) -> tuple[Conjunct, ...]:
    """Every conjunct that this look can tell of."""
    if isinstance(seen.host, str):
        return (Conjunct(name="ssh", holds=False, expected="an answer over SSH", seen=seen.host),)
    found = _of_host(expect, seen.host)
    if expect.node and seen.node is not None:
        found += _of_node(expect, seen.host, seen.node, renewals.count)
    if expect.node and seen.inside is not None:
        found += _of_inside(expect, seen.inside)
    return found + (seen.users or ())


def _of_host(expect: Expectation, host: HostSeen) -> tuple[Conjunct, ...]:
    found = [Conjunct(name="ssh", holds=True, expected="an answer over SSH", seen="it answers")]
    if expect.rebooted_from is not None:
        new = host.boot_id != expect.rebooted_from
        seen = f"boot {host.boot_id}" + ("" if new else ", as before the reboot")
        expected = f"another boot than {expect.rebooted_from}"
        found.append(Conjunct(name="rebooted", holds=new, expected=expected, seen=seen))
    if expect.node:
        answer = "not asked: curl is not on the host" if host.kubelet is None else host.kubelet
        holds = host.kubelet in {None, "ok"}
        found.append(Conjunct(name="kubelet", holds=holds, expected="ok from the kubelet's /healthz", seen=answer))
    if expect.etcd:
        found.append(_of_etcd(host.etcd))
    return tuple(found)


def _of_etcd(voice: Voice | None) -> Conjunct:
    """Its health is a read through the leader: a healthy member knows what was committed. Has it taken that over?"""
    seen = "it has no etcd member any more" if voice is None else str(voice)
    behind = voice.index - voice.applied if voice is not None else 0
    if voice is not None and voice.serves and behind > LAG:
        seen = f"{behind} entries behind its log"
    holds = voice is not None and voice.serves and not voice.alarms and behind <= LAG
    return Conjunct(name="etcd", holds=holds, expected="an etcd member that votes and has caught up", seen=seen)


def _of_node(expect: Expectation, host: HostSeen, seen: NodeSeen | str, renewed: int) -> tuple[Conjunct, ...]:
    if isinstance(seen, str):
        return (Conjunct(name="api", holds=False, expected="an answer of the Kubernetes API", seen=seen),)
    node = seen.node
    if node is None:
        return (Conjunct(name="node", holds=False, expected="a registered Node", seen="no Node is this host"),)
    taints = gone_taints(node)
    return (
        Conjunct(
            name="boot",
            holds=node.boot_id == host.boot_id,
            expected=f"the Node's bootID to be the host's, {host.boot_id}",
            seen=node.boot_id or "(none)",
        ),
        Conjunct(
            name="kernel",
            holds=not host.kernel or node.kernel_version == host.kernel,
            expected=f"the Node's kernel to be the host's, {host.kernel}",
            seen=node.kernel_version or "(none)",
        ),
        Conjunct(
            name="version",
            holds=not expect.kubernetes or _release(node.kubelet_version) == _release(expect.kubernetes),
            expected=f"a kubelet of version {expect.kubernetes or '(any)'}",
            seen=node.kubelet_version or "(none)",
        ),
        Conjunct(
            name="lease",
            holds=renewed >= expect.renewals,
            expected=f"its Lease renewed {expect.renewals} times since",
            seen=f"renewed {renewed} of {expect.renewals} times",
        ),
        Conjunct(name="ready", holds=node.ready == "True", expected="Ready=True", seen=_readiness(node)),
        Conjunct(
            name="taints",
            holds=not taints,
            expected="no not-ready or unreachable taint",
            seen=", ".join(taints) or "(none)",
        ),
    )


def _release(version: str) -> str:
    """``1.31.4`` of ``v1.31.4+k3s1``: who built it does not matter."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return match[1] if match else version


def _readiness(node: Node) -> str:
    reason = ": ".join(part for part in (node.ready_reason, node.ready_message) if part)
    return f"Ready={node.ready}" + (f" ({reason})" if reason else "")


def _of_inside(expect: Expectation, seen: InsideSeen | str) -> tuple[Conjunct, ...]:
    if isinstance(seen, str):
        return (Conjunct(name="api", holds=False, expected="an answer of the Kubernetes API", seen=seen),)
    proxy = "not asked: not allowed" if seen.proxy is None else seen.proxy
    holds = seen.proxy in {None, "ok"}
    found = [Conjunct(name="proxy", holds=holds, expected="ok from the kubelet through the API", seen=proxy)]
    if expect.csi_drivers:
        gone = ", ".join(sorted(expect.csi_drivers - seen.csi_drivers))
        expected, told = "every storage driver of before", f"not registered: {gone}" if gone else "registered"
        found.append(Conjunct(name="csi", holds=not gone, expected=expected, seen=told))
    gate = expect.pods
    if gate.daemonsets:
        pods = [pod for pod in seen.pods if pod.owner_kind == "DaemonSet"]
        found.append(all_ready("daemonsets", "DaemonSet pods", pods))
    if gate.critical:
        pods = [pod for pod in seen.pods if pod.priority_class in CRITICAL and pod.owner_kind != "DaemonSet"]
        leaving = [pod for pod in pods if pod.deleting_since is None]
        found.append(all_ready("critical", "system-critical pods", leaving))
    return tuple(found)


def all_ready(name: str, what: str, pods: list[Pod], at_least: int = 0) -> Conjunct:
    """Whether every pod that has not finished is Ready, and there are enough of them."""
    counted = [pod for pod in pods if not pod.is_finished]
    bad = sorted(pod.key for pod in counted if not pod.ready or pod.deleting_since is not None)
    shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")  # noqa: PLR2004 (three named)
    seen = f"not ready: {shown}" if bad else f"{len(counted)} ready"
    enough = f", at least {at_least}" if at_least else ""
    holds = not bad and len(counted) >= at_least
    return Conjunct(name=name, holds=holds, expected=f"all {what} Ready{enough}", seen=seen)
