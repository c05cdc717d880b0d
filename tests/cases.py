"""Numbered cases of one test file: begun together, a few at a time, each looked at by a test of its own.

It knows nothing of what a case is.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def own_numbers(request: Any) -> list[int]:
    """Parameters ``number`` of the selected tests that use this fixture and stand in the same file, in their order.

    Files that are collected together have numbered cases of their own, by the same name.
    """
    own = (each for each in request.session.items if each.path == request.path)
    return [each.callspec.params["number"] for each in own if request.fixturename in each.fixturenames]


@contextmanager
def side_by_side(
    run: Callable[[int, Path], T], numbers: list[int], base: Path, at_once: int
) -> Iterator[dict[int, "Future[T]"]]:
    """Run every case in a folder of its own, which goes with it; what was not begun at the end is not begun."""

    def one(number: int) -> T:
        folder = base / str(number)
        folder.mkdir()
        try:
            return run(number, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    with ThreadPoolExecutor(at_once) as pool:
        yield {number: pool.submit(one, number) for number in numbers}
        pool.shutdown(cancel_futures=True)
