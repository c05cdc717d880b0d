"""Faults against ``deploy apply`` on real hosts: a switch that fails, locks, reboots, a cut link, a killed controller.

Each case has a bed of its own. Most of a case is waiting, so a few of them run side by side.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.cases import own_numbers, side_by_side
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
    require(2, sudo=True)

    def run(number: int, folder: Path) -> Observed:
        return observe(folder, CASES[number])

    wanted = [number for number in own_numbers(request) if ALL or not CASES[number].slow]
    with side_by_side(run, wanted, tmp_path_factory.mktemp("faults"), SIDE_BY_SIDE) as verdicts:
        yield verdicts


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number]))
def test_a_fault_ends_as_promised(number: int, observed: Verdicts):
    if number not in observed:
        pytest.skip("takes long: only in `nox -s real` (NIXKUBE_REAL=all)")
    judge(CASES[number], observed[number].result())
