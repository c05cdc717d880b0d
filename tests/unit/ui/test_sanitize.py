"""Nothing a host prints can act on a terminal or a CI runner, and what people write stays readable."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nixkube_deploy.ui.sanitize import MAX_LENGTH, clean, clean_lines

HOSTILE = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\x1b\x9b\x90\x9d\x07\x9c\r\n\t[]0;mHJKPX^_\\\u202e\u2066\u200b\u2028#:"),
    )
)


@given(HOSTILE)
@example("\x1b")
@example("\x1b[")
@example("\x1b]0;title")
@example("##vso[task.setvariable]")
@example("####vso[[")
def test_no_control_or_format_character_survives(text: str) -> None:
    safe = clean(text)
    assert all(unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for c in safe)
    assert len(safe) <= MAX_LENGTH
    assert "##vso[" not in safe.lower()
    assert "##[" not in safe
    assert not safe.lstrip().startswith("::a")


@given(HOSTILE)
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    once = clean(text)
    assert clean(once) == once


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="#:"), max_size=200))
def test_plain_text_passes_unchanged(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("dirty", "safe"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]52;c;aGFjaw==\x07clipboard", "clipboard"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("\x1bP+q\x1b\\answer", "answer"),
        ("one\rtwo", "one two"),
        ("a\tb", "a    b"),
        ("\x1b]0;never closed", ""),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("zero\u200bwidth", "zerowidth"),
        ("::set-output name=x::y", ": :set-output name=x::y"),
        ("  ::add-mask::x", "  : :add-mask::x"),
        ("##vso[task]", "# #vso[task]"),
        ("see::this", "see::this"),
        ("naïve 日本語 ✓", "naïve 日本語 ✓"),
        ("z" + "\u0301" * 9, "z" + "\u0301" * 2),
    ],
)
def test_each_trick_is_disarmed(dirty: str, safe: str) -> None:
    assert clean(dirty) == safe


def test_a_flood_is_cut_and_says_so() -> None:
    safe = clean("x" * 10_000_000)
    assert len(safe) == MAX_LENGTH
    assert safe.endswith("...")


def test_an_endless_string_sequence_costs_little() -> None:
    assert clean("\x1b]" * 1_000_000) == ""


def test_lines_are_split_before_they_are_cleaned() -> None:
    assert clean_lines(["a\nb\r\nc", "\x1b]0;x\ny"]) == ("a", "b", "c", "", "y")
