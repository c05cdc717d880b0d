"""Connecting, and every way it can fail."""

import socket
import time

import anyio
import pytest

from nixkube_deploy.backends.ssh.connections import SshLimits
from nixkube_deploy.backends.ssh.shell import SshShell
from nixkube_deploy.model.error import OutcomeUnknown, TaskError, Unreachable
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host, SshSettings
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import Command
from tests.fakes.sshd import scripted_sshd, wire, write_key

TRUE = Command(argv=("true",))


async def unreachable(shell, host, command=TRUE):
    with pytest.raises(Unreachable) as caught:
        await shell.run(host, command)
    assert caught.value.failure.kind is FailureKind.UNREACHABLE
    return caught.value.failure


async def denied(shell, host):
    with pytest.raises(TaskError) as caught:
        await shell.run(host, TRUE)
    assert caught.value.failure.kind is FailureKind.AUTHENTICATION
    return caught.value.failure


# Authentication.


async def test_a_key_the_host_does_not_know_is_named(shell, sshd, tmp_path):
    key = write_key(tmp_path / "other")
    failure = await denied(shell, sshd.host(identity_file=str(tmp_path / "other")))
    assert failure.message == f"w1 (root@127.0.0.1:{sshd.port}) does not let root in"
    assert f"{tmp_path}/other (ssh-ed25519 {key.get_fingerprint()})" in failure.seen
    assert "no agent" in failure.seen
    assert "the host allows publickey" in failure.seen
    assert f"{tmp_path}/other.pub" in failure.next


async def test_a_missing_identity_file_is_said_before_connecting(shell, sshd):
    failure = await denied(shell, sshd.host(identity_file="/nowhere/id"))
    assert failure.message == "w1: the identity file /nowhere/id cannot be used: no such file or directory"
    assert sshd.handshakes == 0


async def test_a_file_that_is_no_key_is_said(shell, sshd, tmp_path):
    (tmp_path / "junk").write_text("junk\n")
    assert "cannot be used" in (await denied(shell, sshd.host(identity_file=str(tmp_path / "junk")))).message


