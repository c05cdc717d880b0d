"""What would keep pods on a Node for ever, or for now, found before any Node is touched.

A budget that allows nothing is final only for pods of Kubernetes' own controllers: operators (Longhorn, CloudNativePG)
hold such budgets on purpose, and lift them or move the pod once they see the Node cordoned. It deliberately changes
nothing and evicts nothing, not even on trial: what it says is true of this moment only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nixkube_deploy.model.cluster import DisruptionBudget, Pod
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.ports.cluster import Cluster
from nixkube_deploy.protocols.disruption import covered_twice, refused_by_policy
from nixkube_deploy.protocols.eviction import SortedPods, doubly_covered, sorted_pods, subject_to_budget
from nixkube_deploy.protocols.together import together

NODES_AT_ONCE = 10
NOTHING_YET = "nothing: this was found before anything was touched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Whether a drain can succeed."""

    never: Failure | None = None
    """Why it cannot, however long it waits."""
    waits: tuple[str, ...] = ()
    """What it would have to wait for now."""


@dataclass(slots=True, kw_only=True)
class _Look:
    cluster: Cluster
    budgets: Sequence[DisruptionBudget]
    daemonsets: dict[str, bool] = field(default_factory=dict)


async def outlooks(
    cluster: Cluster, drains: Mapping[str, DrainOptions], say: Callable[[str], None]
) -> Mapping[str, Outlook]:
    """What is to be expected of draining these Nodes. What cannot be found out is said, and holds nobody up."""
    found: dict[str, Outlook] = {}
    look, unknown = _Look(cluster=cluster, budgets=await _budgets(cluster, say)), list[str]()

    async def foresee(node: str) -> None:
        try:
            found[node] = await _outlook(look, node, drains[node])
        except TaskError as error:
            unknown.append(error.failure.message)

    await together(foresee, drains, NODES_AT_ONCE)
    if unknown:
        say(f"whether {len(unknown)} Nodes can be drained is not known beforehand: {unknown[0]}")
    return found


async def _budgets(cluster: Cluster, say: Callable[[str], None]) -> tuple[DisruptionBudget, ...]:
    try:
        return await cluster.budgets()
    except TaskError as error:
        say(f"disruption budgets are not checked beforehand: {error.failure.message}")
        return ()


async def _outlook(look: _Look, node: str, options: DrainOptions) -> Outlook:
    pods = await sorted_pods(look.cluster, node, options, look.daemonsets)
    never = _refusal(look, node, pods, options)
    if never is not None:
        return Outlook(never=replace(never.failure, did=NOTHING_YET))
    if options.disable_eviction:
        return Outlook()
    held = _held(pods.leave, look.budgets)
    return Outlook(waits=tuple(_waits(pod, budget) for pod, budget in held))


def _waits(pod: Pod, budget: DisruptionBudget) -> str:
    line = f"the drain of pod {pod.key} has to wait for PodDisruptionBudget {_words(budget)}"
    return f"{line}; only {pod.owner_kind} can let it go" if budget.never_allows else line


def _refusal(look: _Look, node: str, pods: SortedPods, options: DrainOptions) -> TaskError | None:
    if pods.refused:
        return refused_by_policy(node, pods.refused)
    if options.disable_eviction:
        return None
    if doubled := doubly_covered(pods.leave, look.budgets):
        return covered_twice(node, doubled)
    held = _held(pods.leave, look.budgets)
    stuck = [(pod, budget) for pod, budget in held if budget.never_allows and not pod.has_operator]
    return _never_allowed(node, stuck) if stuck else None


def _held(pods: Sequence[Pod], budgets: Sequence[DisruptionBudget]) -> list[tuple[Pod, DisruptionBudget]]:
    """Pods whose budget lets none of its pods go now."""
    return [
        (pod, budget)
        for pod in filter(subject_to_budget, pods)
        for budget in budgets
        if budget.disruptions_allowed <= 0 and budget.selects(pod) and (pod.ready or budget.spares_unready)
    ]


def _words(budget: DisruptionBudget) -> str:
    return f"{budget.namespace}/{budget.name} (has {budget.healthy} healthy pods, needs {budget.desired})"


def _never_allowed(node: str, stuck: Sequence[tuple[Pod, DisruptionBudget]]) -> TaskError:
    (pod, budget), others = stuck[0], len(stuck) - 1
    more = f" (and {others} more pods like it)" if others else ""
    return task_error(
        FailureKind.DRAIN,
        f"pod {pod.key} on Node {node} can never be evicted: PodDisruptionBudget {budget.namespace}/{budget.name} "
        f"needs {budget.desired} healthy pods, and there are to be {budget.expected}{more}",
        expected="a budget that lets one pod go when all are healthy",
        seen=f"disruptionsAllowed {budget.disruptions_allowed}",
        evidence=tuple(f"{p.key}: {_words(b)}" for p, b in stuck),
        did=NOTHING_YET,
        next=f"kubectl -n {budget.namespace} describe pdb {budget.name}; run one replica more, or ask for one less",
    )
