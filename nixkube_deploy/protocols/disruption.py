"""Taking a node out of service and giving it back: cordon, drain, uncordon, each safe to repeat after a crash.

A node is owned before it is cordoned: owner, prior state and cordon are one conditional patch, so no crash can leave
a cordon without an owner. An owner counts as alive when the cluster's lock names its run, which the lock's holder
makes true: whoever holds the lock may finish what dead runs left. It deliberately does not decide when or why.
"""

from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from nixkube_deploy.model.cluster import OWNER_ANNOTATION, PRIOR_ANNOTATION, TO_COME_TAINT, DisruptionBudget, Node, Pod
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.cluster import Cluster, LeaseConflict, NodePatch
from nixkube_deploy.protocols.eviction import (
    POLL,
    Evictor,
    PermanentlyHeld,
    doubly_covered,
    is_abandoned,
    sorted_pods,
)
from nixkube_deploy.protocols.lease import LOCK_NAME, LOCK_NAMESPACE, holds
from nixkube_deploy.protocols.nodes import is_unreachable

CONFLICTS = 20
"""Attempts at a conditional patch: kubelets and controllers write Nodes all the time."""
CONFLICT_PAUSE = 0.2
DETACH_PATIENCE = 60.0
"""Seconds the volumes of evicted pods get to detach; after that it is said and the drain counts as done."""
BUDGETS_PATIENCE = 10.0
"""Seconds for looking up which budget was in the way."""

Report = Callable[[str], None]


async def cordon(cluster: Cluster, node: str, run: RunId) -> bool:
    """Own the node and make it unschedulable; False when it already was both.

    Raises:
        TaskError: LOCKED, a living run owns it or has the cluster's lock; CLUSTER, no such Node or no answer.
    """
    for _ in range(CONFLICTS):
        now = await _existing(cluster, node)
        patch = await _cordon_patch(cluster, now, run)
        if patch is None:
            return False
        await _refuse_lost_lock(cluster, run)
        if await _patched(cluster, node, patch):
            return True
    raise _contended(node, "cordoned")


async def uncordon(cluster: Cluster, node: str, run: RunId) -> bool:
    """Give the node back as it was found; False when it stays cordoned, because it was before us or is not ours.

    The mark that it was still to come goes with the cordon. A dead run's cordon is ours to lift. Somebody who
    uncordoned it meanwhile is not contradicted.

    Raises:
        TaskError: LOCKED, a living run owns it; CLUSTER, no such Node or no answer.
    """
    for _ in range(CONFLICTS):
        now = await _existing(cluster, node)
        if OWNER_ANNOTATION not in now.annotations and now.marked_by is None:
            return not now.unschedulable
        await _refuse_living_owner(cluster, now, run)
        ours = OWNER_ANNOTATION in now.annotations
        stays = now.unschedulable and (not ours or now.annotations.get(PRIOR_ANNOTATION) == "true")
        patch = NodePatch(
            unschedulable=None if stays or not now.unschedulable else False,
            annotations=((OWNER_ANNOTATION, None), (PRIOR_ANNOTATION, None)) if ours else (),
            taints=((TO_COME_TAINT, None),) if now.marked_by is not None else (),
            resource_version=now.resource_version,
        )
        if await _patched(cluster, node, patch):
            return not stays
    raise _contended(node, "uncordoned")


async def drain(cluster: Cluster, clock: Clock, node: str, options: DrainOptions, run: RunId, report: Report) -> int:
    """Make every pod leave that kubectl drain would; the number of pods that left. Time-out 0 waits for ever.

    Policy that forbids removing a pod, and pods under two budgets, are found before any eviction. Pods that an
    unreachable Node's kubelet does not end are deleted and left behind, and that is said.

    Raises:
        TaskError: DRAIN, naming pods, budgets and what was evicted; LOCKED; CLUSTER, refused for good.
    """
    began = clock.monotonic()
    evictor = Evictor(cluster=cluster, clock=clock, node=node, options=options, report=report)
    with anyio.move_on_after(options.timeout or None) as deadline:
        await evictor.steadily(lambda: cordon(cluster, node, run), f"cordoning {node}")
        leaving = await _plan_evictions(evictor, node)
        await _remove_all(evictor, node, leaving)
        await _await_detach(evictor, node)
    if deadline.cancelled_caught:
        raise await _out_of_time(evictor, node, clock.monotonic() - began)
    return len(evictor.gone)


