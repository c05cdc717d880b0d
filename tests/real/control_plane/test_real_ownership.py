"""Who owns a cordon and who holds the lock, judged by a real API server's resource versions and preconditions."""

import anyio
import pytest

from nixkube_deploy.app.clock import SystemClock
from nixkube_deploy.model.cluster import OWNER_ANNOTATION, PRIOR_ANNOTATION, Lease
from nixkube_deploy.model.error import Locked, TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.ports.cluster import LeaseConflict, NodePatch
from nixkube_deploy.protocols.disruption import cordon, uncordon
from nixkube_deploy.protocols.lease import LOCK_NAME, LOCK_NAMESPACE, hold_lease
from tests.real.control_plane.scene import RUN, Scene

OTHER = RunId("run-2")
LOCK = f"/apis/coordination.k8s.io/v1/namespaces/{LOCK_NAMESPACE}/leases/{LOCK_NAME}"


def owner(scene: Scene) -> tuple[str | None, str | None, bool]:
    """Who owns the first node, whether it was cordoned before, and whether it is."""
    node = scene.node(scene.a)
    notes = node["metadata"].get("annotations", {})
    return notes.get(OWNER_ANNOTATION), notes.get(PRIOR_ANNOTATION), node["spec"].get("unschedulable", False)


@pytest.fixture(autouse=True)
def no_lock(scene: Scene) -> None:
    scene.admin.delete(LOCK)


async def test_a_node_that_was_cordoned_before_stays_cordoned(scene: Scene) -> None:
    scene.cordoned(scene.a, value=True)

    assert await cordon(scene.cluster, scene.a, RUN)
    assert owner(scene) == (RUN, "true", True)
    assert not await uncordon(scene.cluster, scene.a, RUN)

    assert owner(scene) == (None, None, True)


async def test_an_operator_who_uncordons_is_not_contradicted(scene: Scene) -> None:
    await cordon(scene.cluster, scene.a, RUN)
    scene.cordoned(scene.a, value=False)

    assert await uncordon(scene.cluster, scene.a, RUN)

    assert owner(scene) == (None, None, False)


async def test_a_dead_runs_cordon_is_taken_over_with_what_was_before_it(scene: Scene) -> None:
    scene.cordoned(scene.a, value=True)
    await cordon(scene.cluster, scene.a, RUN)

    assert await cordon(scene.cluster, scene.a, OTHER)

    assert owner(scene) == (OTHER, "true", True)


async def test_a_living_runs_cordon_is_left_alone(scene: Scene) -> None:
    await cordon(scene.cluster, scene.a, RUN)
    async with hold_lease(scene.cluster, SystemClock(), LOCK_NAME, f"ann@ci:{RUN}"):
        for deed in (cordon, uncordon):
            with pytest.raises(TaskError, match=f"belongs to run {RUN}") as caught:
                await deed(scene.cluster, scene.a, OTHER)
            assert caught.value.failure.kind is FailureKind.LOCKED

    assert owner(scene) == (RUN, "false", True)


async def test_a_cordon_under_an_old_version_is_refused_by_the_server(scene: Scene) -> None:
    before = await scene.cluster.node(scene.a)
    assert before is not None
    scene.admin.patch(f"/api/v1/nodes/{scene.a}", {"metadata": {"labels": {"changed": "yes"}}})

    with pytest.raises(LeaseConflict):
        await scene.cluster.patch_node(scene.a, NodePatch(unschedulable=True, resource_version=before.resource_version))

    assert owner(scene) == (None, None, False)


async def test_a_cordon_wins_against_somebody_who_writes_the_node_all_the_time(scene: Scene) -> None:
    async def write() -> None:
        for number in range(100):
            change = {"metadata": {"labels": {"number": str(number)}}}
            await anyio.to_thread.run_sync(scene.admin.patch, f"/api/v1/nodes/{scene.a}", change)

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        assert await cordon(scene.cluster, scene.a, RUN)
        assert await uncordon(scene.cluster, scene.a, RUN)
        group.cancel_scope.cancel()

    assert owner(scene) == (None, None, False)


# The lock.


