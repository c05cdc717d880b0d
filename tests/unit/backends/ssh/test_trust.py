"""Host keys: who is believed, and what a person is told."""

import stat

import anyio
import asyncssh
import pytest

from nixkube_deploy.backends.ssh import hostkeys
from nixkube_deploy.backends.ssh.settings import route
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import HostKeyPolicy
from nixkube_deploy.ports.shell import Command
from tests.fakes.sshd import public_line, scripted_sshd

TRUE = Command(argv=("true",))


def another_key(kind: str = "ssh-ed25519") -> asyncssh.SSHKey:
    return asyncssh.generate_private_key(kind)


def fingerprint(line: str) -> str:
    return hostkeys.fingerprint(asyncssh.import_public_key(line))


async def refused(shell, host):
    with pytest.raises(TaskError) as caught:
        await shell.run(host, TRUE)
    failure = caught.value.failure
    assert failure.kind is FailureKind.HOST_KEY
    assert not failure.transient
    return failure


async def test_a_pinned_key_is_believed_without_any_file(shell, sshd):
    assert (await shell.run(sshd.host(known_hosts="/nowhere"), TRUE)).ok


async def test_another_key_than_the_pinned_one_is_refused_with_both_fingerprints(shell, sshd):
    pinned = public_line(another_key())
    failure = await refused(shell, sshd.host(host_key=pinned))
    assert failure.expected == fingerprint(pinned)
    assert failure.seen == fingerprint(sshd.host_key)
    assert failure.message == (
        f"w1 (root@127.0.0.1:{sshd.port}) shows another host key than the one pinned in the inventory"
    )
    assert "host_key" in failure.next
    assert sshd.commands == []


async def test_another_kind_of_key_than_the_pinned_one_is_still_named(shell, sshd):
    failure = await refused(shell, sshd.host(host_key=public_line(another_key("ecdsa-sha2-nistp256"))))
    assert failure.seen == fingerprint(sshd.host_key)


async def test_a_pin_that_is_no_key_is_refused_before_connecting(shell, sshd):
    failure = await refused(shell, sshd.host(host_key="SHA256:abcdef"))
    assert "is not a public key" in failure.message
    assert sshd.handshakes == 0


async def test_known_hosts_vouches_for_a_port_of_its_own(shell, sshd, tmp_path):
    (tmp_path / "known").write_text(f"# mine\nbroken\n[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
    assert (await shell.run(sshd.host(host_key=None, known_hosts=str(tmp_path / "known")), TRUE)).ok


async def test_hashed_known_hosts_are_understood(shell, sshd, tmp_path):
    import base64
    import hashlib
    import hmac

    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, f"[127.0.0.1]:{sshd.port}".encode(), hashlib.sha1).digest()
    hashed = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
    (tmp_path / "known").write_text(f"{hashed} {sshd.host_key}\n")
    assert (await shell.run(sshd.host(host_key=None, known_hosts=str(tmp_path / "known")), TRUE)).ok


async def test_an_unknown_key_is_refused_with_the_line_to_pin(shell, sshd, tmp_path):
    failure = await refused(shell, sshd.host(host_key=None, known_hosts=str(tmp_path / "none")))
    assert failure.seen == fingerprint(sshd.host_key)
    assert f'ssh: {{host_key: "{sshd.host_key}"}}' in failure.next
    assert not (tmp_path / "none").exists()


async def test_a_changed_key_is_refused_with_the_command_that_forgets_it(shell, sshd, tmp_path):
    old, known = public_line(another_key()), tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{sshd.port} {old}\n")
    for policy in (HostKeyPolicy.VERIFY, HostKeyPolicy.ACCEPT_NEW):
        failure = await refused(shell, sshd.host(host_key=None, known_hosts=str(known), host_key_policy=policy))
        assert failure.expected == f"{fingerprint(old)} (as {known} says)"
        assert failure.seen == fingerprint(sshd.host_key)
        assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}' -f {known}" in failure.next
    assert known.read_text().count("\n") == 1


async def test_the_file_that_knows_the_old_key_is_named_whichever_of_them_it_is(shell, sshd, tmp_path):
    known, config = tmp_path / "second", tmp_path / "config"
    known.write_text(f"[127.0.0.1]:{sshd.port} {public_line(another_key())}\n")
    config.write_text(f"Host *\n  UserKnownHostsFile {tmp_path}/first {known}\n")
    failure = await refused(shell, sshd.host(host_key=None, config=str(config)))
    assert failure.expected.endswith(f"(as {known} says)")
    assert failure.next.startswith("if the machine was reinstalled: ssh-keygen -R")
    assert f"-f {known}, then" in failure.next