async def still_drained(cluster: Cluster, clock: Clock, node: str, options: DrainOptions) -> tuple[str, ...]:
    """What speaks against disturbing the node right now; empty when it is cordoned and drained."""
    now = await _existing(cluster, node)
    found = () if now.unschedulable else (f"Node {node} is schedulable again",)
    sorted_ = await sorted_pods(cluster, node, options)
    there = (*sorted_.leave, *(pod for pod, _ in sorted_.refused))
    unfinished = [pod for pod in there if not (pod.is_finished or (is_unreachable(now) and is_abandoned(pod, clock)))]
    return found + tuple(f"pod {pod.key} is on Node {node}" for pod in unfinished)


# Cordon and uncordon.


async def _existing(cluster: Cluster, node: str) -> Node:
    found = await cluster.node(node)
    if found is None:
        raise task_error(
            FailureKind.CLUSTER, f"there is no Node {node}", expected=f"Node {node}", next="kubectl get nodes"
        )
    return found


async def _cordon_patch(cluster: Cluster, node: Node, run: RunId) -> NodePatch | None:
    """What is missing for the node to be ours and cordoned. A dead run's record of the prior state is kept."""
    owner = node.annotations.get(OWNER_ANNOTATION)
    if owner == run and node.unschedulable:
        return None
    await _refuse_living_owner(cluster, node, run)
    was = "true" if node.unschedulable else "false"
    prior = node.annotations.get(PRIOR_ANNOTATION, was) if owner is not None else was
    return NodePatch(
        unschedulable=None if node.unschedulable else True,
        annotations=((OWNER_ANNOTATION, run), (PRIOR_ANNOTATION, prior)),
        resource_version=node.resource_version,
    )


async def _refuse_living_owner(cluster: Cluster, node: Node, run: RunId) -> None:
    owner = node.annotations.get(OWNER_ANNOTATION)
    if owner in {None, run}:
        return
    lock = await cluster.lease(LOCK_NAMESPACE, LOCK_NAME)
    if lock is None or not holds(lock, owner or ""):
        return
    raise task_error(
        FailureKind.LOCKED,
        f"Node {node.name} belongs to run {owner}, which is still at work",
        expected=f"nobody, or run {run}",
        seen=f"owner {owner}, lock held by {lock.holder}",
        next=f"wait for it, or end it: deploy show {owner}",
    )


async def _refuse_lost_lock(cluster: Cluster, run: RunId) -> None:
    """A controller that slept through its lease learns of it here, before it takes one more Node out of service."""
    lock = await cluster.lease(LOCK_NAMESPACE, LOCK_NAME)
    if lock is None or not lock.holder or holds(lock, run):
        return
    raise task_error(
        FailureKind.LOCKED,
        f"the lock of this cluster is no longer ours: {lock.holder} has it",
        expected=f"run {run}",
        seen=lock.holder,
        did="took no further Node out of service",
        next=f"kubectl -n {LOCK_NAMESPACE} get lease {LOCK_NAME} -o yaml",
    )


async def _patched(cluster: Cluster, node: str, patch: NodePatch) -> bool:
    """Whether the patch was taken; False after a pause when somebody else wrote first."""
    try:
        await cluster.patch_node(node, patch)
    except LeaseConflict:
        await anyio.sleep(CONFLICT_PAUSE)
        return False
    return True


def _contended(node: str, done: str) -> TaskError:
    return task_error(
        FailureKind.CLUSTER,
        f"Node {node} could not be {done}: somebody else changed it each of {CONFLICTS} times",
        next=f"kubectl get node {node} -o yaml --show-managed-fields",
        transient=True,
    )


