"""A failure's fixed layout, as golden files."""

import pytest

from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ui.failure import render_failure
from tests.unit.ui.stories import ACTIVATION, DRAIN, golden


@pytest.mark.parametrize(
    ("name", "subject", "failure", "width"),
    [
        ("failure-drain.txt", "w2/drain", DRAIN, 100),
        ("failure-drain-narrow.txt", "w2/drain", DRAIN, 50),
        ("failure-activation.txt", "w1/activate", ACTIVATION, 100),
    ],
)
def test_a_failure_has_one_layout(name: str, subject: str, failure: Failure, width: int) -> None:
    golden(name, render_failure(subject, failure, width))


def test_what_is_not_known_has_no_line() -> None:
    bare = Failure(kind=FailureKind.COMMAND, message="it failed")
    assert render_failure("w1/copy", bare) == "w1/copy failed: it failed"


def test_hostile_evidence_is_shown_harmless_and_line_by_line() -> None:
    hostile = Failure(
        kind=FailureKind.BUILD, message="a\x1b[2Jb", evidence=("x\ny", "::error::z"), next="echo \x1b]0;t\x07hi"
    )
    assert render_failure("w1", hostile).splitlines() == [
        "w1 failed: ab",
        "  evidence  | x",
        "            | y",
        "            | : :error::z",
        "  next      echo hi",
    ]


def test_what_is_to_be_typed_is_never_wrapped() -> None:
    long = Failure(kind=FailureKind.COMMAND, message="m", next="ssh w1 " + "x" * 200)
    assert len(render_failure("w1", long, 40).splitlines()) == 2
