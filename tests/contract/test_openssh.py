"""The same promises kept by our scripted server and by OpenSSH's: what holds against one holds against a real host."""

import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from anyio import run_process

from nixkube_deploy.backends.ssh.options import OpensshOptions
from nixkube_deploy.backends.ssh.shell import SshShell
from nixkube_deploy.model.error import OutcomeUnknown, TaskError, Unreachable
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import HostKeyPolicy
from nixkube_deploy.ports.shell import Command
from tests.fakes.sshd import Sshd, openssh_sshd, real_sshd, scripted_sshd, wire, write_key

NEEDS_SSHD = pytest.mark.skipif(openssh_sshd() is None, reason="OpenSSH's sshd is not installed")
NEEDS_SSH = pytest.mark.skipif(shutil.which("ssh") is None, reason="the OpenSSH client is not installed")
NEEDS_AGENT = pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="OpenSSH's ssh-agent is not installed")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["scripted", pytest.param("openssh", marks=NEEDS_SSHD)])
async def sshd(request, tmp_path: Path) -> AsyncIterator[Sshd]:
    start = {"scripted": scripted_sshd, "openssh": real_sshd}[request.param]
    async with start(tmp_path) as server:
        yield server


@pytest.fixture
async def shell() -> AsyncIterator[SshShell]:
    async with SshShell({}, None) as opened:
        yield opened


def sh(script: str, **rest) -> Command:
    return Command(argv=("sh", "-c", script), **rest)


async def test_output_errors_and_exit_code_come_back(shell, sshd):
    result = await shell.run(sshd.host(), sh("echo out; echo err >&2; exit 7"))
    assert (result.exit_code, result.stdout, result.stderr) == (7, "out\n", "err\n")


async def test_words_arrive_as_they_were_written(shell, sshd):
    words = ("it's", 'a "b"', "$HOME", "`id`", "a\nb", "", "*", "ü", "\\")
    result = await shell.run(
        sshd.host(), Command(argv=("sh", "-c", r"printf '[%s]' \"$@\"".replace("\\", ""), "sh", *words))
    )
    assert result.stdout == "".join(f"[{word}]" for word in words)


async def test_input_arrives_whole_and_ends(shell, sshd):
    result = await shell.run(sshd.host(), sh("wc -c", stdin="x" * 3_000_000))
    assert result.stdout.strip() == "3000000"


async def test_a_missing_program_is_a_result(shell, sshd):
    assert (await shell.run(sshd.host(), Command(argv=("no-such-program",)))).exit_code == 127


async def test_a_flood_keeps_its_end(shell, sshd):
    result = await shell.run(sshd.host(), sh("yes | head -c 5000000; echo the end"))
    assert result.truncated
    assert result.stdout.endswith("y\nthe end\n")


async def test_a_signal_has_the_shells_exit_code(shell, sshd):
    result = await shell.run(sshd.host(), sh("kill -TERM $$"))
    assert result.exit_code in {143, 241}  # The scripted server passes Python's -15 on as a byte.


async def test_one_connection_serves_many_commands_at_once(shell, sshd):
    host, heard = sshd.host(), []

    async def one(number: int) -> None:
        heard.append((await shell.run(host, sh(f"echo {number}; echo $PPID >&2"))).stdout)

    async with anyio.create_task_group() as group:
        for number in range(25):
            group.start_soon(one, number)
    assert sorted(heard, key=int) == [f"{number}\n" for number in range(25)]


async def test_a_wire_that_is_cut_leaves_the_outcome_unknown(shell, sshd):
    unknown = []

    async def one(host) -> None:
        with pytest.raises(OutcomeUnknown) as caught:
            await shell.run(host, sh("sleep 20", timeout=15))
        unknown.append(caught.value.failure.message)

    async with wire(sshd.port) as cut, anyio.create_task_group() as group:
        group.start_soon(one, sshd.host(port=cut.port, keepalive=0.05))
        await anyio.sleep(0.3)
        cut.silence()
    assert "the connection was lost" in unknown[0]


async def test_a_deadline_leaves_the_outcome_unknown_and_the_connection_usable(shell, sshd):
    host = sshd.host()
    with pytest.raises(OutcomeUnknown, match="no end within"):
        await shell.run(host, sh("sleep 3", timeout=0.2))
    assert (await shell.run(host, sh("echo x"))).stdout == "x\n"


async def test_a_wrong_pin_is_refused(shell, sshd, tmp_path):
    key = write_key(tmp_path / "wrong")
    with pytest.raises(TaskError) as caught:
        await shell.run(sshd.host(host_key=key.export_public_key().decode()), sh("true"))
    assert caught.value.failure.kind is FailureKind.HOST_KEY


async def test_a_new_key_is_recorded_as_openssh_would(shell, sshd, tmp_path):
    known = tmp_path / "known"
    host = sshd.host(host_key=None, known_hosts=str(known), host_key_policy=HostKeyPolicy.ACCEPT_NEW)
    await shell.run(host, sh("true"))
    assert known.read_text() == f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n"