# Drain.


async def _plan_evictions(evictor: Evictor, node: str) -> tuple[Pod, ...]:
    """The pods to remove; raises before anything is touched when one of them may not be."""
    cluster, options = evictor.cluster, evictor.options
    sorted_ = await evictor.steadily(lambda: sorted_pods(cluster, node, options), f"listing the pods of {node}")
    if sorted_.refused:
        raise refused_by_policy(node, sorted_.refused)
    if sorted_.leave and not options.disable_eviction:
        await _refuse_double_budgets(evictor, node, sorted_.leave)
    return sorted_.leave


async def _refuse_double_budgets(evictor: Evictor, node: str, leaving: tuple[Pod, ...]) -> None:
    try:
        budgets = await evictor.steadily(evictor.cluster.budgets, "listing disruption budgets")
    except TaskError as error:
        # Without the right to list budgets the API's own 500 still tells, only later.
        evictor.report(f"budgets are not checked beforehand: {error.failure.message}")
        return
    if doubled := doubly_covered(leaving, budgets):
        raise covered_twice(node, doubled)


async def _remove_all(evictor: Evictor, node: str, leaving: tuple[Pod, ...]) -> None:
    """One task a pod; the first pod that can never go ends it, because the drain has failed then."""
    failures: list[PermanentlyHeld | TaskError] = []
    if leaving:
        evictor.report(f"{len(leaving)} pods have to leave {node}")

    async def remove(pod: Pod, group: TaskGroup) -> None:
        try:
            await evictor.remove(pod)
        except (PermanentlyHeld, TaskError) as error:
            failures.append(error)
            group.cancel_scope.cancel()
        else:
            _tell_end(evictor, pod, len(leaving))

    async with anyio.create_task_group() as group:
        for pod in leaving:
            group.start_soon(remove, pod, group)
    if failures:
        raise _held_for_good(node, failures[0], evictor) if isinstance(failures[0], PermanentlyHeld) else failures[0]


def _tell_end(evictor: Evictor, pod: Pod, leaving: int) -> None:
    if pod.key in evictor.left_behind:
        evictor.report(f"{pod.key} is deleted, but no kubelet ends it: Node {evictor.node} is unreachable; going on")
    else:
        evictor.report(f"{pod.key} is gone ({len(evictor.gone)} of {leaving})")


async def _await_detach(evictor: Evictor, node: str) -> None:
    """Wait a bounded time for the volumes of the pods that left; a DaemonSet may keep its own.

    Only a kubelet unmounts, so an unreachable Node's are not waited for.
    """
    if not evictor.gone or evictor.left_behind:
        return
    said = False
    with anyio.move_on_after(DETACH_PATIENCE):
        while True:
            now = await evictor.steadily(lambda: evictor.cluster.node(node), f"looking at the volumes of {node}")
            if now is None or not now.volumes_attached:
                return
            if not said:
                evictor.report(f"{len(now.volumes_attached)} volumes are still attached to {node}")
            said = True
            await anyio.sleep(POLL)
    evictor.report(f"volumes stay attached to {node}; going on without waiting for them")


# What went wrong.


def refused_by_policy(node: str, refused: tuple[tuple[Pod, str], ...]) -> TaskError:
    """The drain options forbid removing these pods, each with its reason."""
    (first, reason), others = refused[0], len(refused) - 1
    more = f" (and {others} more)" if others else ""
    return task_error(
        FailureKind.DRAIN,
        f"pod {first.key} on Node {node} may not be removed: {reason}{more}",
        expected="pods that the drain options allow to remove",
        seen=f"{len(refused)} that they do not",
        evidence=tuple(f"{pod.key}: {reason}" for pod, reason in refused),
        did="evicted nothing",
        next="set the option under strategy.drain in the inventory, or move the pod by hand",
    )


