"""Becoming root, with and without a password, and being refused."""

import pytest

from nixkube_deploy.backends.ssh.privilege import elevated, refusal
from nixkube_deploy.backends.ssh.shell import SshShell
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Privilege
from nixkube_deploy.model.secret import Secret, SecretFromEnv
from nixkube_deploy.ports.shell import Command, CommandResult
from tests.fakes.sshd import says, scripted_sshd, sudo

PASSWORD = SecretFromEnv(env="SUDO_PASSWORD")


async def resolve(reference) -> Secret:
    assert reference == PASSWORD
    return Secret("open sesame")


def a_user(server, privilege=Privilege.SUDO, password=None, **ssh):
    from dataclasses import replace

    return replace(server.host(user="deploy", **ssh), privilege=privilege, privilege_password=password)


def privileged(*argv, **rest) -> Command:
    return Command(argv=argv, privileged=True, **rest)


@pytest.fixture
async def passwordless(tmp_path):
    async with scripted_sshd(tmp_path, {"sudo": sudo(None)}) as server:
        yield server


@pytest.fixture
async def guarded(tmp_path):
    async with scripted_sshd(tmp_path, {"sudo": sudo("open sesame")}) as server:
        yield server


@pytest.mark.parametrize(
    ("privilege", "prefix"),
    [
        (Privilege.NONE, ()),
        (Privilege.SUDO, ("sudo", "-n", "--")),
        (Privilege.DOAS, ("doas", "-n", "--")),
        (Privilege.RUN0, ("run0", "--no-ask-password", "--")),
    ],
)
def test_the_prefix_never_asks(privilege, prefix):
    assert elevated(privilege, ("id", "-u")) == (*prefix, "id", "-u")


async def test_sudo_is_put_before_a_privileged_command_only(shell, passwordless):
    host = a_user(passwordless)
    assert (await shell.run(host, privileged("whoami"))).stdout == "root\n"
    await shell.run(host, Command(argv=("echo", "x")))
    assert passwordless.commands == ["sudo -n -- whoami", "echo x"]


async def test_root_needs_no_prefix(shell, sshd):
    from dataclasses import replace

    await shell.run(replace(sshd.host(), privilege=Privilege.SUDO), privileged("true"))
    assert sshd.commands == ["true"]


async def test_a_password_goes_before_the_commands_own_input(guarded):
    async with SshShell({}, resolve) as shell:
        heard = []
        result = await shell.run(a_user(guarded, password=PASSWORD), privileged("cat", stdin="mine\n"), heard.append)
        assert result.stdout == "mine\n"
        assert heard == ["mine"]
    assert guarded.commands == ["sudo -n -- cat", "sudo -k -S -p '' -- cat"]


async def test_a_host_that_asked_once_is_not_asked_whether_it_asks(guarded):
    async with SshShell({}, resolve) as shell:
        host = a_user(guarded, password=PASSWORD)
        for _ in range(3):
            assert (await shell.run(host, privileged("whoami"))).stdout == "root\n"
        async with shell.hold(host, privileged("echo", "held")) as ended:
            assert ended is None
    asked, first, *rest = guarded.commands
    assert (asked, first) == ("sudo -n -- whoami", "sudo -k -S -p '' -- whoami")
    assert rest == ["sudo -k -S -p '' -- whoami"] * 2 + ["sudo -k -S -p '' -- echo held"]


async def test_a_command_with_input_of_its_own_never_gets_a_password_that_nobody_asked_for(guarded):
    async with SshShell({}, resolve) as shell:
        host = a_user(guarded, password=PASSWORD)
        await shell.run(host, privileged("whoami"))
        assert (await shell.run(host, privileged("cat", stdin="mine\n"))).stdout == "mine\n"
    assert guarded.commands[2] == "sudo -n -- cat"


async def test_a_password_nobody_asks_for_is_never_sent(passwordless):
    async with SshShell({}, resolve) as shell:
        result = await shell.run(a_user(passwordless, password=PASSWORD), privileged("cat", stdin="mine\n"))
    assert result.stdout == "mine\n"
    assert passwordless.commands == ["sudo -n -- cat"]