async def test_an_encrypted_key_asks_for_ssh_add(shell, sshd, tmp_path, monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", "")
    write_key(tmp_path / "locked", "secret")
    failure = await denied(shell, sshd.host(identity_file=str(tmp_path / "locked")))
    assert failure.next.startswith(f"ssh-add {tmp_path}/locked")


async def test_an_agent_that_is_gone_does_not_matter(shell, sshd, monkeypatch, tmp_path):
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    monkeypatch.setenv("HOME", str(tmp_path))
    failure = await denied(shell, sshd.host(identity_file=None))
    assert "no agent" in failure.seen


# The network.


async def test_a_name_without_an_address_is_said(shell):
    host = Host(name=HostName("w1"), address="w1.invalid", groups=(), ssh=SshSettings(config="none", connect_timeout=5))
    failure = await unreachable(shell, host)
    assert "the name w1.invalid has no address" in failure.message


async def test_a_host_that_does_not_answer_is_said_with_the_seconds(shell, sshd, silent_port):
    started = time.monotonic()
    failure = await unreachable(shell, sshd.host(port=silent_port, connect_timeout=0.3))
    assert "no answer within 0.3 s" in failure.message
    assert time.monotonic() - started < 2


async def test_a_host_that_never_shakes_hands_is_told_from_one_that_never_answers(shell, sshd):
    async with wire(sshd.port, frozen=True) as cut:
        failure = await unreachable(shell, sshd.host(port=cut.port, connect_timeout=0.3))
    assert "the SSH handshake took longer than 0.3 s" in failure.message


async def test_a_server_that_is_not_ssh_is_said(shell, sshd):
    async def answer(stream):
        async with stream:
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        failure = await unreachable(shell, sshd.host(port=port, connect_timeout=2))
        group.cancel_scope.cancel()
    await listener.aclose()
    assert "SSH" in failure.message or "closed during the handshake" in failure.message


async def test_callers_that_ask_together_share_one_failure(shell, sshd, silent_port):
    host = sshd.host(port=silent_port, connect_timeout=0.3)
    started = time.monotonic()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(unreachable, shell, host)
    assert time.monotonic() - started < 1.5


async def test_a_caller_that_gives_up_does_not_fail_the_others(shell, sshd):
    host = sshd.host()

    async def impatient():
        with anyio.move_on_after(0):
            await shell.run(host, TRUE)

    async with anyio.create_task_group() as group:
        group.start_soon(impatient)
        for _ in range(5):
            group.start_soon(shell.run, host, TRUE)
    assert sshd.alive == 1


async def test_a_failure_is_not_remembered(shell, sshd):
    async with wire(sshd.port, frozen=True) as cut:
        host = sshd.host(port=cut.port, connect_timeout=0.3)
        await unreachable(shell, host)
        cut.frozen = False
        assert (await shell.run(host, TRUE)).ok


# Half-open connections.


async def test_a_connection_that_went_silent_leaves_the_outcome_unknown(shell, sshd):
    async with wire(sshd.port) as cut:
        host = sshd.host(port=cut.port, keepalive=0.05)

        async def freeze():
            await anyio.sleep(0.05)
            cut.frozen = True

        assert (await shell.run(host, TRUE)).ok
        async with anyio.create_task_group() as group:
            group.start_soon(freeze)
            with pytest.raises(OutcomeUnknown, match="the connection was lost"):
                await shell.run(host, Command(argv=("hang",), timeout=30))


async def test_a_connection_found_silent_before_a_command_is_replaced(shell, sshd):
    async with wire(sshd.port) as cut:
        host = sshd.host(port=cut.port, connect_timeout=0.3)
        await shell.run(host, TRUE)
        cut.silence()
        assert (await shell.run(host, Command(argv=("echo", "x")))).stdout == "x\n"
    assert sshd.commands == ["true", "echo x"]


async def test_a_host_gone_silent_for_good_is_unreachable_and_nothing_was_sent(shell, sshd):
    async with wire(sshd.port) as cut:
        host = sshd.host(port=cut.port, connect_timeout=0.2)
        await shell.run(host, TRUE)
        cut.frozen = True
        await unreachable(shell, host)
    assert sshd.commands == ["true"]


# Limits.


async def test_only_so_many_handshakes_run_at_once(sshd):
    async with SshShell({}, None, SshLimits(handshakes=3)) as shell, anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(shell.run, sshd.host(f"w{number}"), TRUE)
    assert sshd.most_at_once <= 3
    assert len(sshd.connections) == 20


async def test_idle_connections_make_room_for_new_ones(sshd):
    async with SshShell({}, None, SshLimits(connections=4)) as shell:
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(shell.run, sshd.host(f"w{number}"), TRUE)
        await anyio.sleep(0.02)
        assert sshd.alive <= 4
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(shell.run, sshd.host(f"w{number}"), TRUE)
    assert len(sshd.commands) == 24


async def test_commands_on_one_host_stay_below_its_session_limit(shell, tmp_path):
    running = most = 0

    async def count(process, argv):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.01)
        running -= 1
        return 0

    async with scripted_sshd(tmp_path, {"count": count}) as server:
        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(shell.run, server.host(), Command(argv=("count",)))
        assert len(server.commands) == 40
    assert most <= 8


# Jump hosts.


async def test_a_host_behind_a_jump_host_is_reached_and_the_tunnel_is_shared(tmp_path):
    async with scripted_sshd(tmp_path, name="gate") as gate, scripted_sshd(tmp_path, name="inner") as inner:
        bastion = gate.host("bastion")
        hosts = {bastion.name: bastion}
        async with SshShell(hosts, None) as shell:
            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(shell.run, inner.host(f"w{number}", jump="bastion"), TRUE)
            await shell.run(bastion, TRUE)
            assert len(gate.connections) == 1
            assert len(inner.connections) == 5


async def test_a_jump_host_outside_the_inventory_is_judged_by_the_same_rules(tmp_path):
    async with scripted_sshd(tmp_path, name="gate") as gate, scripted_sshd(tmp_path, name="inner") as inner:
        (tmp_path / "known").write_text(f"[127.0.0.1]:{gate.port} {gate.host_key}\n")
        host = inner.host(jump=f"root@127.0.0.1:{gate.port}", known_hosts=str(tmp_path / "known"))
        async with SshShell({}, None) as shell:  # Each server knows its own key only.
            assert "jump host" in (await denied(shell, host)).message


