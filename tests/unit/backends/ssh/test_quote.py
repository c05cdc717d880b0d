"""Quoting, judged by a real shell."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixkube_deploy.backends.ssh.quote import shell_line

WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=8))
def test_a_shell_takes_the_line_apart_into_the_same_words(words):
    line = shell_line(["printf", r"%s\0", *words])
    printed = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True).stdout
    expected = words or [""]  # printf uses its format once even without words.
    assert printed == b"".join(word.encode() + b"\0" for word in expected)


def test_plain_words_stay_readable():
    assert shell_line(["systemctl", "is-active", "k3s.service"]) == "systemctl is-active k3s.service"
    assert shell_line(["sh", "-c", "echo @name; id -u"]) == "sh -c 'echo @name; id -u'"


@pytest.mark.parametrize("argv", [[], ["a\0b"]])
def test_what_cannot_be_an_argv_is_refused(argv):
    with pytest.raises(ValueError, match=r"argument|word"):
        shell_line(argv)
