"""Which pods leave a node, and how one of them is made to leave: kubectl drain's filters and its loop per pod.

It deliberately knows nothing of cordons, owners and deadlines: ``disruption`` decides those.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from nixkube_deploy.model.cluster import DisruptionBudget, Pod
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.cluster import Cluster, EvictionAnswer
from nixkube_deploy.protocols.nodes import is_unreachable

T = TypeVar("T")

BACK_OFF = (0.5, 1.0, 2.0, 4.0, 5.0)
"""Seconds before asking again for an eviction that a budget refused; the last one repeats (kubectl: 5)."""
POLLS = (0.25, 0.25, 0.5, 0.5, 1.0)
"""Seconds between looks at a terminating pod; the last one repeats (kubectl: 1)."""
POLL = 1.0
"""Seconds before asking an API again that did not answer."""
PAST_GRACE = 5.0
"""Seconds past its grace period after which a pod of an unreachable Node is waited for no longer, as kubectl's
``--skip-wait-for-delete-timeout``: only a kubelet ends pods, and there is none to be heard."""
CALLS_AT_ONCE = 10
"""Requests in flight for one node. Waiting holds no place, so no pod can block another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedPods:
    """A node's pods by what draining does with them."""

    leave: tuple[Pod, ...] = ()
    stay: tuple[Pod, ...] = ()
    """DaemonSet and mirror pods."""
    refused: tuple[tuple[Pod, str], ...] = ()
    """Pods that policy forbids to remove, and the option that would allow it. One of these and nothing is evicted."""


async def sorted_pods(
    cluster: Cluster, node: str, options: DrainOptions, known: dict[str, bool] | None = None
) -> SortedPods:
    """The pods of a node, sorted. ``known`` remembers of DaemonSets whether they exist, from Node to Node."""
    pods, exists = await cluster.pods(node), {} if known is None else known
    for key in sorted({key for pod in pods if (key := daemonset_of(pod)) is not None} - exists.keys()):
        exists[key] = await cluster.daemonset_exists(*key.split("/", 1))
    return sort_pods(pods, options, exists)


def sort_pods(pods: Iterable[Pod], options: DrainOptions, daemonset_exists: Mapping[str, bool]) -> SortedPods:
    """Sort pods as kubectl's filters do, in their order: DaemonSet, mirror, emptyDir, unmanaged.

    ``daemonset_exists`` says of each ``namespace/name`` of a DaemonSet whether it is still there.
    """
    leave: list[Pod] = []
    stay: list[Pod] = []
    refused: list[tuple[Pod, str]] = []
    for pod in pods:
        match _judge(pod, options, daemonset_exists):
            case None:
                leave.append(pod)
            case "":
                stay.append(pod)
            case reason:
                refused.append((pod, reason))
    return SortedPods(leave=tuple(leave), stay=tuple(stay), refused=tuple(refused))


def daemonset_of(pod: Pod) -> str | None:
    """``namespace/name`` of the DaemonSet that owns the pod."""
    return f"{pod.namespace}/{pod.owner_name}" if pod.owner_kind == "DaemonSet" else None


def _judge(pod: Pod, options: DrainOptions, daemonset_exists: Mapping[str, bool]) -> str | None:
    """None: leaves. Empty: stays. Anything else: why it may not be removed."""
    daemonset = daemonset_of(pod)
    if daemonset is not None and not pod.is_finished:
        if daemonset_exists.get(daemonset, True):
            return ""
        if not options.force:
            return f"its DaemonSet {daemonset} is gone: drain.force would delete it"
    if pod.is_mirror:
        return ""
    if pod.is_finished:
        return None
    if pod.has_emptydir and not options.delete_emptydir_data:
        return "it has emptyDir data: drain.delete_emptydir_data would delete it"
    if pod.owner_kind is None and not options.force:
        return "nothing would start it again (no controller): drain.force would delete it"
    return None


def subject_to_budget(pod: Pod) -> bool:
    """Whether budgets count for the pod at all; the API ignores them for these others."""
    return not pod.is_finished and pod.phase != "Pending" and pod.deleting_since is None


def doubly_covered(pods: Iterable[Pod], budgets: Iterable[DisruptionBudget]) -> tuple[tuple[Pod, tuple[str, ...]], ...]:
    """Pods that more than one budget covers: no eviction of these can ever succeed."""
    budgets = tuple(budgets)
    found = []
    for pod in filter(subject_to_budget, pods):
        covering = tuple(f"{b.namespace}/{b.name}" for b in budgets if b.selects(pod))
        if len(covering) > 1:
            found.append((pod, covering))
    return tuple(found)


def is_abandoned(pod: Pod, clock: Clock) -> bool:
    """Whether it should have ended by now. That it never will is true only where its Node is unreachable, too."""
    return pod.deleting_since is not None and clock.now().timestamp() > pod.deleting_since + PAST_GRACE


class PermanentlyHeld(Exception):  # noqa: N818 (what is the case)
    """No amount of waiting lets this pod go: more than one budget covers it."""

    def __init__(self, pod: Pod, message: str) -> None:
        super().__init__(message)
        self.pod = pod


