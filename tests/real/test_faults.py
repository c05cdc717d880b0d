"""Faults against ``deploy apply`` on real hosts: a switch that fails, locks, reboots, a cut link, a killed controller.

Each case has a bed of its own. Most of a case is waiting, so a few of them run side by side.
"""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.real.bed.needs import require
from tests.real.fault_case import Observed, judge, observe
from tests.real.fault_cases import CASES

pytestmark = pytest.mark.slow

SIDE_BY_SIDE = 3
ALL = os.environ.get("NIXKUBE_REAL") == "all"

Verdicts = dict[int, "Future[Observed]"]


@pytest.fixture(scope="module")
def observed(request, tmp_path_factory) -> Iterator[Verdicts]:
    """Every selected case, a few at a time, in the order in which the tests ask for them."""
    own = [item for item in request.session.items if item.path == request.path and "observed" in item.fixturenames]
    wanted = [item.callspec.params["number"] for item in own]
    require(2, sudo=True)
    base = tmp_path_factory.mktemp("faults")  # Here: the factory is not for threads.

    def run(number: int) -> Observed:
        folder = base / str(number)
        try:
            return observe(folder, CASES[number])
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield {number: pool.submit(run, number) for number in wanted if ALL or not CASES[number].slow}
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number]))
def test_a_fault_ends_as_promised(number: int, observed: Verdicts):
    if number not in observed:
        pytest.skip("takes long: only in `nox -s real` (NIXKUBE_REAL=all)")
    judge(CASES[number], observed[number].result())
