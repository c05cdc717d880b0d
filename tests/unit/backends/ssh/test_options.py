"""What OpenSSH is told, checked as text and, where it is installed, by OpenSSH itself."""

import shutil
import stat
import subprocess
from pathlib import Path

import asyncssh
import pytest

from nixkube_deploy.backends.ssh.options import OpensshOptions
from nixkube_deploy.model.error import Unreachable
from nixkube_deploy.model.fleet import Host, HostKeyPolicy, SshSettings
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import SshInvocation, SshOptions
from tests.fakes.sshd import public_line

COMMON = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=4"


def a_host(name: str = "w1", address: str = "10.0.0.7", **ssh) -> Host:
    return Host(name=HostName(name), address=address, groups=(), ssh=SshSettings(**{"config": "none", **ssh}))


def options(tmp_path: Path, host: Host, *others: Host) -> SshInvocation:
    made: SshOptions = OpensshOptions({h.name: h for h in (host, *others)}, tmp_path / "run")
    return made(host)


@pytest.fixture
def key() -> str:
    return public_line(asyncssh.generate_private_key("ssh-ed25519"))


def test_a_plain_host_is_logged_in_to_as_root_with_its_key_verified(tmp_path):
    made = options(tmp_path, a_host())
    assert made.destination == "root@10.0.0.7"
    assert " ".join(made.options) == f"-F none -p 22 -o StrictHostKeyChecking=yes {COMMON}"


def test_user_port_and_key_are_the_inventorys(tmp_path):
    made = options(tmp_path, a_host(user="deploy", port=2222, identity_file="/k/id", connect_timeout=4.5, keepalive=5))
    assert made.destination == "deploy@10.0.0.7"
    assert " ".join(made.options) == (
        "-F none -p 2222 -i /k/id -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes "
        "-o BatchMode=yes -o ConnectTimeout=4 -o ServerAliveInterval=5 -o ServerAliveCountMax=4"
    )


def test_a_pinned_key_is_the_only_one_openssh_knows(tmp_path, key):
    made = options(tmp_path, a_host(host_key=f"{key} root@w1", host_key_policy=HostKeyPolicy.ACCEPT_NEW))
    pins = tmp_path / "run/known_hosts"
    assert " ".join(made.options) == (
        f"-F none -p 22 -o HostKeyAlias=w1 -o UserKnownHostsFile={pins} -o GlobalKnownHostsFile=/dev/null "
        f"-o StrictHostKeyChecking=yes {COMMON}"
    )
    assert pins.read_text() == f"w1 {key}\n"
    assert stat.S_IMODE(pins.stat().st_mode) == 0o600


def test_accept_new_is_passed_on_only_when_asked(tmp_path):
    made = options(tmp_path, a_host(known_hosts="/k/hosts", host_key_policy=HostKeyPolicy.ACCEPT_NEW))
    assert (
        f"-o UserKnownHostsFile=/k/hosts -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=accept-new {COMMON}"
        in " ".join(made.options)
    )


def test_ssh_config_decides_what_the_inventory_leaves_open(tmp_path):
    (tmp_path / "config").write_text("Host 10.0.0.7\n  User admin\n  Port 2200\n")
    made = options(tmp_path, a_host(config=str(tmp_path / "config")))
    assert made.destination == "admin@10.0.0.7"
    assert made.options[:4] == ("-F", str(tmp_path / "config"), "-p", "2200")
    assert options(tmp_path, a_host(user="me", config=str(tmp_path / "config"))).destination == "me@10.0.0.7"


def test_a_jump_host_of_the_inventory_keeps_its_own_port_key_and_pin(tmp_path, key):
    bastion = a_host("bastion", "gate.example", user="jump", port=2022, identity_file="/k/jump", host_key=key)
    made = options(tmp_path, a_host(jump="bastion"), bastion)
    config = tmp_path / "run/w1.ssh_config"
    assert made.options[:2] == ("-F", str(config))
    assert "ProxyJump=nixkube-deploy-jump-1" in made.options
    assert config.read_text() == (
        "Host nixkube-deploy-jump-1\n"
        "  HostName gate.example\n"
        "  User jump\n"
        "  Port 2022\n"
        "  IdentityFile /k/jump\n"
        "  IdentitiesOnly yes\n"
        "  HostKeyAlias bastion\n"
        f"  UserKnownHostsFile {tmp_path}/run/known_hosts\n"
        "  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
        "  BatchMode yes\n"
        "  ConnectTimeout 10\n"
        "  ServerAliveInterval 15\n"
        "  ServerAliveCountMax 4\n"
        "Match all\n"
    )
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_a_jump_given_to_all_hosts_does_not_lead_to_itself(tmp_path):
    bastion = a_host("bastion", "gate.example", jump="bastion")
    assert "ProxyJump=none" in options(tmp_path, bastion).options


def test_jump_hosts_in_a_circle_are_refused_by_name(tmp_path):
    a, b = a_host("a", jump="b"), a_host("b", jump="a")
    with pytest.raises(Unreachable, match=r"a -> b -> a"):
        options(tmp_path, a, b)


def test_a_later_jump_is_reached_through_the_earlier_one(tmp_path):
    inner = a_host("inner", "10.0.0.2", jump="outer")
    outer = a_host("outer", "gate.example")
    made = options(tmp_path, a_host(jump="inner"), inner, outer)
    assert "ProxyJump=nixkube-deploy-jump-1,nixkube-deploy-jump-2" in made.options
    assert (tmp_path / "run/w1.ssh_config").read_text().index("gate.example") < (
        (tmp_path / "run/w1.ssh_config").read_text().index("10.0.0.2")
    )


def test_no_option_holds_white_space(tmp_path):
    made = options(tmp_path, a_host(identity_file="/my keys/id", known_hosts="/my keys/known"))
    assert not any(" " in option for option in made.options)
    assert '  IdentityFile "/my keys/id"\n' in (tmp_path / "run/w1.ssh_config").read_text()


@pytest.mark.skipif(shutil.which("ssh") is None, reason="the OpenSSH client is not installed")
def test_openssh_understands_it_as_it_is_meant(tmp_path, key):
    bastion = a_host("bastion", "gate.example", user="jump", port=2022, host_key=key)
    made = options(tmp_path, a_host(jump="bastion", identity_file="/my keys/id", port=2222), bastion)
    said = understood(made.options, made.destination)
    assert {"hostname 10.0.0.7", "port 2222", "user root", "proxyjump nixkube-deploy-jump-1", "batchmode yes"} <= said
    assert "identityfile /my keys/id" in said
    jump = understood(made.options[:2], "nixkube-deploy-jump-1")
    assert {"hostname gate.example", "port 2022", "user jump", "hostkeyalias bastion"} <= jump
    assert {"stricthostkeychecking true", "stricthostkeychecking yes"} & jump


def understood(flags: tuple[str, ...], destination: str) -> set[str]:
    shown = subprocess.run(["ssh", "-G", *flags, destination], capture_output=True, text=True, check=True)
    return set(shown.stdout.splitlines())
