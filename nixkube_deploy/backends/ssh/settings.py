"""What a host's settings come to once ssh_config and the defaults are applied; reads files, opens no connection.

Precedence: the inventory, then ssh_config, then the defaults of this product. A host is logged in to as ``root``
unless one of the former says otherwise, because that is who deploys NixOS; a jump host that is not in the inventory is
logged in to as the local user, as OpenSSH does. Functions here block (small files): call them in a thread.
"""

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nixkube_deploy.backends.ssh.libraries import asyncssh
from nixkube_deploy.model.error import Unreachable
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host, HostKeyPolicy, SshSettings
from nixkube_deploy.model.names import HostName

USER_CONFIG: Final = Path("~/.ssh/config")
USER_KNOWN_HOSTS: Final = Path("~/.ssh/known_hosts")
GLOBAL_KNOWN_HOSTS: Final = Path("/etc/ssh/ssh_known_hosts")
NO_CONFIG: Final = "none"
DEFAULT_PORT: Final = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One machine on the way, the last one being the host itself. Everything is decided."""

    name: HostName | None
    """None: a jump host that is not in the inventory."""
    label: str
    """For people: the inventory name, or ``user@address:port``."""
    address: str
    """Where to connect, after ssh_config's Hostname."""
    port: int
    user: str
    ssh: SshSettings
    config: str | None
    """The ssh_config that was read, None for none."""
    known_hosts: tuple[str, ...]
    """Files to look host keys up in; the first is where new ones are recorded."""
    alias: str | None = None
    """ssh_config's HostKeyAlias."""
    pattern: str = ""
    """What ssh_config's Host patterns are matched against."""
    proxy_command: bool = False
    """Whether ssh_config reaches it through a program."""
    family: int = 0
    """ssh_config's AddressFamily, 0 for any."""
    bind: str | None = None
    """ssh_config's BindAddress."""
    ciphers: bool = False
    """Whether ssh_config says which ciphers to use."""

    @property
    def lookup(self) -> str:
        """The host's name in known_hosts: ``address`` or ``[address]:port``."""
        name = self.alias or self.address
        return name if self.port == DEFAULT_PORT else f"[{name}]:{self.port}"

    @property
    def where(self) -> str:
        """For people: ``w1 (root@10.0.0.7:22)``."""
        place = f"{self.user}@{self.address}:{self.port}"
        return place if self.label == place else f"{self.label} ({place})"


def route(host: Host, hosts: Mapping[HostName, Host]) -> tuple[Hop, ...]:
    """Every hop to ``host``, the host last.

    Raises:
        Unreachable: ssh_config cannot be read, or jump hosts form a circle.
    """
    return _route(host, hosts, ())


def _route(host: Host, hosts: Mapping[HostName, Host], behind: tuple[HostName, ...]) -> tuple[Hop, ...]:
    if host.name in behind:
        circle = " -> ".join((*behind[behind.index(host.name) :], host.name))
        raise _wrong(host.name, f"its jump hosts form a circle: {circle}", "change `jump` in the inventory")
    hop, jump = _hop(host)
    hops: tuple[Hop, ...] = ()
    for spec in _jumps(jump):
        known = hosts.get(HostName(spec))
        if known is not None and known.name == host.name:
            continue  # `defaults: {ssh: {jump: bastion}}` holds for the bastion too.
        # A later hop is reached through the earlier ones, so only the first one's own jump hosts count.
        if known is not None and not hops:
            hops += _route(known, hosts, (*behind, host.name))
        elif known is not None:
            hops += (_hop(known)[0],)
        else:
            hops += (_foreign(spec, host),)
    return (*hops, hop)


def _jumps(jump: str | None) -> list[str]:
    if not jump or jump.lower() == "none":
        return []
    return [spec.strip() for spec in jump.split(",") if spec.strip()]


def _foreign(spec: str, host: Host) -> Hop:
    """A jump host outside the inventory. It is offered the same key and judged by the same host-key policy."""
    user, _, place = spec.rpartition("@")
    address, port = _split_port(place)
    policy = HostKeyPolicy.VERIFY if host.ssh.host_key_policy is HostKeyPolicy.ANY else host.ssh.host_key_policy
    ssh = replace(host.ssh, user=user or None, port=port, jump=None, host_key=None, host_key_policy=policy)
    stand_in = replace(host, name=HostName(spec), address=address, ssh=ssh)
    hop, _ = _hop(stand_in, default_user=getpass.getuser())
    return replace(hop, name=None, label=f"{hop.user}@{hop.address}:{hop.port}")


def _split_port(place: str) -> tuple[str, int | None]:
    if place.startswith("["):
        address, _, rest = place[1:].partition("]")
        return address, _port(rest[1:], place) if rest.startswith(":") else None
    if place.count(":") == 1:
        address, _, number = place.partition(":")
        return address, _port(number, place)
    return place, None


def _port(number: str, place: str) -> int:
    if not number.isdigit() or not 0 < int(number) < 65536:  # noqa: PLR2004 (TCP ports)
        raise _wrong(place, f"{number!r} is not a port", "write jump hosts as [user@]address[:port]")
    return int(number)


def _hop(host: Host, default_user: str = "root") -> tuple[Hop, str | None]:
    ssh, config = host.ssh, config_path(host.ssh)
    try:
        options = asyncssh.SSHClientConnectionOptions(
            host=host.address,
            port=() if ssh.port is None else ssh.port,
            username=() if ssh.user is None else ssh.user,
            config=None if config is None else [config],
            client_keys=None,
        )
    except (OSError, ValueError, asyncssh.Error) as error:
        raise _wrong(host.name, f"{config} cannot be read: {error}", "set ssh: {config: none} to read none") from error
    said = options.config
    hop = Hop(
        name=host.name,
        label=host.name,
        address=options.host,
        port=options.port,
        user=ssh.user or str(said.get("User", default_user)),
        ssh=ssh,
        config=config,
        known_hosts=_known_hosts(ssh, said.get("UserKnownHostsFile"), said.get("GlobalKnownHostsFile")),
        alias=options.host_key_alias,
        pattern=host.address,
        proxy_command=ssh.jump is None and bool(options.proxy_command),
        family=int(options.family),
        bind=str(said.get("BindAddress")) if said.get("BindAddress") else None,
        ciphers=bool(said.get("Ciphers")),
    )
    jump = said.get("ProxyJump")
    return hop, ssh.jump if ssh.jump is not None else (str(jump) if jump else None)


def config_path(ssh: SshSettings) -> str | None:
    """The ssh_config to read; a file that was named must exist, the default one need not."""
    if ssh.config == NO_CONFIG:
        return None
    if ssh.config is not None:
        return ssh.config
    default = USER_CONFIG.expanduser()
    return str(default) if os.access(default, os.R_OK) else None


def _known_hosts(ssh: SshSettings, user_files: object, global_files: object) -> tuple[str, ...]:
    if ssh.known_hosts is not None:
        return (ssh.known_hosts,)
    mine = user_files if isinstance(user_files, list) else [str(USER_KNOWN_HOSTS)]
    shared = global_files if isinstance(global_files, list) and global_files else [str(GLOBAL_KNOWN_HOSTS)]
    return tuple(str(Path(file).expanduser()) for file in (*mine, *shared))


def _wrong(name: str, what: str, advice: str) -> Unreachable:
    return Unreachable(Failure(kind=FailureKind.UNREACHABLE, message=f"{name}: {what}", next=advice))
