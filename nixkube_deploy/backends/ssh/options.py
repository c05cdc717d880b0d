"""The same connection for programs that start OpenSSH themselves (``nix copy``, ``nixos-rebuild``, ``nixos-anywhere``).

Everything OpenSSH needs as a file is written once, when this is made; asking for a host's options touches no file. No
option holds white space, because older ``nix`` splits ``NIX_SSHOPTS`` at every blank.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from nixkube_deploy.backends.ssh.dial import KEEPALIVES_MISSED
from nixkube_deploy.backends.ssh.libraries import asyncssh
from nixkube_deploy.backends.ssh.settings import Hop, route
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import Host, HostKeyPolicy
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import SshInvocation

_MODE: Final = 0o600
_SYSTEM_CONFIG: Final = "/etc/ssh/ssh_config"

_Pairs = list[tuple[str, str]]


class OpensshOptions:
    """``SshOptions`` of one run.

    Args:
        hosts: the whole fleet, because jump hosts may be any of them.
        directory: private to the run; it must live as long as these options are used.

    Making one blocks (it reads ssh_config and writes small files). A host whose settings are wrong is found when it is
    asked for, as it is when it is connected to.
    """

    def __init__(self, hosts: Mapping[HostName, Host], directory: Path) -> None:
        self._directory = directory
        self._hosts = hosts
        self._ready: dict[HostName, SshInvocation | TaskError] = {}
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        routes = {host.name: _route_or_error(host, hosts) for host in hosts.values()}
        hops = [hop for found in routes.values() if not isinstance(found, TaskError) for hop in found]
        _write(self._pins, _pinned(hops))
        for name, found in routes.items():
            self._ready[name] = found if isinstance(found, TaskError) else self._invocation(name, found)

    def __call__(self, host: Host) -> SshInvocation:
        """How OpenSSH reaches a host of the fleet.

        Raises:
            TaskError: UNREACHABLE, its settings are wrong.
        """
        ready = self._ready[host.name]
        if isinstance(ready, TaskError):
            raise type(ready)(ready.failure)
        return ready

    @property
    def _pins(self) -> Path:
        return self._directory / "known_hosts"

    def _invocation(self, name: HostName, hops: Sequence[Hop]) -> SshInvocation:
        hop, jumps = hops[-1], hops[:-1]
        pairs = self._pairs(hop)
        if jumps:
            pairs.append(("ProxyJump", ",".join(_alias(number) for number in range(len(jumps)))))
        elif hop.ssh.jump is not None:
            pairs.append(("ProxyJump", "none"))  # The inventory's word against ssh_config's.
        plain = [pair for pair in pairs if not _has_blank(pair[1])]
        blocks = [_block(_alias(number), self._jump_pairs(jump)) for number, jump in enumerate(jumps)]
        if len(plain) < len(pairs):
            blocks.append(_block(hop.pattern, [pair for pair in pairs if _has_blank(pair[1])]))
        config = self._config(name, hop, blocks)
        options = [*(("-F", config) if config else ()), "-p", str(hop.port)]
        for key, value in plain:
            options += ("-i", value) if key == "IdentityFile" else ("-o", f"{key}={value}")
        return SshInvocation(f"{hop.user}@{hop.pattern}", tuple(options))

    def _config(self, name: HostName, hop: Hop, blocks: list[str]) -> str | None:
        """The ssh_config to name with ``-F``; None lets OpenSSH read its usual ones."""
        said = hop.ssh.config
        if not blocks and (said is None or not _has_blank(said)):
            return said
        usual = ["~/.ssh/config", _SYSTEM_CONFIG]
        named = [] if hop.config is None else [hop.config]
        included = usual if said is None else named
        # Without this line the includes would hold for the last block only.
        text = "\n".join([*blocks, "Match all", *(f"  Include {_quoted(file)}" for file in included), ""])
        path = self._directory / f"{name}.ssh_config"
        _write(path, text)
        return str(path)

    def _pairs(self, hop: Hop) -> _Pairs:
        ssh = hop.ssh
        pairs: _Pairs = []
        if ssh.identity_file is not None:
            pairs += [("IdentityFile", _unexpanded(ssh.identity_file)), ("IdentitiesOnly", "yes")]
        if ssh.host_key is not None:
            pairs += [("HostKeyAlias", hop.label), ("UserKnownHostsFile", _unexpanded(str(self._pins)))]
        elif ssh.known_hosts is not None:
            pairs.append(("UserKnownHostsFile", _unexpanded(ssh.known_hosts)))
        if ssh.host_key is not None or ssh.known_hosts is not None:
            pairs.append(("GlobalKnownHostsFile", "/dev/null"))
        asked = ssh.host_key_policy is HostKeyPolicy.ACCEPT_NEW and ssh.host_key is None
        return [
            *pairs,
            ("StrictHostKeyChecking", "accept-new" if asked else "yes"),
            ("BatchMode", "yes"),
            ("ConnectTimeout", str(max(1, round(ssh.connect_timeout)))),
            ("ServerAliveInterval", str(round(ssh.keepalive))),
            ("ServerAliveCountMax", str(KEEPALIVES_MISSED + 1)),
        ]

    def _jump_pairs(self, hop: Hop) -> _Pairs:
        return [("HostName", hop.address), ("User", hop.user), ("Port", str(hop.port)), *self._pairs(hop)]


def _route_or_error(host: Host, hosts: Mapping[HostName, Host]) -> tuple[Hop, ...] | TaskError:
    try:
        return route(host, hosts)
    except TaskError as error:
        return error


def _pinned(hops: Iterable[Hop]) -> str:
    lines = {hop.label: _pin(hop.ssh.host_key) for hop in hops if hop.ssh.host_key is not None}
    return "".join(f"{label} {key}\n" for label, key in lines.items() if key)


def _pin(key: str) -> str:
    """Only a real key gets into the file; a wrong one leaves the host unknown, and so refused."""
    try:
        return " ".join(asyncssh.import_public_key(key).export_public_key().decode("ascii").split()[:2])
    except (asyncssh.KeyImportError, ValueError):
        return ""


def _alias(number: int) -> str:
    return f"nixkube-deploy-jump-{number + 1}"


def _block(pattern: str, pairs: _Pairs) -> str:
    return "\n".join([f"Host {pattern}", *(f"  {key} {_quoted(value)}" for key, value in pairs)])


def _quoted(value: str) -> str:
    return f'"{value}"' if _has_blank(value) else value


def _has_blank(value: str) -> bool:
    return any(character.isspace() for character in value)


def _unexpanded(path: str) -> str:
    """OpenSSH expands ``%`` in paths."""
    return path.replace("%", "%%")


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE), "w") as file:
        file.write(text)