async def test_a_key_that_may_not_log_in_is_denied(shell, sshd, tmp_path):
    write_key(tmp_path / "stranger")
    with pytest.raises(TaskError) as caught:
        await shell.run(sshd.host(identity_file=str(tmp_path / "stranger")), sh("true"))
    failure = caught.value.failure
    assert failure.kind is FailureKind.AUTHENTICATION
    assert "the host allows publickey" in failure.seen


async def test_a_fresh_connection_and_a_forgotten_one_work(shell, sshd):
    host = sshd.host()
    assert (await shell.run(host, sh("true"))).ok
    assert (await shell.run_fresh(host, sh("true"))).ok
    await shell.forget(host)
    assert (await shell.run(host, sh("true"))).ok


async def test_a_host_is_reached_through_itself(sshd):
    gate = sshd.host("gate")
    async with SshShell({gate.name: gate}, None) as shell:
        assert (await shell.run(sshd.host("w1", jump="gate"), sh("echo through"))).stdout == "through\n"
        with pytest.raises(Unreachable, match="through gate"):
            await shell.run(sshd.host("w2", jump="gate", port=1), sh("true"))


@pytest.fixture
def agent(sshd, tmp_path, monkeypatch):
    """An agent that holds the server's key, and a home without any."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    monkeypatch.setenv("HOME", str(tmp_path))
    while not socket.exists():
        time.sleep(0.02)
    subprocess.run(["ssh-add", "-q", sshd.identity_file], check=True, stderr=subprocess.DEVNULL)
    yield
    process.terminate()
    process.wait()


@NEEDS_AGENT
@pytest.mark.usefixtures("agent")
async def test_a_key_in_the_agent_is_used(sshd):
    async with SshShell({}, None) as shell:
        assert (await shell.run(sshd.host(identity_file=None), sh("echo x"))).stdout == "x\n"


@NEEDS_AGENT
@pytest.mark.usefixtures("agent")
async def test_an_encrypted_key_that_the_agent_holds_is_used(sshd, tmp_path):
    locked = tmp_path / "locked"
    shutil.copy(sshd.identity_file, locked)
    shutil.copy(f"{sshd.identity_file}.pub", f"{locked}.pub")
    await run_process(["ssh-keygen", "-q", "-p", "-P", "", "-N", "a passphrase", "-f", str(locked)])
    async with SshShell({}, None) as shell:
        assert (await shell.run(sshd.host(identity_file=str(locked)), sh("echo x"))).stdout == "x\n"


@NEEDS_SSHD
async def test_a_held_command_ends_with_the_block(shell, tmp_path):
    async with real_sshd(tmp_path) as server:
        lock = tmp_path / "lock"
        held = Command(
            argv=("flock", "--nonblock", "--conflict-exit-code", "75", str(lock), "sh", "-c", "echo locked; cat")
        )
        async with shell.hold(server.host(), held) as first:
            assert first is None
            async with shell.hold(server.host(), held) as second:
                assert second is not None
                assert second.exit_code == 75
        async with shell.hold(server.host(), held) as third:
            assert third is None


@NEEDS_SSHD
async def test_a_host_that_allows_few_sessions_gets_its_commands_one_after_another(shell, tmp_path):
    async with real_sshd(tmp_path, "MaxSessions 2\n") as server, anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(shell.run, server.host(), sh("sleep 0.2"))


@NEEDS_SSHD
async def test_a_host_that_allows_no_session_says_so(shell, tmp_path):
    async with real_sshd(tmp_path, "MaxSessions 0\n") as server:
        with pytest.raises(TaskError, match="the host opens no session") as caught:
            await shell.run(server.host(connect_timeout=1), sh("true"))
    assert "MaxSessions" in caught.value.failure.next


@NEEDS_SSH
@pytest.mark.parametrize("behind", [False, True], ids=["direct", "through a jump host"])
async def test_openssh_reaches_the_same_host_with_the_options_we_make(sshd, tmp_path, behind):
    gate = sshd.host("gate")
    host = sshd.host("w1", jump="gate" if behind else None)
    made = OpensshOptions({gate.name: gate, host.name: host}, tmp_path / "run")(host)
    done = await run_process(["ssh", *made.options, made.destination, "echo reached"], check=False)
    assert done.stdout == b"reached\n", done.stderr.decode()


@NEEDS_SSH
async def test_openssh_refuses_a_wrong_pin_too(sshd, tmp_path):
    other = write_key(tmp_path / "other").export_public_key().decode()
    host = replace(sshd.host("w1", host_key=other))
    made = OpensshOptions({host.name: host}, tmp_path / "run")(host)
    done = await run_process(["ssh", *made.options, made.destination, "true"], check=False)
    assert done.returncode == 255
    assert b"Host key verification failed" in done.stderr