def covered_twice(node: str, doubled: tuple[tuple[Pod, tuple[str, ...]], ...]) -> TaskError:
    """The API evicts no pod that more than one budget covers."""
    pod, budgets = doubled[0]
    return task_error(
        FailureKind.DRAIN,
        f"pod {pod.key} on Node {node} is covered by {len(budgets)} PodDisruptionBudgets ({', '.join(budgets)}), "
        "so no eviction of it can succeed",
        expected="at most one budget for each pod",
        seen=", ".join(budgets),
        evidence=tuple(f"{pod.key}: {', '.join(names)}" for pod, names in doubled),
        did="evicted nothing",
        next=f"kubectl -n {pod.namespace} get pdb -o wide",
    )


def _held_for_good(node: str, held: PermanentlyHeld, evictor: Evictor) -> TaskError:
    return task_error(
        FailureKind.DRAIN,
        f"pod {held.pod.key} on Node {node} is covered by more than one PodDisruptionBudget, "
        "so no eviction of it can succeed",
        expected="at most one budget for each pod",
        seen=str(held),
        did=_what_left(evictor),
        next=f"kubectl -n {held.pod.namespace} get pdb -o wide",
    )


async def _out_of_time(evictor: Evictor, node: str, elapsed: float) -> TaskError:
    """The failure of a drain whose time ran out, with the budgets in the way by name."""
    budgets, sick = await _budgets_in_the_way(evictor), await _sickness(evictor)
    waits = [f"{key} waits for {what}" for key, what in sorted(evictor.waiting.items())]
    held = sorted(evictor.held_by_budget)
    if held:
        names = ", ".join(f"{b.namespace}/{b.name}" for b in budgets) or "(unknown)"
        why, then = f"pod {held[0]} is held by PodDisruptionBudget {names}", _look_at(budgets, evictor)
    elif waits:
        why, then = f"pod {waits[0]}", _look_at_pods(node, waits[0])
    else:
        why, then = "the Kubernetes API did not answer", "kubectl get --raw /readyz"
    return task_error(
        FailureKind.DRAIN,
        f"draining Node {node} took more than {elapsed:.0f} s: {why}{sick and f'; {sick}'}",
        expected=f"every evictable pod gone within {evictor.options.timeout:g} s",
        seen=f"{len(waits)} still there" if waits else "no answer",
        evidence=tuple(waits),
        did=_what_left(evictor),
        next=f"{then}; or go on without moving its pods: deploy apply INVENTORY --on HOST --no-drain" if sick else then,
    )


async def _sickness(evictor: Evictor) -> str:
    """What the cluster says of a Node that is not Ready, in words; empty where that is not the trouble."""
    with anyio.move_on_after(BUDGETS_PATIENCE):
        try:
            node = await evictor.cluster.node(evictor.node)
        except TaskError:
            return ""
        if node is not None and (node.ready != "True" or is_unreachable(node)):
            said = ": ".join(filter(None, (node.ready_reason, node.ready_message)))
            state = "is unreachable" if is_unreachable(node) else "is not Ready"
            return f"the Node {state} (Ready is {node.ready}{said and f', {said}'})"
    return ""


async def _budgets_in_the_way(evictor: Evictor) -> tuple[DisruptionBudget, ...]:
    held = tuple(evictor.held_by_budget.values())
    with anyio.move_on_after(BUDGETS_PATIENCE):
        try:
            found = await evictor.cluster.budgets() if held else ()
        except TaskError:
            return ()
        return tuple(b for b in found if any(b.selects(pod) for pod in held))
    return ()


def _look_at_pods(node: str, waits: str) -> str:
    if "webhook" in waits:
        return "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations"
    return f"kubectl get pods -A -o wide --field-selector spec.nodeName={node}"


def _look_at(budgets: tuple[DisruptionBudget, ...], evictor: Evictor) -> str:
    if budgets:
        return f"kubectl -n {budgets[0].namespace} describe pdb {budgets[0].name}"
    return f"kubectl -n {min(evictor.held_by_budget).partition('/')[0]} get pdb"


def _what_left(evictor: Evictor) -> str:
    return f"evicted {len(evictor.gone)}: {', '.join(sorted(evictor.gone))}" if evictor.gone else "no pod left the node"
