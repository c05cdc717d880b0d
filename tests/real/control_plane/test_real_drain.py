"""The disruption protocol against a real API server, controllers and scheduler, with the rights of docs/rbac.yaml."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import pytest

from nixkube_deploy.app.clock import SystemClock
from nixkube_deploy.model.cluster import OWNER_ANNOTATION, Pod
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.ports.cluster import Evicted, EvictionAnswer
from nixkube_deploy.protocols.disruption import drain, still_drained, uncordon
from nixkube_deploy.protocols.drainable import outlooks
from nixkube_deploy.protocols.marking import marked
from tests.real.control_plane.scene import RUN, Scene, is_ready

CACHE = [{"name": "cache", "emptyDir": {}}]


async def drained(scene: Scene, said: list[str] | None = None, **options: object) -> int:
    wanted = DrainOptions(**{"timeout": 60.0, **options})  # type: ignore[arg-type]
    return await drain(scene.cluster, SystemClock(), scene.a, wanted, RUN, (said if said is not None else []).append)


async def failure_of(scene: Scene, **options: object) -> Failure:
    with pytest.raises(TaskError) as caught:
        await drained(scene, **options)
    assert caught.value.failure.kind is FailureKind.DRAIN
    return caught.value.failure


async def the(scene: Scene, app: str) -> Pod:
    (pod,) = (pod for pod in await scene.cluster.pods(scene.a) if pod.labels.get("app") == app)
    return pod


async def until(holds: Callable[[], object], seconds: float = 30) -> None:
    with anyio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110
            await anyio.sleep(0.1)


@dataclass
class Least:
    """The smallest number of ready pods that an onlooker saw, and how often it looked."""

    ready: int = 10**6
    looks: int = 0


@asynccontextmanager
async def watched(scene: Scene, app: str) -> AsyncIterator[Least]:
    """Count the ready pods of an app again and again, past the product and its events."""
    least = Least()

    async def look() -> None:
        while True:
            pods = await anyio.to_thread.run_sync(scene.pods, app)
            alive = [p for p in pods if is_ready(p) and "deletionTimestamp" not in p["metadata"]]
            least.ready, least.looks = min(least.ready, len(alive)), least.looks + 1
            await anyio.sleep(0.05)

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        yield least
        group.cancel_scope.cancel()


async def test_a_node_is_emptied_but_for_daemonsets_and_given_back(scene: Scene) -> None:
    with scene.only_first():
        scene.add("web", replicas=3)
        scene.add("db", "StatefulSet")
        scene.add("agent", "DaemonSet", tolerations=[{"operator": "Exists"}], volumes=CACHE)

    assert await drained(scene) == 4

    assert scene.on(scene.a) == ["agent"]
    node = scene.node(scene.a)
    assert (node["spec"]["unschedulable"], node["metadata"]["annotations"][OWNER_ANNOTATION]) == (True, RUN)
    assert await still_drained(scene.cluster, SystemClock(), scene.a, DrainOptions()) == ()
    await until(lambda: scene.on(scene.b) == ["agent", "db", "web", "web", "web"])

    assert await uncordon(scene.cluster, scene.a, RUN)
    node = scene.node(scene.a)
    assert "unschedulable" not in node["spec"]
    assert OWNER_ANNOTATION not in node["metadata"]["annotations"]


async def test_a_budget_is_kept_at_every_moment_of_a_drain(scene: Scene) -> None:
    with scene.only_first():
        scene.add("web", replicas=5)
    scene.protect("web", minAvailable=4)
    said: list[str] = []

    async with watched(scene, "web") as least:
        assert await drained(scene, said) == 5

    assert least.ready == 4
    assert least.looks > 10
    assert any("waits for a disruption budget" in line for line in said), said


async def test_a_budget_that_allows_nothing_holds_its_pod_and_no_other(scene: Scene) -> None:
    with scene.only_first():
        scene.add("plain")
        scene.add("web")
    scene.protect("web", maxUnavailable=0)
    pod = await the(scene, "web")

    failure = await failure_of(scene, timeout=8)

    assert pod.key in failure.message
    assert f"held by PodDisruptionBudget {scene.space}/web" in failure.message
    assert failure.next == f"kubectl -n {scene.space} describe pdb web"
    assert scene.on(scene.a) == ["web"]
    assert scene.node(scene.a)["spec"]["unschedulable"]
    # What the server says; the lab says the same.
    evicted = await scene.cluster.evict(pod, -1)
    assert evicted == Evicted(
        answer=EvictionAnswer.BUDGET,
        message="The disruption budget web needs 1 healthy pods and has 1 currently",
    )


async def test_a_budget_that_is_loosened_meanwhile_lets_the_pod_go(scene: Scene) -> None:
    with scene.only_first():
        scene.add("web")
    scene.protect("web", maxUnavailable=0)

    async def loosen() -> None:
        await anyio.sleep(2)
        path = f"/apis/policy/v1/namespaces/{scene.space}/poddisruptionbudgets/web"
        scene.admin.patch(path, {"spec": {"maxUnavailable": 1}})

    async with anyio.create_task_group() as group:
        group.start_soon(loosen)
        assert await drained(scene) == 1


async def test_what_can_never_leave_is_foreseen_from_the_real_status_of_budgets(scene: Scene) -> None:
    with scene.only_first():
        scene.add("web", replicas=2)
        scene.add("tight", replicas=2)
    scene.protect("web", minAvailable=1)
    scene.protect("tight", minAvailable="100%")
    said: list[str] = []

    found = (await outlooks(scene.cluster, {scene.a: DrainOptions()}, said.append))[scene.a]

    assert found.never is not None
    assert f"PodDisruptionBudget {scene.space}/tight needs 2 healthy pods" in found.never.message
    assert f"{scene.space}/web" not in "".join((found.never.message, *found.never.evidence))
    assert said == []


async def test_a_pod_under_two_budgets_is_found_before_and_refused_by_the_server(scene: Scene) -> None:
    with scene.only_first():
        scene.add("plain")
        scene.add("web")
    for name in ("web", "again"):
        scene.protect("web", name, maxUnavailable=1)

    failure = await failure_of(scene)

    assert "covered by 2 PodDisruptionBudgets" in failure.message
    assert scene.on(scene.a) == ["plain", "web"]
    evicted = await scene.cluster.evict(await the(scene, "web"), -1)
    assert evicted.answer is EvictionAnswer.MULTIPLE_BUDGETS


@pytest.mark.parametrize(
    ("spec", "option"), [({"volumes": CACHE}, "delete_emptydir_data"), ({}, "force")], ids=["emptydir", "unmanaged"]
)
async def test_policy_is_asked_before_the_first_eviction(scene: Scene, spec: dict[str, object], option: str) -> None:
    with scene.only_first():
        scene.add("plain")
        if spec:
            scene.add("held", **spec)
        else:
            scene.add_pod("held")

    failure = await failure_of(scene, delete_emptydir_data=False, force=False)

    assert option in failure.message
    assert scene.on(scene.a) == ["held", "plain"]
    assert await drained(scene, **{option: True}) == 2
    assert scene.on(scene.a) == []


async def test_a_pod_that_never_ends_is_named_when_time_is_up(scene: Scene) -> None:
    with scene.only_first():
        scene.add("plain")
        scene.add("stuck", labels={"kubelet": "endless"})
    pod = await the(scene, "stuck")

    failure = await failure_of(scene, timeout=6)

    assert f"pod {pod.key} waits for its containers to end" in failure.message
    assert failure.did.startswith("evicted 1: ")
    now = await scene.cluster.pod(pod.namespace, pod.name)
    assert now is not None
    assert now.deleting_since is not None


async def test_a_pod_that_is_not_ready_is_evicted_when_its_budget_does_not_need_it(scene: Scene) -> None:
    with scene.only_first():
        scene.add("web", replicas=2)
        scene.add("never", labels={"kubelet": "unready"})
    scene.protect("web", minAvailable=1)
    scene.protect("never", minAvailable=1, unhealthyPodEvictionPolicy="AlwaysAllow")

    assert await drained(scene) == 3


async def test_a_namesake_in_the_pods_place_is_never_evicted(scene: Scene) -> None:
    with scene.only_first():
        scene.add("db", "StatefulSet")
    pod = await the(scene, "db")

    answer = await scene.cluster.evict(replace(pod, uid="00000000-0000-0000-0000-000000000000"), -1)

    assert answer.answer is EvictionAnswer.THROTTLED
    assert "uid" in answer.message.lower()
    assert (await the(scene, "db")).uid == pod.uid
    assert (await scene.cluster.evict(replace(pod, name="nobody"), -1)).answer is EvictionAnswer.GONE


async def test_a_drain_ends_while_its_namespace_does(scene: Scene) -> None:
    with scene.only_first():
        scene.add("web", replicas=2)
    scene.protect("web", maxUnavailable=0)

    async def end_namespace() -> None:
        await anyio.sleep(2)
        scene.admin.delete(f"/api/v1/namespaces/{scene.space}")

    async with anyio.create_task_group() as group:
        group.start_soon(end_namespace)
        assert await drained(scene) == 2


@pytest.mark.parametrize("how", ["end", "stop"])
async def test_a_drain_outlives_an_api_server_that_stops_and_starts_again(scene: Scene, how: str) -> None:
    """Ended as a service manager does it, or killed at once in the middle of evictions.

    The API's documentation has a budget count a pod as disrupted (``status.disruptedPods``) from the approval of its
    eviction until it is deleted, or for two minutes. A kill that falls between the two therefore may cost the drain
    that long; whether this one did is in what the test prints.
    """
    with scene.only_first():
        scene.add("web", replicas=4)
    scene.protect("web", minAvailable=3)
    server, said = scene.plane.parts["kube-apiserver"], list[str]()

    async def restart() -> None:
        await until(lambda: len(scene.on(scene.a)) < 4)
        await anyio.to_thread.run_sync(getattr(server, how))
        await anyio.sleep(2)
        server.start()
        await anyio.to_thread.run_sync(scene.plane.await_api)
        short = scene.budget("web")["status"].get("disruptedPods", {})
        print(f"\n{how}: {len(short)} pods approved and not deleted when it was back")  # noqa: T201 (for pytest -s)

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(restart)
        assert await drained(scene, said, timeout=200) == 4
    print(f"{how}: drained in {anyio.current_time() - began:.0f} s")  # noqa: T201 (for pytest -s)

    assert scene.on(scene.a) == []
    assert anyio.current_time() - began > 4, "the drain went on while the server was away"


async def test_evicted_pods_go_where_no_drain_is_to_come(scene: Scene) -> None:
    """The two nodes of the scene are still to come, so a third one takes what leaves."""
    third = f"{scene.a}-third"
    scene.kubelets.add(third, "v1.36.3")
    try:
        scene.kubelets.await_ready(third)
        with scene.only_first():
            scene.cordoned(third, value=True)
            scene.add("web", replicas=4, affinity=among(scene.a, scene.b, third))
        scene.cordoned(third, value=False)
        async with marked(scene.cluster, frozenset({scene.a, scene.b}), RUN, lambda _: None):
            assert await drained(scene) == 4
            await until(lambda: scene.on(third) == ["web"] * 4)
        left = [node.marked_by for node in await scene.cluster.nodes() if node.marked_by is not None]
        assert left == []
    finally:
        scene.kubelets.forget(third)
        scene.admin.delete(f"/api/v1/nodes/{third}")


def among(*nodes: str) -> dict[str, object]:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": list(nodes)}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
