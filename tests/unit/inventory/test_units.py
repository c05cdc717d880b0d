"""Durations, sizes, limits, times of day, time zones."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixkube_deploy.inventory.shape import Unfit
from nixkube_deploy.inventory.units import (
    duration,
    parse_duration,
    parse_size,
    show_duration,
    show_size,
    time_of_day,
    time_zone,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("2d", 172_800.0),
        ("1d2h3m4s5ms", 93_784.005),
        ("0s", 0.0),
        ("5ms", 0.005),
    ],
)
def test_a_duration_is_numbers_with_units_largest_first(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "s", "5 m", "-5s", "1m1h", "1m2m", "1.5m", "٣s", "1e3s", "5s\n", "9" * 99 + "s"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(Unfit):
        parse_duration(text)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=366 * 86_400_000))
def test_a_duration_that_is_shown_reads_back(milliseconds: int) -> None:
    assert parse_duration(show_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("60", "60s"),
        ("5 min", "5m"),
        ("10 Seconds", "10s"),
        ("2hours", "2h"),
        ("100 millis", "100ms"),
        ("soon", ""),
        ("3 days", "3d"),
    ],
)
def test_a_near_miss_is_spelled_right(text: str, better: str) -> None:
    assert duration().suggest(text) == better


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2 << 30), ("512B", 512), ("1.5TB", 1_500_000_000_000), ("500MB", 500_000_000), ("1KiB", 1024)],
)
def test_a_size_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["2", "2G", "GiB", "-1B", "2 GiB", "2gib"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(Unfit):
        parse_size(text)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=1 << 39))
def test_a_size_that_is_shown_reads_back(size: int) -> None:
    assert parse_size(show_size(size)) == size


def test_a_time_of_day_is_minutes_after_midnight() -> None:
    read = time_of_day()

    assert [read.convert(text, Path()) for text in ("00:00", "02:30", "24:00")] == [0, 150, 1440]
    assert read.plain(150) == "02:30"


@pytest.mark.parametrize("text", ["Mars/Olympus", "../../etc/passwd", "Europe", "/etc/localtime", "a" * 300])
def test_a_time_zone_that_is_none_is_unfit(text: str) -> None:
    with pytest.raises(Unfit):
        time_zone().convert(text, Path())


def test_a_near_miss_of_a_time_zone_is_spelled_right() -> None:
    with pytest.raises(Unfit) as caught:
        time_zone().convert("europe/zurich", Path())

    assert caught.value.hint == "did you mean `Europe/Zurich`?"
