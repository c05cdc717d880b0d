"""Simulated hosts over the real protocol: logins, streams, reboots, jump hosts and faults of the connection."""

import asyncio
import shutil
import subprocess

import asyncssh
import pytest

from nixkube_deploy.lab.keyring import CLIENT, WRONG
from tests.lab.lab_worlds import a_world, ssh_options

pytestmark = [pytest.mark.lab, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def world(tmp_path):
    async with a_world(tmp_path) as world:
        yield world


def connect(world, host, **options):
    machine = world.hosts[host].machine
    known = f"[127.0.0.1]:{machine.port} {world.keyring.public(machine.host_key)}\n".encode()
    given = {"username": "root", "known_hosts": known, "client_keys": [world.keyring.key(CLIENT)], "config": None}
    return asyncssh.connect("127.0.0.1", machine.port, **{**given, **options})


async def test_a_login_runs_a_command_and_gets_its_code_and_both_streams(world):
    async with connect(world, "w1") as link:
        ran = await link.run("echo out; cat /missing; exit 7")
    assert (ran.exit_status, ran.stdout) == (7, "out\n")
    assert ran.stderr == "cat: /missing: No such file or directory\n"


async def test_standard_input_goes_to_the_command(world):
    async with connect(world, "w1") as link:
        ran = await link.run("mkdir -p /var/lib/x && tee /var/lib/x/y", input="ünïcode\n")
        assert ran.stdout == "ünïcode\n"
        assert (await link.run("cat /var/lib/x/y")).stdout == "ünïcode\n"


async def test_only_the_labs_key_and_known_users_may_log_in(world):
    with pytest.raises(asyncssh.PermissionDenied):
        async with connect(world, "w1", client_keys=[asyncssh.generate_private_key("ssh-ed25519")]):
            pass
    with pytest.raises(asyncssh.PermissionDenied):
        async with connect(world, "w1", username="mallory"):
            pass


async def test_every_host_shows_its_own_key(world):
    port = world.hosts["w1"].machine.port
    other = world.keyring.public("w2")
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        async with connect(world, "w1", known_hosts=f"[127.0.0.1]:{port} {other}\n".encode()):
            pass


async def test_a_wrong_host_key_can_be_scripted_and_mended(world):
    world.add_fault("w1:wrong-host-key")
    await world.refresh("w1")
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        async with connect(world, "w1"):
            pass
    await world.clear_faults("w1", None)
    async with connect(world, "w1") as link:
        assert (await link.run("true")).exit_status == 0


async def test_an_unreachable_host_refuses_connections(world):
    world.add_fault("w1:unreachable")
    await world.refresh("w1")
    with pytest.raises(ConnectionRefusedError):
        async with connect(world, "w1"):
            pass
    async with connect(world, "w2") as link:
        assert (await link.run("hostname")).stdout == "w2\n"


async def test_a_host_may_be_unreachable_so_many_times(world):
    world.add_fault("w1:unreachable*2")
    for _ in range(2):
        with pytest.raises((OSError, asyncssh.Error)):
            async with connect(world, "w1"):
                pass
    async with connect(world, "w1") as link:
        assert (await link.run("true")).exit_status == 0


async def test_a_refused_key_can_be_scripted(world):
    world.add_fault("w1:auth-refused")
    with pytest.raises(asyncssh.PermissionDenied):
        async with connect(world, "w1"):
            pass


async def test_a_dropped_connection_does_not_stop_the_command(world):
    world.add_fault("w1:disconnect-during=tee*1")
    async with connect(world, "w1") as link:
        ran = await link.run("echo done > /var/lib/done; echo tee")
        assert (ran.exit_status, ran.stdout) == (None, "")
    async with connect(world, "w1") as link:
        assert (await link.run("cat /var/lib/done")).stdout == "done\n"


async def test_a_reboot_drops_connections_and_comes_back_on_the_same_port(world):
    async with connect(world, "w1") as link:
        before = (await link.run("cat /proc/sys/kernel/random/boot_id")).stdout
        assert (await link.run("systemctl reboot")).exit_status == 0
        await asyncio.wait_for(link.wait_closed(), 5)
    with pytest.raises(ConnectionRefusedError):
        async with connect(world, "w1"):
            pass
    after = before
    async with asyncio.timeout(5):
        while after == before:
            try:
                async with connect(world, "w1") as link:
                    after = (await link.run("cat /proc/sys/kernel/random/boot_id")).stdout
            except OSError:
                await asyncio.sleep(0.02)
    assert world.hosts["w1"].machine.boots == 2


async def test_a_lock_dies_with_its_connection(world):
    lock = "flock --nonblock --conflict-exit-code 75 /run/nixkube-deploy.lock sh -c 'echo locked; cat'"
    async with connect(world, "w1") as link:
        process = await link.create_process(lock)
        assert await process.stdout.readline() == "locked\n"
        async with connect(world, "w1") as other:
            assert (await other.run(lock, stdin=asyncssh.DEVNULL)).exit_status == 75
        link.abort()
    for _ in range(100):
        async with connect(world, "w1") as link:
            if (await link.run(lock, stdin=asyncssh.DEVNULL)).exit_status == 0:
                return
    pytest.fail("the lock outlived its connection")


async def test_a_host_can_be_reached_through_another(world):
    async with connect(world, "cp1") as jump:
        async with connect(world, "w2", tunnel=jump) as link:
            assert (await link.run("hostname")).stdout == "w2\n"
        with pytest.raises(asyncssh.ChannelOpenError):
            await jump.open_connection("127.0.0.1", 1)


async def test_an_interactive_shell_prompts_and_ends(world):
    async with connect(world, "cp1") as link:
        process = await link.create_process(term_type="xterm")
        process.stdin.write("whoami\n")
        process.stdin.write("exit 3\n")
        ran = await process.wait()
    assert "[root@cp1:~]# " in ran.stdout
    assert "root\n" in ran.stdout.replace("\r", "")
    assert ran.exit_status == 3


async def test_a_slow_host_is_slow(world):
    world.add_fault("w1:slow=0.2s")
    async with connect(world, "w1") as link:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await link.run("true")
        assert loop.time() - began >= 0.2


async def test_a_world_goes_on_where_it_was(tmp_path):
    async with a_world(tmp_path) as world:
        port = world.hosts["w1"].machine.port
        async with connect(world, "w1") as link:
            await link.run("echo kept > /var/lib/kept; systemd-run --unit=d --on-active=900s -- true")
    async with a_world(tmp_path) as world:
        machine = world.hosts["w1"].machine
        assert machine.port == port
        assert 890 < machine.timers["d.timer"].due - world.now() <= 900
        async with connect(world, "w1") as link:
            assert (await link.run("cat /var/lib/kept")).stdout == "kept\n"
        assert world.kube.summary()[0].ready


@pytest.mark.skipif(shutil.which("ssh") is None, reason="contract with OpenSSH: no ssh client is installed")
async def test_contract_a_real_openssh_client_logs_in(world):
    options = ssh_options(world, "w1").split()

    async def ssh(*words, **env):
        argv = ["ssh", "-F", "none", "-o", "BatchMode=yes", *options, *words]
        return await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False, timeout=30)

    ran = await ssh("root@127.0.0.1", "echo hello; cat; exit 5")
    assert (ran.returncode, ran.stdout) == (5, "hello\n")
    reboot = await ssh("root@127.0.0.1", "systemctl reboot; sleep 60")
    assert reboot.returncode == 255
    wrong = await ssh("-o", f"UserKnownHostsFile={world.folder}/none", "root@127.0.0.1", "true")
    assert wrong.returncode in (0, 255)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="contract with OpenSSH: no ssh client is installed")
