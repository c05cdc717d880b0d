"""One controller per cluster: a coordination.k8s.io Lease, renewed for as long as the block runs.

Whether a foreign holder is alive is decided by watching, never by comparing clocks: a lease that moves while we look
is refused at once, one that does not move for its whole duration is taken over. An API that does not answer takes the
lease from nobody: reboots of a control plane are what the block is for. It deliberately knows nothing of Nodes.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import anyio

from nixkube_deploy.model.cluster import Lease
from nixkube_deploy.model.error import Locked, TaskError
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.cluster import Cluster, LeaseConflict

LOCK_NAMESPACE = "kube-system"
LOCK_NAME = "nixkube-deploy"
LOOK_EVERY = 1.0
"""Seconds between two looks at somebody else's lease."""
RELEASE_PATIENCE = 5.0
"""Seconds for giving the lease back; after that it expires by itself."""


@asynccontextmanager
async def hold_lease(
    cluster: Cluster, clock: Clock, name: str, holder: str, ttl: int = 30, say: Callable[[str], None] = lambda _: None
) -> AsyncIterator[None]:
    """Hold the Lease ``kube-system/<name>`` as ``holder`` (``user@host:run``) for the length of the block.

    The lease of a dead process of the same run is taken over at once: the journal's own lock proves that it is dead.

    Raises:
        Locked: somebody else holds it and is alive; or it was lost while held, which cancels the block first.
        TaskError: CLUSTER, the API refused or did not answer.
    """
    held = _Held(cluster=cluster, lease=await _acquire(cluster, clock, _wanted(name, holder, ttl), say))
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(held.renew, ttl / 3, group.cancel_scope)
            try:
                yield
            except Exception as error:  # noqa: BLE001 (re-raised below, bare: a task group would wrap it)
                failure = error
            finally:
                group.cancel_scope.cancel()
    finally:
        await held.release()
    if held.taken_by is not None and not held.stopped:
        say(f"warning: {held.taken_by} took the lock of this cluster before this run had ended")
    if held.stopped:
        raise Locked(
            f"the lock of this cluster was taken by {held.taken_by} while {holder} held it, so this run stopped",
            hint=f"kubectl -n {LOCK_NAMESPACE} get lease {name} -o yaml",
        ) from failure
    if failure is not None:
        raise failure


async def bury(cluster: Cluster, name: str, is_dead: Callable[[str], bool]) -> None:
    """Take away the lease of a holder that is known to be dead, so that nobody has to watch it expire.

    Raises:
        TaskError: CLUSTER, the API refused or did not answer.
    """
    lease = await cluster.lease(LOCK_NAMESPACE, name)
    if lease is not None and lease.holder and is_dead(lease.holder):
        with suppress(LeaseConflict):  # It was not so dead after all: ``hold_lease`` watches it.
            await cluster.delete_lease(lease)


def holds(lease: Lease | None, run: str) -> bool:
    """Whether the cluster's lock names this run as its holder."""
    return lease is not None and lease.holder.rpartition(":")[2] == run


@dataclass(slots=True, kw_only=True)
class _Held:
    """The lease while we have it."""

    cluster: Cluster
    lease: Lease
    taken_by: str | None = None
    stopped: bool = False
    """Whether the block was cancelled for it; one that had ended before the loss was seen has done its work."""

    async def renew(self, every: float, block: anyio.CancelScope) -> None:
        """Renew until cancelled; cancel ``block`` once the lease is somebody else's."""
        while self.taken_by is None:
            await anyio.sleep(every)
            try:
                await self._renew_once()
            except TaskError:
                # Unreachable or refused: nobody is known to have taken it. The next round looks again.
                continue
        self.stopped = True
        block.cancel()

    async def _renew_once(self) -> None:
        try:
            self.lease = await self.cluster.put_lease(self.lease)
        except LeaseConflict:
            await self._look_again()

    async def _look_again(self) -> None:
        """After a conflict: our own write whose answer was lost, a deleted lease, or a new holder."""
        now = await self.cluster.lease(self.lease.namespace, self.lease.name)
        if now is None:
            self.lease = replace(self.lease, resource_version="")
        elif now.holder == self.lease.holder:
            self.lease = now
        else:
            self.taken_by = now.holder or "somebody who gave it back"

    async def release(self) -> None:
        """Give it back unless it is no longer ours; failing to is not worth an error."""
        if self.taken_by is not None:
            return
        with anyio.move_on_after(RELEASE_PATIENCE, shield=True), suppress(TaskError, LeaseConflict):
            with suppress(LeaseConflict):
                await self.cluster.delete_lease(self.lease)
                return
            await self._look_again()
            if self.taken_by is None:
                await self.cluster.delete_lease(self.lease)


def _wanted(name: str, holder: str, ttl: int) -> Lease:
    return Lease(namespace=LOCK_NAMESPACE, name=name, holder=holder, duration=ttl)


async def _acquire(cluster: Cluster, clock: Clock, wanted: Lease, say: Callable[[str], None]) -> Lease:
    """Create or take over the lease; watch a foreign one for as long as its holder said it would last."""
    watched, since = await cluster.lease(wanted.namespace, wanted.name), clock.monotonic()
    if watched is not None and watched.holder not in {"", wanted.holder}:
        patience = watched.duration or wanted.duration
        say(f"{watched.holder} has the lock of this cluster; watching for {patience} s whether it is alive")
    while True:
        if watched is None or watched.holder in {"", wanted.holder}:
            version = watched.resource_version if watched else ""
        elif clock.monotonic() - since >= (watched.duration or wanted.duration):
            version = watched.resource_version
        else:
            await anyio.sleep(LOOK_EVERY)
            now = await cluster.lease(wanted.namespace, wanted.name)
            if now is not None and now.holder != "" and _moved(watched, now):
                raise _locked(now)
            watched = now
            continue
        try:
            return await cluster.put_lease(replace(wanted, resource_version=version))
        except LeaseConflict:
            # Somebody wrote between our look and our write: look again, from the start.
            await anyio.sleep(LOOK_EVERY / 10)
            watched, since = await cluster.lease(wanted.namespace, wanted.name), clock.monotonic()


def _moved(before: Lease, now: Lease) -> bool:
    return (before.holder, before.renew_time, before.resource_version) != (
        now.holder,
        now.renew_time,
        now.resource_version,
    )


def _locked(lease: Lease) -> Locked:
    return Locked(
        f"{lease.holder} is at work on this cluster: it renewed the lock while we watched",
        hint=f"wait for it to end, or look: kubectl -n {lease.namespace} get lease {lease.name} -o yaml",
    )
