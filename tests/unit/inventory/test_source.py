"""Snippets: the right line, the caret under the right column, and no secret."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixkube_deploy.inventory.source import Mark, Source


def source(text: str) -> Source:
    return Source(name="fleet.yaml", text=text, base=Path("/"))


def test_the_caret_stands_under_the_place() -> None:
    assert source("a: 1\nbc: def\n").snippet(Mark(1, 4, 3)) == "  2 | bc: def\n    |     ^^^"


def test_the_caret_stands_under_the_place_after_wide_characters() -> None:
    shown = source("日本: x").snippet(Mark(0, 4, 1)).splitlines()[1]

    assert shown == "    |       ^"


@pytest.mark.parametrize(
    "line",
    [
        "password: hunter2",
        "  admin_passwd: 'hunter2, hunter2'",
        "x: {apiToken: hunter2, b: hunter2}",
        '"client-secret" : hunter2',
        "privilege_password: {value: hunter2}",
        "privilege_password: [hunter2]",
    ],
)
def test_what_may_be_a_secret_is_not_echoed(line: str) -> None:
    assert "hunter2" not in source(line).snippet(Mark(0, 0))


@pytest.mark.parametrize("line", ["privilege_password: {env: NAME}", "password: { file: /run/x }"])
def test_a_reference_to_a_secret_is_echoed(line: str) -> None:
    assert line in source(line).snippet(Mark(0, 0))


@settings(deadline=None)
@given(st.text(max_size=400), st.integers(0, 20), st.integers(0, 400), st.integers(1, 400))
def test_a_snippet_is_two_short_printable_lines(text: str, line: int, column: int, length: int) -> None:
    shown = source(text).snippet(Mark(line, column, length))

    assert shown.count("\n") == 1
    assert all(len(part) < 250 for part in shown.split("\n"))
    assert all(c == "\n" or c.isprintable() for c in shown)
    assert not any(unicodedata.category(c) == "Cc" for c in shown.replace("\n", ""))