async def test_contract_openssh_refuses_a_wrong_host_key(world):
    world.keyring.key(WRONG)
    ssh_options(world, "w1")
    world.add_fault("w1:wrong-host-key")
    await world.refresh("w1")
    argv = ["ssh", "-F", "none", "-o", "BatchMode=yes", *ssh_options(world, "w1").split(), "root@127.0.0.1", "true"]
    ran = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False, timeout=30)
    assert ran.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in ran.stderr


@pytest.mark.skipif(shutil.which("ssh") is None, reason="contract with OpenSSH: no ssh client is installed")
async def test_contract_openssh_jumps_through_a_lab_host(world):
    known = ssh_options(world, "w2").split("UserKnownHostsFile=")[1].split()[0]
    key = world.folder / "keys" / CLIENT
    config = world.folder / "jump_config"
    config.write_text(
        f"Host jump\n  HostName 127.0.0.1\n  Port {world.hosts['cp1'].machine.port}\n"
        f"Host target\n  HostName 127.0.0.1\n  Port {world.hosts['w2'].machine.port}\n  ProxyJump jump\n"
        f"Host *\n  User root\n  IdentityFile {key}\n  UserKnownHostsFile {known}\n  StrictHostKeyChecking yes\n"
    )
    argv = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "target", "hostname"]
    ran = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False, timeout=30)
    assert (ran.returncode, ran.stdout) == (0, "w2\n"), ran.stderr