async def test_a_wrong_password_is_a_privilege_failure(guarded):
    async def wrong(_) -> Secret:
        return Secret("wr0ng-passw0rd")

    async with SshShell({}, wrong) as shell:
        with pytest.raises(TaskError) as caught:
            await shell.run(a_user(guarded, password=PASSWORD), privileged("whoami"))
    failure = caught.value.failure
    assert failure.kind is FailureKind.PRIVILEGE
    assert failure.message == "w1: the password in `privilege_password` is wrong"
    assert "wr0ng-passw0rd" not in repr(failure)


async def test_a_missing_password_says_where_to_put_one(shell, guarded):
    with pytest.raises(TaskError) as caught:
        await shell.run(a_user(guarded), privileged("whoami"))
    failure = caught.value.failure
    assert failure.kind is FailureKind.PRIVILEGE
    assert failure.message == "w1: sudo asks deploy for a password"
    assert "privilege_password" in failure.next
    assert "wheelNeedsPassword" in failure.next


async def test_the_secret_is_asked_for_once(guarded):
    asked = []

    async def counting(reference) -> Secret:
        asked.append(reference)
        return Secret("open sesame")

    async with SshShell({}, counting) as shell:
        for _ in range(3):
            await shell.run(a_user(guarded, password=PASSWORD), privileged("whoami"))
    assert asked == [PASSWORD]


async def test_a_held_command_may_need_a_password_too(guarded):
    async with SshShell({}, resolve) as shell:
        async with shell.hold(a_user(guarded, password=PASSWORD), privileged("cat", stdin="locked\n")) as result:
            assert result is None
        async with shell.hold(a_user(guarded, password=PASSWORD), privileged("echo")) as result:
            assert result is None or result.ok


@pytest.mark.parametrize(
    ("privilege", "stderr", "code", "meaning"),
    [
        (Privilege.SUDO, "deploy is not in the sudoers file.\n", 1, "deploy is not allowed to become root"),
        (
            Privilege.SUDO,
            "sudo: sorry, you must have a tty to run sudo\n",
            1,
            "sudo insists on a terminal",
        ),
        (
            Privilege.SUDO,
            "sudo: a terminal is required to read the password; either use the -S option\n",
            1,
            "sudo insists on a terminal",
        ),
        (
            Privilege.SUDO,
            "sudo: /run/current-system/sw/bin/sudo must be owned by uid 0 and have the setuid bit set\n",
            1,
            "sudo on the host is not set up (not setuid root)",
        ),
        (Privilege.SUDO, "sh: sudo: command not found\n", 127, "sudo is not installed on the host"),
        (Privilege.DOAS, "doas: Operation not permitted\n", 1, "deploy is not allowed to become root"),
        (Privilege.DOAS, "doas: Authentication required\n", 1, "doas asks deploy for a password"),
        (
            Privilege.RUN0,
            "Failed to start transient service unit: Interactive authentication required.\n",
            1,
            "run0 asks deploy for a password",
        ),
    ],
)
async def test_refusals_say_what_they_mean(shell, tmp_path, privilege, stderr, code, meaning):
    async with scripted_sshd(tmp_path, {privilege.value: says(stderr, code)}) as server:
        with pytest.raises(TaskError) as caught:
            await shell.run(a_user(server, privilege), privileged("whoami"))
    failure = caught.value.failure
    assert failure.kind is FailureKind.PRIVILEGE
    assert failure.message == f"w1: {meaning}"
    assert failure.next
    assert not any(left in failure.next for left in ("{user}", "{program}", "{rule}", "{{"))


@pytest.mark.parametrize(
    "result",
    [
        CommandResult(exit_code=1, stderr="access denied\n"),
        CommandResult(exit_code=1, stdout="x", stderr="sudo: a password is required\n"),
        CommandResult(exit_code=4, stderr="sudo: a password is required\n"),
        CommandResult(exit_code=127, stderr="sudo: foo: command not found\n"),
        CommandResult(exit_code=127, stderr="sh: foo: command not found\n"),
        CommandResult(exit_code=1, stderr="sudo: unable to resolve host w1\nfoo failed\n"),
    ],
)
def test_a_failing_command_is_not_taken_for_a_refusal(sshd_host, result):
    assert refusal(sshd_host, "deploy", result) is None


@pytest.fixture
def sshd_host():
    from nixkube_deploy.model.fleet import Host
    from nixkube_deploy.model.names import HostName

    return Host(name=HostName("w1"), address="w1", groups=(), privilege=Privilege.SUDO)
