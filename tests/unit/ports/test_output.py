"""Output of hostile hosts: bounded and harmless."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixkube_deploy.ports.output import LONGEST_LINE, TAIL, Lines, Tail, harmless

NASTY = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\x1b\x9b\x9d\x90\x07\x9c\r\n\t[]P\\;?m31\u202e\u2066\u200b\u2028\x85\x00"),
    )
)


@given(NASTY)
def test_no_control_character_survives(text):
    for character in harmless(text):
        assert character in "\n\t" or unicodedata.category(character) not in {"Cc", "Cf", "Zl", "Zp", "Cs"}


@given(NASTY)
def test_cleaning_twice_changes_nothing_more(text):
    once = harmless(text)
    assert harmless(once) == once


@given(st.text(st.characters(whitelist_categories=("L", "N", "P", "S"))))
def test_ordinary_text_in_any_script_is_left_alone(text):
    assert harmless(text) == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;owned\x07title", "title"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0;2\x1b\\sixel", "sixel"),
        ("\x9b31mred", "red"),
        ("10%\r20%\r\n", "20%\n"),
        ("rm -rf /\rls", "ls"),
        ("abc\x1b[2Kdef", "abcdef"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("\x1b(Bplain\x1b=", "plain"),
        ("cut off \x1b[31", "cut off "),
        ("tab\tstays", "tab\tstays"),
        ("a\x08b\x7fc", "abc"),
        ("one\u2028two", "onetwo"),
    ],
)
def test_sequences_are_gone_and_text_stays(raw, shown):
    assert harmless(raw) == shown


@given(st.lists(st.binary(max_size=200)), st.integers(1, 64))
def test_a_tail_is_the_end_of_what_went_by(chunks, limit):
    tail, whole = Tail(limit), b"".join(chunks)
    for chunk in chunks:
        tail.feed(chunk)
    kept = whole[-limit:]
    assert tail.seen == len(whole)
    assert tail.truncated == (len(whole) > limit)
    if tail.truncated and b"\n" in kept[:-1]:
        kept = kept[kept.index(b"\n") + 1 :]
    assert tail.text() == harmless(kept.decode("utf-8", "replace"))


def test_a_tail_stays_small_whatever_goes_by():
    tail = Tail()
    for _ in range(200_000):
        tail.feed(b"x")
    tail.feed(b"y" * 10 * TAIL)
    assert sum(map(len, tail._chunks)) <= 3 * TAIL
    assert len(tail._chunks) <= 1025
    assert tail.text() == "y" * TAIL


@given(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r")), st.integers(1, 7))
def test_lines_arrive_whole_however_they_are_cut(text, size):
    heard, data = [], text.encode()
    lines = Lines(heard.append)
    for start in range(0, len(data), size):
        lines.feed(data[start : start + size])
    lines.end()
    expected = text.split("\n")
    assert heard == [harmless(line) for line in (expected if expected[-1] else expected[:-1])]


def test_a_line_without_end_is_cut_and_says_so():
    heard = []
    lines = Lines(heard.append)
    for _ in range(100):
        lines.feed(b"z" * 10_000)
    assert len(lines._rest) <= 2 * LONGEST_LINE
    lines.feed(b"\nnext\n")
    assert heard == ["z" * LONGEST_LINE + "…", "next"]


def test_a_progress_bar_shows_its_last_state():
    heard = []
    lines = Lines(heard.append)
    for number in range(10_000):
        lines.feed(f"\r{number} of 10000".encode())
    lines.feed(b"\n")
    assert heard == ["9999 of 10000"]
