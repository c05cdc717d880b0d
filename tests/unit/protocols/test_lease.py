"""The cluster's lock, in virtual time."""

import anyio
import pytest
from trio.testing import MockClock

from nixkube_deploy.model.cluster import Lease
from nixkube_deploy.model.error import Locked, TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.cluster import LeaseConflict
from nixkube_deploy.protocols.lease import LOCK_NAME, LOCK_NAMESPACE, bury, hold_lease, holds
from tests.fakes.cluster import FakeCluster, LoopClock

KEY = (LOCK_NAMESPACE, LOCK_NAME)
ME, OTHER = "me@laptop:run-2", "ann@ci:run-1"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def held(cluster: FakeCluster, holder: str = ME):
    return hold_lease(cluster, LoopClock(), LOCK_NAME, holder)


async def foreign(cluster: FakeCluster, holder: str = OTHER) -> Lease:
    return await cluster.put_lease(Lease(namespace=KEY[0], name=KEY[1], holder=holder, duration=30))


async def keep_renewing(cluster: FakeCluster, lease: Lease) -> None:
    while True:
        await anyio.sleep(10)
        lease = await cluster.put_lease(lease)


async def test_the_lease_names_its_holder_and_goes_away_with_the_block() -> None:
    cluster = FakeCluster()

    async with held(cluster):
        assert cluster.leases[KEY].holder == ME
        assert cluster.leases[KEY].duration == 30
        assert holds(cluster.leases[KEY], "run-2")

    assert KEY not in cluster.leases


async def test_it_is_renewed_every_ten_seconds() -> None:
    cluster = FakeCluster()

    async with held(cluster):
        await anyio.sleep(35)
        assert cluster.calls.count("put_lease kube-system/nixkube-deploy") == 4


async def test_a_foreign_live_lock_is_refused_with_its_holders_name_as_soon_as_it_moves() -> None:
    cluster = FakeCluster()
    lease = await foreign(cluster)

    async with anyio.create_task_group() as group:
        group.start_soon(keep_renewing, cluster, lease)
        with pytest.raises(Locked, match="ann@ci:run-1 is at work on this cluster") as caught:
            async with held(cluster):
                raise AssertionError
        group.cancel_scope.cancel()

    assert caught.value.exit_code == 6
    assert anyio.current_time() <= 12


async def test_a_stale_lock_is_taken_over_after_its_duration() -> None:
    cluster = FakeCluster()
    await foreign(cluster)

    async with held(cluster):
        assert 30 <= anyio.current_time() < 33
        assert cluster.leases[KEY].holder == ME


async def test_a_lock_that_is_given_back_while_we_watch_is_taken_at_once() -> None:
    cluster = FakeCluster()
    lease = await foreign(cluster)

    async def give_back() -> None:
        await anyio.sleep(4.5)
        await cluster.delete_lease(lease)

    async with anyio.create_task_group() as group:
        group.start_soon(give_back)
        async with held(cluster):
            assert anyio.current_time() < 7


@pytest.mark.parametrize("dead", [True, False])
async def test_the_lock_of_a_holder_known_to_be_dead_need_not_expire(dead) -> None:
    cluster = FakeCluster()
    await foreign(cluster)

    await bury(cluster, LOCK_NAME, lambda holder: dead and holder == OTHER)

    assert (KEY in cluster.leases) is not dead
    began = anyio.current_time()
    async with held(cluster):
        assert anyio.current_time() - began == pytest.approx(0 if dead else 30, abs=1)


async def test_a_dead_process_of_the_same_run_is_taken_over_at_once() -> None:
    cluster = FakeCluster()
    await foreign(cluster, ME)

    async with held(cluster):
        assert anyio.current_time() < 1


async def test_losing_the_lease_cancels_the_block_and_says_to_whom() -> None:
    cluster = FakeCluster()
    finished = False

    async def work() -> None:
        nonlocal finished
        async with held(cluster):
            cluster.leases.pop(KEY)
            await foreign(cluster)
            await anyio.sleep(60)
            finished = True

    with pytest.raises(Locked, match="taken by ann@ci:run-1 while me@laptop:run-2 held it"):
        await work()

    assert not finished
    assert anyio.current_time() < 12
    assert cluster.leases[KEY].holder == OTHER


async def test_a_loss_that_is_seen_only_after_the_work_is_said_and_does_not_undo_it() -> None:
    cluster, said = FakeCluster(), list[str]()

    async with hold_lease(cluster, LoopClock(), LOCK_NAME, ME, say=said.append):
        cluster.leases.pop(KEY)
        await foreign(cluster)

    assert said == [f"warning: {OTHER} took the lock of this cluster before this run had ended"]
    assert cluster.leases[KEY].holder == OTHER


async def test_a_lost_answer_to_our_own_renewal_is_not_a_loss() -> None:
    cluster = FakeCluster()

    async with held(cluster):
        await cluster.put_lease(cluster.leases[KEY])  # our own write, seen by the server only
        await anyio.sleep(25)
        assert cluster.leases[KEY].holder == ME


async def test_a_deleted_lease_is_made_again() -> None:
    cluster = FakeCluster()

    async with held(cluster):
        cluster.leases.pop(KEY)
        await anyio.sleep(25)
        assert cluster.leases[KEY].holder == ME


async def test_an_api_that_is_away_for_minutes_takes_the_lease_from_nobody() -> None:
    cluster = FakeCluster()

    async with held(cluster):
        cluster.down_for(180)
        await anyio.sleep(200)

    assert KEY not in cluster.leases


async def test_an_api_that_refuses_is_told_at_once() -> None:
    refused = task_error(FailureKind.CLUSTER, "403: may not get leases")
    cluster = FakeCluster().fails("lease", refused)

    with pytest.raises(TaskError, match="403"):
        async with held(cluster):
            raise AssertionError


async def test_two_that_create_at_the_same_moment_do_not_both_hold_it() -> None:
    cluster = FakeCluster()
    holding: list[str] = []

    async def try_(name: str) -> None:
        try:
            async with held(cluster, f"{name}@h:{name}"):
                holding.append(name)
                await anyio.sleep(50)
        except Locked:
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(try_, "a")
        group.start_soon(try_, "b")

    assert len(holding) == 1


async def test_an_error_of_the_block_leaves_it_bare() -> None:
    with pytest.raises(ZeroDivisionError):
        async with held(FakeCluster()):
            raise ZeroDivisionError


async def test_cancellation_still_gives_the_lease_back() -> None:
    cluster = FakeCluster()

    with anyio.move_on_after(5):
        async with held(cluster):
            await anyio.sleep(60)

    assert KEY not in cluster.leases


async def test_a_conflict_while_giving_back_is_not_an_error() -> None:
    cluster = FakeCluster()

    async with held(cluster):
        cluster.fails("delete_lease", LeaseConflict("x"))

    assert KEY not in cluster.leases