async def test_a_revoked_key_is_refused_even_on_first_contact(shell, sshd, tmp_path):
    (tmp_path / "known").write_text(f"@revoked * {sshd.host_key}\n")
    known = str(tmp_path / "known")
    failure = await refused(
        shell, sshd.host(host_key=None, known_hosts=known, host_key_policy=HostKeyPolicy.ACCEPT_NEW)
    )
    assert "revoked" in failure.message


async def test_a_new_key_is_recorded_when_asked_and_known_from_then_on(shell, sshd, tmp_path):
    known = tmp_path / "dot-ssh/known"
    host = sshd.host(host_key=None, known_hosts=str(known), host_key_policy=HostKeyPolicy.ACCEPT_NEW)
    await shell.run(host, TRUE)
    await shell.run_fresh(host, TRUE)
    assert known.read_text() == f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n"
    assert stat.S_IMODE(known.stat().st_mode) == 0o600
    assert (await shell.run_fresh(sshd.host(host_key=None, known_hosts=str(known)), TRUE)).ok


async def test_a_file_without_a_last_newline_is_not_damaged(sshd, tmp_path):
    known = tmp_path / "known"
    known.write_text("other.example ssh-ed25519 AAAA")
    host = sshd.host(host_key=None, known_hosts=str(known))
    hostkeys.record(route(host, {})[-1], asyncssh.import_public_key(sshd.host_key))
    assert known.read_text().splitlines()[0] == "other.example ssh-ed25519 AAAA"
    assert len(known.read_text().splitlines()) == 2


async def test_many_writers_record_each_key_once(sshd, tmp_path):
    host = sshd.host(host_key=None, known_hosts=str(tmp_path / "known"))
    hop, key = route(host, {})[-1], asyncssh.import_public_key(sshd.host_key)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(anyio.to_thread.run_sync, hostkeys.record, hop, key)
    assert len((tmp_path / "known").read_text().splitlines()) == 1


async def test_a_key_recorded_by_somebody_else_meanwhile_wins(sshd, tmp_path):
    host = sshd.host(host_key=None, known_hosts=str(tmp_path / "known"))
    hop = route(host, {})[-1]
    hostkeys.record(hop, another_key().convert_to_public())
    with pytest.raises(TaskError):
        hostkeys.record(hop, asyncssh.import_public_key(sshd.host_key))


async def test_a_key_that_cannot_be_recorded_is_not_accepted_silently(shell, sshd, tmp_path):
    (tmp_path / "file").write_text("")
    known = str(tmp_path / "file/known")
    failure = await refused(
        shell, sshd.host(host_key=None, known_hosts=known, host_key_policy=HostKeyPolicy.ACCEPT_NEW)
    )
    assert "cannot be recorded" in failure.message


async def test_a_certificate_authority_vouches_for_its_hosts(shell, tmp_path):
    authority, key = another_key(), another_key()
    certificate = authority.generate_host_certificate(key, "w1", principals=["127.0.0.1"])
    async with scripted_sshd(tmp_path, host_key=(key, certificate)) as server:
        (tmp_path / "known").write_text(f"@cert-authority * {public_line(authority)}\n")
        assert (await shell.run(server.host(host_key=None, known_hosts=str(tmp_path / "known")), TRUE)).ok


async def test_an_entry_without_a_port_does_not_speak_against_another_port(shell, sshd, tmp_path):
    (tmp_path / "known").write_text(f"127.0.0.1 {public_line(another_key())}\n")
    host = sshd.host(host_key=None, known_hosts=str(tmp_path / "known"), host_key_policy=HostKeyPolicy.ACCEPT_NEW)
    assert (await shell.run(host, TRUE)).ok


def test_a_file_many_hosts_ask_for_is_parsed_once_until_it_changes(tmp_path):
    file = tmp_path / "known_hosts"
    file.write_text(f"10.0.0.1 {public_line(another_key())}\n")
    first = hostkeys.KnownHosts.read([str(file)])
    assert hostkeys.KnownHosts.read([str(file)]).entries is first.entries
    with file.open("a") as appended:
        appended.write(f"10.0.0.2 {public_line(another_key())}\n")
    again = hostkeys.KnownHosts.read([str(file)])
    assert not first.match("10.0.0.2", "", None)[0]
    assert again.match("10.0.0.2", "", None)[0]
    file.unlink()
    assert not hostkeys.KnownHosts.read([str(file)]).match("10.0.0.1", "", None)[0]
