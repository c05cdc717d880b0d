"""The shell that is made on first use: what it does is what the real one does, made once, closed with the run."""

import subprocess
import sys

import anyio

from nixkube_deploy.backends.ssh.late import LateShell
from nixkube_deploy.ports.shell import Command

ECHO = Command(argv=("echo", "x"))


async def nobody(reference: object) -> None:
    raise AssertionError(f"nobody should ask for {reference}")


def test_preparing_a_command_does_not_read_the_libraries_yet():
    program = "import nixkube_deploy.app.commands, sys; print('asyncssh' in sys.modules, 'cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


async def test_hosts_that_are_spoken_to_first_at_the_same_time_share_one_shell(sshd, tmp_path):
    host, said = sshd.host(), []
    async with LateShell({host.name: host}, nobody, tmp_path / "ssh") as shell:

        async def speak() -> None:
            said.append((await shell.run(host, ECHO)).stdout)

        async with anyio.create_task_group() as group:
            group.start_soon(speak)
            group.start_soon(speak)
        made = shell._shell
        assert said == ["x\n", "x\n"]
        assert (await shell.run_fresh(host, ECHO)).stdout == "x\n"
        await shell.forget(host)
        async with shell.hold(host, ECHO) as ended:
            assert ended is None or ended.ok
        async with shell.stream(host, ECHO) as stream:
            assert await stream.receive() == b"x\n"
        assert shell._shell is made


async def test_options_are_known_before_any_host_was_spoken_to(sshd, tmp_path):
    host = sshd.host()
    shell = LateShell({host.name: host}, nobody, tmp_path / "ssh")
    assert shell.options(host).destination.endswith(f"@{host.address}")
    async with shell:
        pass
