"""The host's lock: taken, named, refused, and waited for when it is our own."""

import re

import pytest
from trio.testing import MockClock

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.protocols.hostlock import lock_host
from tests.builders import a_host
from tests.fakes.shell import FakeShell

RUN = RunId("20261122T204931Z-3fa9")
HOST = a_host("w1")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def test_the_lock_is_held_for_the_block_and_bears_the_runs_name():
    shell = FakeShell().answers("flock")
    async with lock_host(shell, HOST, RUN):
        assert shell.held == ["w1"]
    assert shell.held == []
    take = "flock --nonblock --close --conflict-exit-code 75 /run/nixkube-deploy.lock sh -c"
    keep = f"echo {RUN} >/run/nixkube-deploy.holder; echo locked; cat >/dev/null"
    assert [ran.line for ran in shell.ran] == [f"{take} {keep}"]
    assert all(ran.command.privileged for ran in shell.ran)


async def test_a_lock_of_another_run_is_refused_naming_it():
    shell = FakeShell().answers("flock", exit_code=75).answers("cat", stdout="20260101T000000Z-dead\n")
    with pytest.raises(TaskError) as caught:
        async with lock_host(shell, HOST, RUN):
            pytest.fail("never held")
    assert caught.value.failure.kind is FailureKind.LOCKED
    assert "20260101T000000Z-dead" in caught.value.failure.message


async def test_a_lock_whose_holder_is_unknown_is_refused_too():
    shell = FakeShell().answers("flock", exit_code=75).answers("cat", exit_code=1)
    with pytest.raises(TaskError, match="unknown"):
        async with lock_host(shell, HOST, RUN):
            pytest.fail("never held")


async def test_our_own_dying_lock_is_waited_for():
    shell = FakeShell().answers("flock", exit_code=75, times=1).answers("flock")
    shell.answers("cat", stdout=f"{RUN}\n")
    async with lock_host(shell, HOST, RUN):
        assert shell.held == ["w1"]
    assert "pkill" not in {ran.argv[0] for ran in shell.ran}


async def test_a_connection_of_our_own_that_nobody_has_the_other_end_of_is_ended():
    shell = FakeShell().answers("flock", exit_code=75, times=2).answers("flock").answers("pkill")
    shell.answers("cat", stdout=f"{RUN}\n")
    async with lock_host(shell, HOST, RUN):
        assert shell.held == ["w1"]
    (kill,) = (ran for ran in shell.ran if ran.argv[0] == "pkill")
    take = next(ran.line for ran in shell.ran if ran.argv[0] == "flock")
    assert kill.command.privileged
    assert re.search(kill.argv[2], take)
    assert not re.search(kill.argv[2], kill.line)
    assert not re.search(kill.argv[2], take.replace(RUN, "20260101T000000Z-dead"))


async def test_a_lock_that_a_run_of_ours_left_behind_is_ended_too():
    dead = "20260101T000000Z-dead"
    shell = FakeShell().answers("flock", exit_code=75, times=2).answers("flock").answers("pkill")
    shell.answers("cat", stdout=f"{dead}\n")
    async with lock_host(shell, HOST, RUN, lambda name: name == dead):
        assert shell.held == ["w1"]
    (kill,) = (ran for ran in shell.ran if ran.argv[0] == "pkill")
    take = next(ran.line for ran in shell.ran if ran.argv[0] == "flock")
    assert re.search(kill.argv[2], take.replace(RUN, dead))
    assert not re.search(kill.argv[2], take)


async def test_our_own_lock_is_not_waited_for_forever():
    shell = FakeShell().answers("flock", exit_code=75).answers("cat", stdout=f"{RUN}\n").answers("pkill", exit_code=1)
    with pytest.raises(TaskError):
        async with lock_host(shell, HOST, RUN):
            pytest.fail("never held")
    assert shell.lines().count("cat /run/nixkube-deploy.holder") == 5


async def test_a_host_that_cannot_lock_says_why():
    shell = FakeShell().answers("flock", exit_code=127, stderr="sh: flock: not found\n")
    with pytest.raises(TaskError) as caught:
        async with lock_host(shell, HOST, RUN):
            pytest.fail("never held")
    assert caught.value.failure.kind is FailureKind.COMMAND
    assert caught.value.failure.evidence == ("sh: flock: not found",)


async def test_an_error_in_the_block_comes_out_as_it_is_and_frees_the_lock():
    shell = FakeShell().answers("flock")
    with pytest.raises(ZeroDivisionError):
        async with lock_host(shell, HOST, RUN):
            raise ZeroDivisionError
    assert shell.held == []
