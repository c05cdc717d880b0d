"""A small in-memory cluster behind ports.cluster: nodes, pods, budgets, leases, and scripted bad days.

Time is the event loop's, so under trio's MockClock an hour of draining takes milliseconds. It deliberately has no
scheduler and no controllers beyond what draining needs: an evicted pod goes away, its replacement counts as healthy a
little later.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel

from nixkube_deploy.model.cluster import TO_COME_TAINT, DisruptionBudget, Lease, Node, Pod
from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.labels import label_selector
from nixkube_deploy.ports.cluster import Evicted, EvictionAnswer, LeaseConflict, MissingRight, NodePatch

NODE_LEASES = "kube-node-lease"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class LoopClock:
    """``ports.clock.Clock`` over the event loop's time, virtual where that is."""

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=anyio.current_time())

    def monotonic(self) -> float:
        return anyio.current_time()


@dataclass(slots=True, kw_only=True)
class _Leaving:
    pod: Pod
    gone_at: float
    replaced_at: float
    budgets: tuple[str, ...]


class FakeCluster:
    """The Cluster port. ``calls`` lists every write as ``verb object``; tests may look and touch everything.

    A pod's deletion takes ``termination`` seconds; ``replacement`` seconds later its budgets allow one more again.
    """

    def __init__(
        self,
        nodes: Iterable[Node] = (),
        pods: Iterable[Pod] = (),
        budgets: Iterable[DisruptionBudget] = (),
        *,
        termination: float = 1.0,
        replacement: float = 1.0,
    ) -> None:
        pods = tuple(pods)
        self._version = 0
        self.nodes_by_name: dict[str, Node] = {}
        for node in nodes:
            self.put_node(node)
        self.pods_by_key: dict[str, Pod] = {pod.key: pod for pod in pods}
        self.budgets_by_key: dict[str, DisruptionBudget] = {f"{b.namespace}/{b.name}": b for b in budgets}
        self.leases: dict[tuple[str, str], Lease] = {}
        self.daemonsets: set[str] = {f"{p.namespace}/{p.owner_name}" for p in pods if p.owner_kind == "DaemonSet"}
        self.drivers: Mapping[str, frozenset[str]] = {}
        self.healthz: dict[str, str | None] = defaultdict(lambda: "ok")
        self.lacks: tuple[MissingRight, ...] = ()
        self.termination, self.replacement = termination, replacement
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}
        """Method name to something that happens right before its next call, once: another client's interference."""
        self._faults: defaultdict[str, deque[Exception]] = defaultdict(deque)
        self._eviction_answers: defaultdict[str, deque[Evicted]] = defaultdict(deque)
        self._down_until = float("-inf")
        self._leaving: list[_Leaving] = []
        self.dead: set[str] = set()
        """Nodes without a kubelet: no pod of theirs ends."""
        self._heartbeats: dict[str, float] = {}

    # The script.

    def fails(self, method: str, *errors: Exception) -> "FakeCluster":
        """The next calls of ``method`` raise these, in order."""
        self._faults[method].extend(errors)
        return self

    def answers_eviction(self, pod: str, *answers: EvictionAnswer, message: str = "") -> "FakeCluster":
        """The next evictions of ``namespace/name`` are answered so, whatever the budgets say."""
        self._eviction_answers[pod].extend(Evicted(answer=answer, message=message) for answer in answers)
        return self

    def down_for(self, seconds: float) -> None:
        """The API refuses connections for a while."""
        self._down_until = anyio.current_time() + seconds

    def put_node(self, node: Node) -> Node:
        """Store a node as a server would: with a new resourceVersion."""
        stored = replace(node, resource_version=self._next_version())
        self.nodes_by_name[node.name] = stored
        return stored

    def put_pod(self, pod: Pod) -> None:
        """Store a pod."""
        self.pods_by_key[pod.key] = pod
        if pod.owner_kind == "DaemonSet":
            self.daemonsets.add(f"{pod.namespace}/{pod.owner_name}")

    def heartbeats(self, node: str, every: float | None = 10.0) -> None:
        """The node's kubelet renews its lease every so many seconds; None: it stops."""
        if every is None:
            lease = self._heartbeat(node)
            self._heartbeats.pop(node, None)
            self.leases[NODE_LEASES, node] = lease
        else:
            self._heartbeats[node] = every

    # The port.

    async def nodes(self) -> tuple[Node, ...]:
        await self._turn("nodes")
        return tuple(self.nodes_by_name.values())

    async def node(self, name: str) -> Node | None:
        await self._turn("node")
        return self.nodes_by_name.get(name)

    async def patch_node(self, name: str, patch: NodePatch) -> Node:
        await self._turn("patch_node")
        node = self.nodes_by_name.get(name)
        if node is None:
            raise task_error(FailureKind.CLUSTER, f"there is no Node {name}")
        if patch.resource_version not in {None, node.resource_version}:
            raise LeaseConflict(name)
        annotations = dict(node.annotations) | dict(patch.annotations)
        self.calls.append(f"patch_node {name}")
        marks = dict(patch.taints)
        return self.put_node(
            replace(
                node,
                annotations={key: value for key, value in annotations.items() if value is not None},
                marked_by=marks.get(TO_COME_TAINT, node.marked_by),
                unschedulable=node.unschedulable if patch.unschedulable is None else patch.unschedulable,
            )
        )

    async def node_healthz(self, name: str) -> str | None:
        await self._turn("node_healthz")
        return self.healthz[name]

    async def csi_drivers(self, node: str) -> frozenset[str]:
        await self._turn("csi_drivers")
        return self.drivers.get(node, frozenset())

    async def pods(self, node: str) -> tuple[Pod, ...]:
        await self._turn("pods")
        return tuple(pod for pod in self.pods_by_key.values() if pod.node == node)

    async def selected_pods(self, selector: str, namespace: str | None) -> tuple[Pod, ...]:
        await self._turn("selected_pods")
        wanted = label_selector(selector)
        return tuple(
            pod
            for pod in self.pods_by_key.values()
            if namespace in {None, pod.namespace} and all(each.admits(pod.labels) for each in wanted)
        )

    async def pod(self, namespace: str, name: str) -> Pod | None:
        await self._turn("pod")
        return self.pods_by_key.get(f"{namespace}/{name}")

    async def evict(self, pod: Pod, grace_period: int) -> Evicted:
        await self._turn("evict")
        self.calls.append(f"evict {pod.key}")
        if self._eviction_answers[pod.key]:
            scripted = self._eviction_answers[pod.key].popleft()
            if scripted.answer is EvictionAnswer.ACCEPTED:
                self._remove(pod.key, ())
            return scripted
        stored = self.pods_by_key.get(pod.key)
        if stored is None:
            return Evicted(answer=EvictionAnswer.GONE)
        if stored.uid != pod.uid:
            return Evicted(answer=EvictionAnswer.THROTTLED, message="the UID in the precondition does not match")
        if stored.is_finished or stored.phase == "Pending" or stored.deleting_since is not None:
            self._remove(pod.key, ())
            return Evicted(answer=EvictionAnswer.ACCEPTED)
        covering = [key for key, budget in self.budgets_by_key.items() if budget.selects(stored)]
        if len(covering) > 1:
            return Evicted(
                answer=EvictionAnswer.MULTIPLE_BUDGETS, message="This pod has more than one PodDisruptionBudget"
            )
        if any(self.budgets_by_key[key].disruptions_allowed < 1 for key in covering):
            message = f"The disruption budget {covering[0].partition('/')[2]} needs all of its healthy pods"
            return Evicted(answer=EvictionAnswer.BUDGET, message=message)
        self._remove(pod.key, tuple(covering))
        return Evicted(answer=EvictionAnswer.ACCEPTED)

    async def delete_pod(self, pod: Pod, grace_period: int) -> None:
        await self._turn("delete_pod")
        self.calls.append(f"delete {pod.key}")
        if (stored := self.pods_by_key.get(pod.key)) is not None and stored.uid == pod.uid:
            self._remove(pod.key, ())

    async def daemonset_exists(self, namespace: str, name: str) -> bool:
        await self._turn("daemonset_exists")
        return f"{namespace}/{name}" in self.daemonsets

    async def budgets(self) -> tuple[DisruptionBudget, ...]:
        await self._turn("budgets")
        return tuple(self.budgets_by_key.values())

    async def lease(self, namespace: str, name: str) -> Lease | None:
        await self._turn("lease")
        if namespace == NODE_LEASES and name in self._heartbeats:
            return self._heartbeat(name)
        return self.leases.get((namespace, name))

    async def put_lease(self, lease: Lease) -> Lease:
        await self._turn("put_lease")
        stored = self.leases.get((lease.namespace, lease.name))
        if stored is not None and stored.resource_version != lease.resource_version:
            raise LeaseConflict(lease.name)
        written = replace(lease, renew_time=_stamp(anyio.current_time()), resource_version=self._next_version())
        self.leases[lease.namespace, lease.name] = written
        self.calls.append(f"put_lease {lease.namespace}/{lease.name}")
        return written

    async def delete_lease(self, lease: Lease) -> None:
        await self._turn("delete_lease")
        stored = self.leases.get((lease.namespace, lease.name))
        if stored is not None and lease.resource_version not in {"", stored.resource_version}:
            raise LeaseConflict(lease.name)
        self.leases.pop((lease.namespace, lease.name), None)
        self.calls.append(f"delete_lease {lease.namespace}/{lease.name}")

    async def missing_rights(self) -> tuple[MissingRight, ...]:
        await self._turn("missing_rights")
        return self.lacks

    # Inside.

    async def _turn(self, method: str) -> None:
        await anyio.lowlevel.checkpoint()
        now = anyio.current_time()
        if now < self._down_until:
            raise task_error(FailureKind.CLUSTER, "the Kubernetes API refused the connection", transient=True)
        if self._faults[method]:
            raise self._faults[method].popleft()
        if interference := self.before.pop(method, None):
            interference()
        self._pass_time(now)

    def _pass_time(self, now: float) -> None:
        for leaving in list(self._leaving):
            stored = self.pods_by_key.get(leaving.pod.key)
            dead = leaving.pod.node in self.dead
            if now >= leaving.gone_at and not dead and stored is not None and stored.uid == leaving.pod.uid:
                del self.pods_by_key[leaving.pod.key]
            if now >= leaving.replaced_at and not dead:
                self._leaving.remove(leaving)
                for key in self.budgets_by_key.keys() & leaving.budgets:
                    budget = self.budgets_by_key[key]
                    allowed = budget.disruptions_allowed + 1
                    self.budgets_by_key[key] = replace(budget, disruptions_allowed=allowed)

    def _remove(self, key: str, budgets: tuple[str, ...]) -> None:
        pod, now = self.pods_by_key[key], anyio.current_time()
        if pod.deleting_since is not None:
            return
        for budget in budgets:
            allowed = self.budgets_by_key[budget].disruptions_allowed - 1
            self.budgets_by_key[budget] = replace(self.budgets_by_key[budget], disruptions_allowed=allowed)
        gone = now + self.termination
        self.pods_by_key[key] = replace(pod, deleting_since=(EPOCH + timedelta(seconds=gone)).timestamp())
        self._leaving.append(_Leaving(pod=pod, gone_at=gone, replaced_at=gone + self.replacement, budgets=budgets))

    def _heartbeat(self, node: str) -> Lease:
        every = self._heartbeats[node]
        beat = anyio.current_time() // every
        return Lease(
            namespace=NODE_LEASES,
            name=node,
            holder=node,
            renew_time=_stamp(beat * every),
            duration=40,
            resource_version=f"{beat:g}",
        )

    def _next_version(self) -> str:
        self._version += 1
        return str(self._version)


def _stamp(seconds: float) -> str:
    return (EPOCH + timedelta(seconds=seconds)).isoformat(timespec="microseconds")