async def test_the_hop_that_failed_is_named(tmp_path, unused_port):
    async with scripted_sshd(tmp_path, name="gate") as gate, scripted_sshd(tmp_path, name="inner") as inner:
        bastion, lost = gate.host("bastion"), gate.host("lost", port=unused_port)
        async with SshShell({h.name: h for h in (bastion, lost)}, None) as shell:
            failure = await unreachable(shell, inner.host("w1", jump="lost"))
            assert failure.message.startswith("w1: its jump host lost (root@127.0.0.1:")
            failure = await unreachable(shell, inner.host("w2", jump="bastion", port=unused_port))
            assert failure.message.startswith(f"w2 (root@127.0.0.1:{unused_port}) through bastion (root@127.0.0.1:")
            assert "the jump host could not connect on" in failure.message


async def test_a_jump_host_that_was_lost_is_connected_anew(tmp_path):
    async with scripted_sshd(tmp_path, name="gate") as gate, scripted_sshd(tmp_path, name="inner") as inner:
        bastion, host = gate.host("bastion"), inner.host("w1", jump="bastion")
        async with SshShell({bastion.name: bastion}, None) as shell:
            await shell.run(host, TRUE)
            gate.connections[0].abort()
            assert (await shell.run(host, Command(argv=("echo", "x")))).stdout == "x\n"


async def test_jump_hosts_work_one_behind_another(tmp_path):
    async with (
        scripted_sshd(tmp_path, name="a") as a,
        scripted_sshd(tmp_path, name="b") as b,
        scripted_sshd(tmp_path, name="c") as c,
    ):
        first, second = a.host("first"), b.host("second", jump="first")
        host = c.host("w1", jump="second")
        async with SshShell({h.name: h for h in (first, second)}, None, SshLimits(connections=1)) as shell:
            await shell.run(host, TRUE)
            await shell.run(c.host("w2", jump="first,second"), TRUE)
        assert len(c.connections) == 2


# ssh_config.


async def test_ssh_config_fills_what_the_inventory_leaves_open(shell, sshd, tmp_path):
    config = tmp_path / "config"
    config.write_text(
        f"Host nickname\n  HostName 127.0.0.1\n  Port {sshd.port}\n  IdentityFile {sshd.identity_file}\n"
        f"  UserKnownHostsFile {tmp_path}/known\n"
    )
    (tmp_path / "known").write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
    host = Host(name=HostName("w1"), address="nickname", groups=(), ssh=SshSettings(config=str(config)))
    assert (await shell.run(host, TRUE)).ok


async def test_a_named_ssh_config_that_is_missing_is_said(shell, sshd):
    failure = await unreachable(shell, sshd.host(config="/nowhere/config"))
    assert "/nowhere/config cannot be read" in failure.message


async def test_proxy_jump_of_ssh_config_is_followed(tmp_path):
    async with scripted_sshd(tmp_path, name="gate") as gate:
        config = tmp_path / "config"
        config.write_text(
            f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n  IdentityFile {gate.identity_file}\n  User root\n"
            f"Host w1\n  HostName 127.0.0.1\n  Port {gate.port}\n  IdentityFile {gate.identity_file}\n"
            f"  ProxyJump gate\nHost *\n  UserKnownHostsFile {tmp_path}/known\n"
        )
        (tmp_path / "known").write_text(f"[127.0.0.1]:{gate.port} {gate.host_key}\n")
        host = Host(name=HostName("w1"), address="w1", groups=(), ssh=SshSettings(config=str(config)))
        async with SshShell({}, None) as shell:
            await shell.run(host, TRUE)
        assert len(gate.connections) == 2


@pytest.fixture
def silent_port():
    """A listener whose backlog is full: further connections get no answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        time.sleep(0.05)
        yield listener.getsockname()[1]
        for filler in fillers:
            filler.close()