async def test_the_lock_is_held_renewed_and_given_back(scene: Scene) -> None:
    async with hold_lease(scene.cluster, SystemClock(), LOCK_NAME, f"ann@ci:{RUN}", ttl=3):
        first = scene.admin.ask("GET", LOCK)["spec"]
        assert (first["holderIdentity"], first["leaseDurationSeconds"]) == (f"ann@ci:{RUN}", 3)
        await anyio.sleep(2.5)
        assert scene.admin.ask("GET", LOCK)["spec"]["renewTime"] > first["renewTime"]

    assert scene.admin.find(LOCK) is None


async def test_a_living_holder_is_seen_and_refused(scene: Scene) -> None:
    async with hold_lease(scene.cluster, SystemClock(), LOCK_NAME, f"ann@ci:{RUN}", ttl=3):
        with pytest.raises(Locked, match=f"ann@ci:{RUN} is at work on this cluster"):
            async with hold_lease(scene.cluster, SystemClock(), LOCK_NAME, f"bob@ci:{OTHER}", ttl=3):
                raise AssertionError


async def test_a_dead_holders_lock_is_taken_over_once_its_time_is_up(scene: Scene) -> None:
    await scene.cluster.put_lease(Lease(namespace=LOCK_NAMESPACE, name=LOCK_NAME, holder=f"ann@ci:{RUN}", duration=3))
    began = anyio.current_time()

    async with hold_lease(scene.cluster, SystemClock(), LOCK_NAME, f"bob@ci:{OTHER}", ttl=3):
        assert anyio.current_time() - began >= 3
        assert scene.admin.ask("GET", LOCK)["spec"]["holderIdentity"] == f"bob@ci:{OTHER}"


async def test_of_two_that_come_at_once_one_has_the_lock(scene: Scene) -> None:
    inside: list[str] = []
    refused: list[str] = []

    async def come(holder: str) -> None:
        try:
            async with hold_lease(scene.cluster, SystemClock(), LOCK_NAME, holder, ttl=3):
                inside.append(holder)
                await anyio.sleep(6)
        except Locked:
            refused.append(holder)

    async with anyio.create_task_group() as group:
        for name in ("ann", "bob", "cleo"):
            group.start_soon(come, f"{name}@ci:{name}")

    assert (len(inside), len(refused)) == (1, 2)


async def test_a_run_whose_lock_was_taken_stops(scene: Scene) -> None:
    async def lose_it() -> None:
        async with hold_lease(scene.cluster, SystemClock(), LOCK_NAME, f"ann@ci:{RUN}", ttl=3):
            scene.admin.patch(LOCK, {"spec": {"holderIdentity": f"bob@ci:{OTHER}"}})
            await anyio.sleep(30)

    with pytest.raises(Locked, match="was taken by bob@ci:run-2"):
        await lose_it()

    assert scene.admin.ask("GET", LOCK)["spec"]["holderIdentity"] == f"bob@ci:{OTHER}"


async def test_leases_obey_versions(scene: Scene) -> None:
    mine = Lease(namespace=LOCK_NAMESPACE, name=LOCK_NAME, holder="me", duration=30)
    first = await scene.cluster.put_lease(mine)
    with pytest.raises(LeaseConflict):
        await scene.cluster.put_lease(mine)
    second = await scene.cluster.put_lease(first)
    for deed in (scene.cluster.put_lease, scene.cluster.delete_lease):
        with pytest.raises(LeaseConflict):
            await deed(first)

    await scene.cluster.delete_lease(second)
    await scene.cluster.delete_lease(second)
    third = await scene.cluster.put_lease(second)
    assert third.resource_version != second.resource_version, "a replaced Lease that is gone is made anew"


# Rights.


async def test_the_manifest_grants_all_that_a_run_needs(scene: Scene) -> None:
    missing = await scene.cluster.missing_rights()

    assert [(each.right, bool(each.only_for)) for each in missing] == [("delete pods", True), ("get nodes/proxy", True)]


async def test_what_the_manifest_does_not_grant_is_refused_by_name(scene: Scene) -> None:
    with scene.only_first():
        scene.add("web")
    (pod,) = await scene.cluster.pods(scene.a)

    with pytest.raises(TaskError, match="forbids us to delete pods") as caught:
        await scene.cluster.delete_pod(pod, -1)

    assert "nixkube-deploy" in caught.value.failure.seen
    assert await scene.cluster.node_healthz(scene.a) is None
