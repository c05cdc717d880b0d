"""Which generations a collection may delete: old ones, and never what runs, what was booted, or the current one."""

import pytest

from nixkube_deploy.backends.nix.copying.room import old_generations
from tests.builders import store_path

DAY = 86400
NOW = 100 * DAY
SYSTEMS = {number: store_path(f"nixos-system-{number}") for number in range(1, 6)}
AGES = {1: 90, 2: 60, 3: 30, 4: 10, 5: 1}


def listing(*, booted: str, runs: str, current: int = 5) -> str:
    lines = [str(NOW), booted, runs, "total 0"]
    lines += [f"lrwxrwxrwx 1 root root 13 {NOW - DAY} system -> system-{current}-link"]
    lines += [
        f"lrwxrwxrwx 1 root root 57 {NOW - AGES[number] * DAY} system-{number}-link -> {system}"
        for number, system in SYSTEMS.items()
    ]
    return "\n".join([*lines, f"lrwxrwxrwx 1 root root 9 {NOW - 90 * DAY} per-user -> /x"]) + "\n"


def test_generations_older_than_the_limit_go_but_for_the_one_that_was_in_use_when_it_began():
    """Were generation 4 not there, 3 would be what ran until yesterday, and the only way back from 5."""
    assert old_generations(listing(booted=SYSTEMS[5], runs=SYSTEMS[5]), 14.0 * DAY) == (1, 2)
    assert old_generations(listing(booted=SYSTEMS[5], runs=SYSTEMS[5]), 5.0 * DAY) == (1, 2, 3)


def test_what_was_booted_and_what_runs_stays_however_old():
    assert old_generations(listing(booted=SYSTEMS[1], runs=SYSTEMS[3]), 14.0 * DAY) == (2,)


def test_the_current_generation_stays_however_old():
    assert old_generations(listing(booted=SYSTEMS[4], runs=SYSTEMS[4], current=2), 5.0 * DAY) == (1, 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "date: not found\n",
        listing(booted="/run/booted-system", runs=SYSTEMS[5]),
        listing(booted=store_path("nixos-system-of-no-generation"), runs=SYSTEMS[5]),
        listing(booted=SYSTEMS[5], runs=SYSTEMS[5]).replace("system -> system-5-link", ""),
    ],
    ids=["nothing", "no date", "no booted system", "booted from elsewhere", "no current generation"],
)
def test_where_it_cannot_be_told_what_is_needed_nothing_goes(text):
    assert old_generations(text, 14.0 * DAY) == ()
