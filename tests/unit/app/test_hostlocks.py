"""Host locks of a run: taken on first use, given back with a host's last task, taken again when one was lost."""

import anyio
import anyio.lowlevel
import pytest

from nixkube_deploy.app.hostlocks import HostLocks, ReleaseWhenDone
from nixkube_deploy.model.action import Stage
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.event import Record, TaskSettled, TaskStarted, Verdict
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import HostName, RunId, TaskId
from nixkube_deploy.model.task import Task, TaskGraph
from tests.builders import a_host
from tests.fakes.shell import FakeShell

RUN = RunId("20261122T204931Z-3fa9")
W1, W2 = a_host("w1"), a_host("w2")


def lockable() -> FakeShell:
    return FakeShell().answers("flock")


async def test_a_lock_is_taken_once_and_kept_to_the_end():
    shell = lockable()
    async with HostLocks(shell, RUN) as locks:
        await locks.ensure(W1)
        await locks.ensure(W1)
        assert shell.held == ["w1"]
    assert shell.held == []
    assert [ran.argv[0] for ran in shell.ran] == ["flock"]


async def test_a_foreign_lock_fails_whoever_needs_it_and_nobody_else():
    shell = lockable().answers("flock", exit_code=75, host="w1", times=1).answers("cat", stdout="20260101T000000Z-beef")
    async with HostLocks(shell, RUN) as locks:
        await locks.ensure(W2)
        with pytest.raises(TaskError) as caught:
            await locks.ensure(W1)
        assert caught.value.failure.kind is FailureKind.LOCKED
        assert shell.held == ["w2"]
        await locks.ensure(W1)
        assert shell.held == ["w2", "w1"]


async def test_a_lock_that_was_lost_hurts_nobody_and_is_taken_again():
    shell = lockable()
    async with HostLocks(shell, RUN) as locks:
        await locks.ensure(W1)
        await locks.ensure(W2)
        shell.drops("w1")
        await _settle()
        assert shell.held == ["w2"]
        await locks.ensure(W1)
        assert shell.held == ["w2", "w1"]


async def test_a_lock_that_is_lost_while_it_is_given_back_hurts_nobody():
    shell = lockable()
    async with HostLocks(shell, RUN) as locks:
        await locks.ensure(W1)
        locks.release(W1.name)
        shell.drops("w1")
        await locks.ensure(W1)
        await _settle()
        assert shell.held == ["w1"]


async def test_a_host_is_unlocked_with_its_last_task_whatever_became_of_it():
    shell = lockable()
    steps = [TaskId("w1/a"), TaskId("w1/b"), TaskId("w2/a")]
    graph = TaskGraph(Task(id=each, action=Stage(), host=HostName(each[:2])) for each in steps)
    past = [_record(TaskSettled(task=TaskId("w1/a"), verdict=Verdict.SUCCEEDED))]
    async with HostLocks(shell, RUN) as locks:
        sink = ReleaseWhenDone(locks, graph, past)
        await locks.ensure(W1)
        await locks.ensure(W2)
        sink.saw(_record(TaskStarted(task=TaskId("w1/b"), attempt=1)))
        await _settle()
        assert shell.held == ["w1", "w2"]
        sink.saw(_record(TaskSettled(task=TaskId("w1/b"), verdict=Verdict.FAILED)))
        await _settle()
        assert shell.held == ["w2"]


def _record(event: TaskStarted | TaskSettled) -> Record:
    return Record(seq=0, at=0.0, event=event)


async def _settle() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