@dataclass(slots=True, kw_only=True)
class Evictor:
    """Makes pods leave and remembers how far it got, so that a deadline can say what was in the way."""

    cluster: Cluster
    clock: Clock
    node: str
    options: DrainOptions
    report: Callable[[str], None]
    limiter: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(CALLS_AT_ONCE))
    waiting: dict[str, str] = field(default_factory=dict)
    """Pod key to what it waits for, in words."""
    held_by_budget: dict[str, Pod] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    """Pods that are deleted, and that an unreachable Node's kubelet has not ended."""
    _silent: bool = False
    _looked_at_node: float = float("-inf")
    _unreachable: bool = False

    async def remove(self, pod: Pod) -> None:
        """Evict (or delete) one pod and wait until it is gone, or left behind. Has no deadline of its own.

        Raises:
            PermanentlyHeld: two budgets cover it.
            TaskError: CLUSTER, the API refuses for good.
        """
        await self._ask_until_accepted(pod)
        ended = await self._wait_until_gone(pod)
        self.waiting.pop(pod.key, None)
        (self.gone if ended else self.left_behind).append(pod.key)

    async def steadily(self, call: Callable[[], Awaitable[T]], why: str) -> T:
        """Call until the API answers: it restarts while a control plane reboots. Only final refusals are raised."""
        while True:
            try:
                async with self.limiter:
                    answer = await call()
            except TaskError as error:
                if not error.failure.transient:
                    raise
                self._say_once(f"{why}: {error.failure.message}; trying again")
            else:
                self._silent = False
                return answer
            await anyio.sleep(POLL)

    def _say_once(self, line: str) -> None:
        """One line an outage, not one a pod and second."""
        if not self._silent:
            self.report(line)
        self._silent = True

    async def _ask_until_accepted(self, pod: Pod) -> None:
        if pod.deleting_since is not None:
            return
        if self.options.disable_eviction:
            self.waiting[pod.key] = "its deletion"
            await self.steadily(lambda: self.cluster.delete_pod(pod, self.options.grace_period), f"deleting {pod.key}")
            return
        refusals = 0
        while await self._refused(pod, refusals):
            now = await self._look(pod)
            if now is None or now.deleting_since is not None:
                return
            await anyio.sleep(BACK_OFF[min(refusals, len(BACK_OFF) - 1)])
            refusals += 1

    async def _refused(self, pod: Pod, refusals: int) -> bool:
        """Ask once; True when it has to be asked again."""
        self.waiting.setdefault(pod.key, "its eviction")
        evicted = await self.steadily(lambda: self.cluster.evict(pod, self.options.grace_period), f"evicting {pod.key}")
        self.held_by_budget.pop(pod.key, None)
        match evicted.answer:
            case EvictionAnswer.ACCEPTED | EvictionAnswer.GONE:
                return False
            case EvictionAnswer.MULTIPLE_BUDGETS:
                raise PermanentlyHeld(pod, evicted.message)
            case EvictionAnswer.BUDGET:
                self.held_by_budget[pod.key] = pod
                self.waiting[pod.key] = "a disruption budget" + (f": {evicted.message}" if evicted.message else "")
                if refusals == 0:
                    self.report(f"{pod.key} waits for {self.waiting[pod.key]}")
            case EvictionAnswer.THROTTLED:
                self.waiting[pod.key] = f"the API to take its eviction: {evicted.message or 'too many requests'}"
            case EvictionAnswer.TERMINATING:
                self.waiting[pod.key] = f"namespace {pod.namespace}, which is terminating"
            case EvictionAnswer.FAILED:
                self.waiting[pod.key] = f"the API to take its eviction, which fails: {evicted.message}"
                if refusals == 0:
                    self.report(f"{pod.key} waits for {self.waiting[pod.key]}")
        return True

    async def _wait_until_gone(self, pod: Pod) -> bool:
        """False: it never will be, because its Node is unreachable."""
        self.waiting[pod.key] = "its containers to end"
        looks = 0
        while (now := await self._look(pod)) is not None:
            if is_abandoned(now, self.clock) and await self.is_unreachable():
                return False
            await anyio.sleep(POLLS[min(looks, len(POLLS) - 1)])
            looks += 1
        return True

    async def is_unreachable(self) -> bool:
        """Whether the Node is, as far as it was looked at in the last second."""
        if self.clock.monotonic() - self._looked_at_node >= POLL:
            self._looked_at_node = self.clock.monotonic()
            node = await self.steadily(lambda: self.cluster.node(self.node), f"looking at Node {self.node}")
            self._unreachable = node is not None and is_unreachable(node)
        return self._unreachable

    async def _look(self, pod: Pod) -> Pod | None:
        """The pod now. A pod of the same name with another UID is a StatefulSet's next one: ours is gone."""
        now = await self.steadily(lambda: self.cluster.pod(pod.namespace, pod.name), f"looking at {pod.key}")
        return now if now is not None and now.uid == pod.uid else None
