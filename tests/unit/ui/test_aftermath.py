"""What the summary says was done about a failure: told from the steps that answered it."""

from collections.abc import Callable

import pytest

from nixkube_deploy.model.event import Outcome, SkipCause, Verdict
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ui.summary import summarise
from tests.unit.ui.stories import Story, a_story, stage

PLAIN = Failure(kind=FailureKind.GATE, message="it broke")


def did(host: str, tell: Callable[[Story], None]) -> str:
    story = a_story()
    stage(story)
    tell(story)
    story.rest(host, SkipCause.DEPENDENCY, "needs something")
    story.end(Outcome.HALTED)
    summary = next(h for h in summarise(story.plan, story.records).hosts if h.host == host)
    assert summary.failure is not None
    return summary.failure.did


def broken(story: Story, task: str) -> None:
    story.start(task)
    story.fail(task, PLAIN)


def emptied(story: Story) -> None:
    story.do("w2/cordon", "w2/drain")


def test_a_host_that_was_not_begun_is_what_it_was():
    def tell(story: Story) -> None:
        broken(story, "w2/cordon")
        story.do("w2/undrain")

    assert did("w2", tell) == "nothing: the host still is what it was"


def test_a_drain_that_failed_is_undone():
    def tell(story: Story) -> None:
        story.do("w2/cordon")
        broken(story, "w2/drain")
        story.do("w2/undrain")

    assert did("w2", tell) == "uncordoned its Node"


def test_a_node_that_was_cordoned_before_the_run_stays_so():
    def tell(story: Story) -> None:
        story.do("w2/cordon")
        broken(story, "w2/drain")
        story.start("w2/undrain")
        story.ok("w2/undrain", verdict=Verdict.UNCHANGED, detail="stays cordoned, as it was before the run")

    assert did("w2", tell) == "its Node stays cordoned, as it was before the run"


def test_a_host_that_was_taken_back_and_is_healthy_is_given_back():
    def tell(story: Story) -> None:
        emptied(story)
        broken(story, "w2/activate")
        story.do("w2/rollback", "w2/rollback-gate", "w2/rollback-uncordon")

    assert did("w2", tell).endswith("nixos-system-w2-25.11, where it is healthy; uncordoned its Node")


@pytest.mark.parametrize(
    ("well", "broke", "expected"),
    [
        ((), "w2/rollback", "which failed: it broke; its Node stays cordoned"),
        (("w2/rollback",), "w2/rollback-gate", "where it is not healthy either: it broke; its Node stays cordoned"),
        (
            ("w2/rollback", "w2/rollback-gate"),
            "w2/rollback-uncordon",
            "where it is healthy; its Node stays cordoned; it could not be uncordoned: it broke",
        ),
    ],
)
def test_a_way_back_that_breaks_says_where_and_that_the_node_stays_cordoned(well, broke, expected):
    def tell(story: Story) -> None:
        emptied(story)
        broken(story, "w2/gate")
        story.do(*well)
        broken(story, broke)

    assert did("w2", tell).endswith(expected)


def test_a_switch_that_was_never_confirmed_is_undone_by_the_host_itself():
    def unconfirmed(story: Story) -> None:
        emptied(story)
        story.do("w2/activate", "w2/prove")
        broken(story, "w2/gate")

    def rebooted(story: Story) -> None:
        emptied(story)
        story.do("w2/activate", detail="switch; needs a reboot: its init changed; rebooted")
        broken(story, "w2/prove")

    told = did("w2", unconfirmed)
    assert told.startswith("left the host's own timer armed, which takes it back to /nix/store/")
    assert told.endswith("nixos-system-w2-25.11; its Node stays cordoned")
    assert did("w2", rebooted) == "its Node stays cordoned"


def test_nothing_is_told_before_it_is_known():
    story = a_story()
    stage(story)
    emptied(story)
    broken(story, "w2/activate")
    summary = next(h for h in summarise(story.plan, story.records).hosts if h.host == "w2")
    assert summary.failure == PLAIN
