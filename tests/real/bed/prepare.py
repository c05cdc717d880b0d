"""A host's disk before its first boot: who may log in, how its sshd and its nix are set, and the system it runs first.

Sizes are limits (tmpfs): what is not used costs nothing.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tests.real.bed import systemd
from tests.real.bed.host import RealHost

if TYPE_CHECKING:
    from tests.real.bed.fleet import RealFleet

OS_RELEASE = """\
ID=nixos
NAME=NixOS
PRETTY_NAME="NixOS 25.11 (a host of the test bed)"
VERSION_ID="25.11"
"""
SSHD_CONFIG = """\
ListenAddress 0.0.0.0
HostKey /etc/ssh/ssh_host_ed25519_key
UsePAM {pam}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile .ssh/authorized_keys
PidFile /run/sshd.pid
MaxStartups 100:30:200
MaxSessions 50
LogLevel VERBOSE
PrintMotd no
PrintLastLog no
Subsystem sftp internal-sftp
"""
NIX_CONF = """\
experimental-features = nix-command flakes
build-users-group =
substituters =
sandbox = false
"""
DEPLOY_UID = 1077
PASSWORD = "the deploy user's password"
"""Of the user ``deploy`` on every host; sudo asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """What may differ from host to host."""

    store: str = "1g"
    """The size of /nix: ``32m`` is soon full."""
    boot: str = "64m"
    """The size of /boot."""
    sudo: str = "password"
    """How the user ``deploy`` becomes root: ``password``, ``free`` (NOPASSWD) or ``no``."""
    nix_conf: str = ""
    """More lines for its nix.conf: ``require-sigs``, ``trusted-users``, ``extra-substituters``."""
    daemon: bool = False
    """Whether a nix-daemon runs: without one, only root can use the store. ``deploy`` is not a trusted user of it."""


def prepare_host(fleet: "RealFleet", host: RealHost, options: HostOptions, first: str) -> None:
    """Make its disk."""
    host.fleet = fleet
    d = host.directory
    template = fleet.directory / "run" / "template"
    fleet.inside(
        f"mkdir -p {d}/etc {d}/etc.work {d}/var/log {d}/var/lib {d}/home {d}/root/.ssh {d}/nix {d}/boot {d}/units\n"
        f"mount -t tmpfs -o mode=755,size={options.store} tmpfs {d}/nix\n"
        f"mount -t tmpfs -o mode=755,size={options.boot} tmpfs {d}/boot\n"
        f"cp -a {template}/nix/. {d}/nix\n"
        f"mkdir -p {d}/boot/loader/entries\n"
        f"printf 'title NixOS\\nversion Generation 1\\noptions init={first}/init\\n' "
        f">{d}/boot/loader/entries/nixos-generation-1.conf\n"
        f"printf 'timeout 5\\ndefault nixos-generation-1.conf\\n' >{d}/boot/loader/loader.conf"
    )
    disk = host.disk
    (disk / "boot-delay").write_text("0.2\n")
    (disk / "base").write_text(f"{fleet.base}\n")
    if options.daemon:
        (disk / "daemon").touch()
    _etc(fleet, host, options, disk / "etc")
    if host.tier == 2:
        systemd.write_units(disk / "units", daemon=options.daemon)
        systemd.write_etc(disk / "etc", fleet.base)
    public = Path(f"{fleet.key}.pub").read_text()
    _keys(disk / "root", public, 0)
    _keys(disk / "home" / "deploy", public, DEPLOY_UID)


def _etc(fleet: "RealFleet", host: RealHost, options: HostOptions, etc: Path) -> None:
    for each in ("ssh", "nix", "sudoers.d"):
        (etc / each).mkdir(parents=True)
    (etc / "sudoers.d").chmod(0o755)
    (etc / "hostname").write_text(f"{host.name}\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{host.address} {host.name}\n")
    (etc / "os-release").write_text(OS_RELEASE)
    (etc / "machine-id").write_text(f"{UUID(int=0x77_00 + host.number << 64 | 1).hex}\n")
    (etc / "ssh" / "sshd_config").write_text(SSHD_CONFIG.format(pam="yes" if host.tier == 2 else "no"))
    (etc / "nix" / "nix.conf").write_text(NIX_CONF + options.nix_conf)
    key = fleet.directory / "controller" / f"{host.name}.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", str(key)], check=True)
    private = etc / "ssh" / "ssh_host_ed25519_key"
    private.write_text(key.read_text())
    private.chmod(0o600)
    host.host_key = " ".join(Path(f"{key}.pub").read_text().split()[:2])
    _users(options, fleet.base / "etc", etc)


def _users(options: HostOptions, below: Path, etc: Path) -> None:
    """``deploy``, beside those the base has."""
    hashed = subprocess.run(
        ["perl", "-e", "print crypt(<STDIN>, q($6$bed$))"], input=PASSWORD, capture_output=True, text=True, check=True
    ).stdout
    own = {
        "passwd": f"deploy:x:{DEPLOY_UID}:{DEPLOY_UID}::/home/deploy:/bin/bash\n",
        "group": f"deploy:x:{DEPLOY_UID}:\n",
        "shadow": f"deploy:{hashed}:19000:0:99999:7:::\n",
    }
    for name, line in own.items():
        others = [each for each in (below / name).read_text().splitlines(keepends=True) if each[:7] != "deploy:"]
        (etc / name).write_text("".join(others) + line)
    (etc / "shadow").chmod(0o640)
    rules = {"password": "deploy ALL=(ALL:ALL) ALL\n", "free": "deploy ALL=(ALL:ALL) NOPASSWD: ALL\n", "no": ""}
    (etc / "sudoers.d" / "deploy").write_text(rules[options.sudo])
    (etc / "sudoers.d" / "deploy").chmod(0o440)


def _keys(home: Path, public: str, owner: int) -> None:
    ssh = home / ".ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    (ssh / "authorized_keys").write_text(public)
    for path in (home, ssh, ssh / "authorized_keys"):
        os.chown(path, owner, owner)
        path.chmod(0o600 if path.is_file() else 0o700)
