"""What must hold of a journal wherever its writer is killed, whatever was written and whatever is left of it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixkube_deploy.journal.file import open_journal
from nixkube_deploy.journal.history import runs
from nixkube_deploy.model.error import DeployError
from nixkube_deploy.model.event import (
    Event,
    Outcome,
    RunDraining,
    RunFinished,
    RunStarted,
    SkipCause,
    TaskInterrupted,
    TaskRetrying,
    TaskSettled,
    TaskStarted,
    Verdict,
)
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.rollout import Plan
from tests.builders import a_flake, a_graph
from tests.fakes.clock import ManualClock

RUN = RunId("20261123T030000Z-3fa9")
PLAN = Plan(inventory="/i.yaml", digest="d", flake=a_flake(), hosts=(), graph=a_graph("w1/copy>w1/switch"))

tasks = st.sampled_from(["w1/copy", "w1/switch"])
lines = st.text(st.characters(exclude_categories=()), max_size=20)
"""Any text at all, lone surrogates, newlines and control characters included: evidence comes from hosts."""
failures = st.builds(
    Failure,
    kind=st.sampled_from(FailureKind),
    message=lines,
    evidence=st.lists(lines, max_size=3).map(tuple),
    exit_code=st.none() | st.integers(0, 255),
    transient=st.booleans(),
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(RunStarted, run=st.just(RUN), fingerprint=lines, resumed=st.booleans()),
    st.builds(TaskStarted, task=tasks, attempt=st.integers(1, 9)),
    st.builds(TaskRetrying, task=tasks, attempt=st.integers(1, 9), failure=failures, delay=st.floats(0, 1e6)),
    st.builds(
        TaskSettled,
        task=tasks,
        verdict=st.sampled_from(Verdict),
        detail=lines,
        skip=st.none() | st.sampled_from(SkipCause),
        failure=st.none() | failures,
    ),
    st.builds(TaskInterrupted, task=tasks),
    st.builds(RunDraining, reason=lines),
    st.builds(RunFinished, outcome=st.sampled_from(Outcome)),
)


@contextmanager
def a_journal(happened: list[Event]) -> Iterator[tuple[Path, Path]]:
    """A state directory and the path of a journal with these events."""
    with TemporaryDirectory() as directory:
        state = Path(directory)
        with open_journal(state, RUN, PLAN, ManualClock()) as journal:
            for event in happened:
                journal.append(event)
        yield state, state / "runs" / f"{RUN}.jsonl"


def reopened(state: Path, then: Event) -> tuple[Event, ...]:
    """What a new controller finds; it goes on writing, and reads all of it back."""
    with open_journal(state, RUN, PLAN, ManualClock()) as journal:
        past = tuple(record.event for record in journal.past)
        record = journal.append(then)
        assert record.seq == len(past)
        assert journal.records() == (*journal.past, record)
    return past


SAMPLE: list[Event] = [
    RunStarted(run=RUN, fingerprint="f"),
    TaskStarted(task=PLAN.graph["w1/copy"].id, attempt=1),
    TaskSettled(task=PLAN.graph["w1/copy"].id, verdict=Verdict.SUCCEEDED, detail="é\n"),
    RunFinished(outcome=Outcome.CONVERGED),
]


def test_a_journal_cut_at_any_byte_keeps_every_record_whose_append_returned() -> None:
    with a_journal(SAMPLE) as (state, path):
        whole = path.read_bytes()
        header = whole.index(b"\n") + 1
        for cut in range(len(whole) + 1):
            path.write_bytes(whole[:cut])
            if cut < header:
                with pytest.raises(DeployError, match="ends before its header"):
                    reopened(state, SAMPLE[1])
                continue
            assert list(reopened(state, SAMPLE[1])) == SAMPLE[: whole[header:cut].count(b"\n")]


@given(happened=st.lists(events, max_size=8), then=events)
@settings(max_examples=200, deadline=None)
def test_whatever_is_appended_is_read_back_as_it_was(happened: list[Event], then: Event) -> None:
    with a_journal(happened) as (state, _):
        assert list(reopened(state, then)) == happened


@given(happened=st.lists(events, min_size=1, max_size=6), then=events, data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_journal_killed_anywhere_can_be_continued(happened: list[Event], then: Event, data: st.DataObject) -> None:
    with a_journal(happened) as (state, path):
        whole = path.read_bytes()
        header = whole.index(b"\n") + 1
        cut = data.draw(st.integers(header, len(whole)), label="cut")
        zeros = data.draw(st.sampled_from([0, 1, 511]), label="zeros")
        path.write_bytes(whole[:cut] + b"\0" * zeros)
        assert list(reopened(state, then)) == happened[: whole[header:cut].count(b"\n")]


@given(happened=st.lists(events, min_size=1, max_size=4), data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_journal_with_any_damage_is_listed_and_opened_or_refused_in_words(
    happened: list[Event], data: st.DataObject
) -> None:
    with a_journal(happened) as (state, path):
        whole = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3), label="bytes")):
            whole[data.draw(st.integers(0, len(whole) - 1), label="at")] = data.draw(st.integers(0, 255), label="byte")
        path.write_bytes(whole)
        assert len(runs(state)) == 1
        with suppress(DeployError):
            reopened(state, SAMPLE[1])
