"""The same work for many hosts or Nodes, so many at a time. What becomes of a failure is the work's own business."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def together(work: Callable[[T], Awaitable[None]], items: Iterable[T], at_once: int) -> None:
    """Return when all of it is done."""
    limiter = anyio.CapacityLimiter(at_once)

    async def one(item: T) -> None:
        async with limiter:
            await work(item)

    async with anyio.create_task_group() as group:
        for item in items:
            group.start_soon(one, item)
