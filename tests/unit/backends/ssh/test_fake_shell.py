"""The fake keeps the port's promises, on virtual time."""

import anyio
import pytest
import trio.testing

from nixkube_deploy.model.error import OutcomeUnknown, Unreachable
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import Command, CommandResult
from tests.fakes.process import FakeProcesses
from tests.fakes.shell import FakeShell

W1 = Host(name=HostName("w1"), address="w1", groups=())


@pytest.fixture
def anyio_backend():
    return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})


async def test_the_longest_prefix_answers_and_limited_answers_come_first():
    shell = FakeShell().answers("systemctl", stdout="any").answers("systemctl", "is-active", stdout="active\n")
    shell.answers("systemctl", "is-active", stdout="activating\n", exit_code=3, times=1)
    states = [(await shell.run(W1, Command(argv=("systemctl", "is-active", "k3s")))).stdout for _ in range(3)]
    assert states == ["activating\n", "active\n", "active\n"]
    assert (await shell.run(W1, Command(argv=("nope",)))).exit_code == 127


async def test_a_slow_command_costs_nothing_and_overruns_its_deadline():
    shell = FakeShell().answers("sleep", takes=3600)
    start = anyio.current_time()
    with pytest.raises(OutcomeUnknown):
        await shell.run(W1, Command(argv=("sleep",), timeout=600))
    assert anyio.current_time() - start == 600


async def test_a_lost_command_may_have_done_its_work():
    done = []
    shell = FakeShell().loses(
        "switch", first=lambda host, command: done.append(host.name) or CommandResult(exit_code=0)
    )
    with pytest.raises(OutcomeUnknown):
        await shell.run(W1, Command(argv=("switch",)))
    assert done == ["w1"]


async def test_an_unreachable_host_sees_nothing():
    shell = FakeShell()
    shell.unreachable("w1")
    with pytest.raises(Unreachable):
        await shell.run(W1, Command(argv=("true",)))
    assert shell.ran == []


async def test_a_held_command_is_held():
    shell = FakeShell().answers("flock", stdout="locked\n")
    async with shell.hold(W1, Command(argv=("flock",))) as result:
        assert result is None
        assert shell.held == ["w1"]
    assert shell.held == []


async def test_fake_programs_answer_by_name_or_path():
    processes = FakeProcesses().answers("nix", "build", stdout="[]", stderr="building\n", takes=30)
    heard = []
    assert (await processes.run(Invocation(argv=("/bin/nix", "build", "x")), heard.append)).stdout == "[]"
    assert heard == ["building"]
    assert processes.lines() == ["/bin/nix build x"]
