"""Bytes in words."""

import pytest

from nixkube_deploy.model.size import growth_text, size_text, told_apart


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10_000, "9.8 KiB"),
        (10_189, "10 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (34 * 1024**2 + 100_000, "34 MiB"),
        (1_400_000_000, "1.3 GiB"),
        (5 * 1024**4, "5.0 TiB"),
        (5000 * 1024**4, "5000 TiB"),
        (-3 * 1024**2, "-3.0 MiB"),
    ],
)
def test_sizes_have_two_digits_that_say_something(size, text):
    assert size_text(size) == text


def test_growth_has_its_sign():
    assert [growth_text(n) for n in (2048, 0, -2048)] == ["+2.0 KiB", "0 B", "-2.0 KiB"]


def test_sizes_that_differ_by_little_are_told_to_the_byte():
    assert told_apart(3 * 2**30, 2**30) == ("3.0 GiB", "1.0 GiB")
    assert told_apart(100 * 2**20, 100 * 2**20 - 1) == ("104,857,600 B", "104,857,599 B")
    assert told_apart(4096, 4096) == ("4.0 KiB", "4.0 KiB")
