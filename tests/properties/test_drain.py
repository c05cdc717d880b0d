"""What holds for every drain, whatever pods, budgets and options there are, and whenever the controller dies."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from nixkube_deploy.model.cluster import MIRROR_ANNOTATION, OWNER_ANNOTATION, DisruptionBudget, Node, Pod
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.protocols.disruption import drain, still_drained, uncordon
from tests.fakes.cluster import FakeCluster, LoopClock

C = TypeVar("C", bound=FakeCluster)
RUN, NEXT = RunId("run-1"), RunId("run-2")
TIMEOUT = 120.0
LABELS = ("a", "b")


@dataclass(frozen=True)
class Scene:
    pods: tuple[Pod, ...]
    budgets: tuple[DisruptionBudget, ...]
    options: DrainOptions
    cordoned: bool
    dead_daemonsets: bool
    lost: bool

    def cluster(self, kind: type[C] = FakeCluster) -> C:
        cluster = kind(
            [Node(name="n1", ready="Unknown" if self.lost else "True", unschedulable=self.cordoned)],
            self.pods,
            self.budgets,
        )
        cluster.dead = {"n1"} if self.lost else set()
        if self.dead_daemonsets:
            cluster.daemonsets.clear()
        return cluster

    def protected(self) -> set[str]:
        """Pods that no drain may touch."""
        daemons = {p.key for p in self.pods if p.owner_kind == "DaemonSet" and not p.is_finished}
        mirrors = {p.key for p in self.pods if p.is_mirror}
        return mirrors | (set() if self.dead_daemonsets else daemons) | {p.key for p in self.pods if p.node != "n1"}


@st.composite
def pods(draw: st.DrawFn, name: str) -> Pod:
    kind = draw(st.sampled_from(["ReplicaSet", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "Node", None]))
    return Pod(
        namespace=draw(st.sampled_from(["web", "kube-system"])),
        name=name,
        uid=f"uid-{name}",
        node=draw(st.sampled_from(["n1", "n1", "n1", "n2"])),
        phase=draw(st.sampled_from(["Running", "Running", "Running", "Pending", "Succeeded", "Failed"])),
        labels={draw(st.sampled_from(LABELS)): "x"},
        annotations={MIRROR_ANNOTATION: "x"} if kind == "Node" else {},
        owner_kind=kind,
        owner_name=None if kind is None else "owner",
        has_emptydir=draw(st.integers(0, 5)) == 0,
    )


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    budgets = tuple(
        DisruptionBudget(
            namespace=draw(st.sampled_from(["web", "kube-system"])),
            name=f"pdb-{i}",
            match_labels={draw(st.sampled_from(LABELS)): "x"},
            disruptions_allowed=draw(st.integers(0, 2)),
        )
        for i in range(draw(st.integers(0, 3)))
    )
    options = DrainOptions(
        timeout=TIMEOUT,
        force=draw(st.booleans()),
        delete_emptydir_data=draw(st.booleans()),
        disable_eviction=draw(st.integers(0, 4)) == 0,
    )
    return Scene(
        pods=tuple(draw(pods(f"p{i}")) for i in range(draw(st.integers(0, 8)))),
        budgets=budgets,
        options=options,
        cordoned=draw(st.booleans()),
        dead_daemonsets=draw(st.integers(0, 4)) == 0,
        lost=draw(st.integers(0, 4)) == 0,
    )


def play(play_it: Callable[[], Awaitable[None]]) -> None:
    anyio.run(play_it, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


def removed(cluster: FakeCluster) -> set[str]:
    return {call.partition(" ")[2] for call in cluster.calls if call.startswith(("evict", "delete"))}


@settings(max_examples=300, deadline=None)
@given(scenes())
def test_a_drain_ends_and_never_touches_what_it_must_not(scene: Scene) -> None:
    async def it() -> None:
        cluster, failure = scene.cluster(), None
        try:
            await drain(cluster, LoopClock(), "n1", scene.options, RUN, lambda _: None)
        except TaskError as error:
            failure = error.failure

        assert anyio.current_time() <= TIMEOUT + 1
        assert not removed(cluster) & scene.protected()
        assert cluster.nodes_by_name["n1"].unschedulable
        assert cluster.nodes_by_name["n1"].annotations[OWNER_ANNOTATION] == RUN
        assert all(budget.disruptions_allowed >= 0 for budget in cluster.budgets_by_key.values())
        assert scene.options.disable_eviction or not any(call.startswith("delete ") for call in cluster.calls)
        if failure is None:
            assert await still_drained(cluster, LoopClock(), "n1", scene.options) == ()
        else:
            assert failure.kind is FailureKind.DRAIN
            assert failure.did
            assert failure.next
            assert failure.did != "evicted nothing" or not removed(cluster)

    play(it)


class MortalCluster(FakeCluster):
    """Its client dies at its n-th call, whatever that is."""

    calls_left = 10_000
    client: anyio.CancelScope

    async def _turn(self, method: str) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            self.client.cancel()
        await super()._turn(method)


@settings(max_examples=300, deadline=None)
@given(scenes(), st.integers(1, 60), st.sampled_from([RUN, NEXT]))
def test_a_controller_that_dies_at_any_call_is_finished_by_the_next(scene: Scene, dies_at: int, heir: RunId) -> None:
    """The next one drains as if nothing had happened, and the node ends as it was found."""

    async def it() -> None:
        cluster = scene.cluster(MortalCluster)
        cluster.calls_left = dies_at
        with anyio.CancelScope() as cluster.client, suppress(TaskError):
            await drain(cluster, LoopClock(), "n1", scene.options, RUN, lambda _: None)
        patient = {key: replace(b, disruptions_allowed=9) for key, b in cluster.budgets_by_key.items()}
        cluster.budgets_by_key = {key: b for key, b in patient.items() if key == min(patient)}

        refusal = None
        try:
            await drain(cluster, LoopClock(), "n1", scene.options, heir, lambda _: None)
        except TaskError as error:
            refusal = error.failure.did
        assert refusal == "evicted nothing" or await still_drained(cluster, LoopClock(), "n1", scene.options) == ()

        assert await uncordon(cluster, "n1", heir) is not scene.cordoned
        assert cluster.nodes_by_name["n1"].unschedulable is scene.cordoned
        assert cluster.nodes_by_name["n1"].annotations == {}

    play(it)


@pytest.mark.parametrize("count", [250])
def test_a_full_node_drains_within_its_budget(count: int) -> None:
    """The most pods a kubelet runs, all under one budget that lets five go at a time."""

    async def it() -> None:
        crowd = [
            Pod(namespace="web", name=f"p{i}", uid=str(i), node="n1", owner_kind="ReplicaSet") for i in range(count)
        ]
        cluster = FakeCluster(
            [Node(name="n1")], crowd, [DisruptionBudget(namespace="web", name="pdb", disruptions_allowed=5)]
        )
        assert await drain(cluster, LoopClock(), "n1", DrainOptions(), RUN, lambda _: None) == count
        assert anyio.current_time() < 600

    play(it)
