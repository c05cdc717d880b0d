"""How a stand-in reaches a host: the checks OpenSSH would make, with OpenSSH's words when one fails.

No bytes travel: a stand-in lives in the same process as the hosts. What would keep real bytes from travelling does.
"""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from nixkube_deploy.lab.host import LabHost
from nixkube_deploy.lab.keyring import CLIENT, WRONG
from nixkube_deploy.lab.shell import Streams
from nixkube_deploy.lab.tools.workshop import ToolCall

SSH_FAILED = 255
_VALUE_FLAGS = "BbcDEeFIiJLlmOopQRSWw"


class SshError(Exception):
    """OpenSSH would print this and end with 255."""


@dataclass(slots=True)
class SshOptions:
    """The options that matter here."""

    port: int = 22
    identities: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    config: str | None = None
    user: str | None = None

    def setting(self, name: str) -> str | None:
        """A ``-o`` option; the first one given counts, as in OpenSSH."""
        return self.settings.get(name.lower())


def ssh_options(text: str) -> SshOptions:
    """``NIX_SSHOPTS`` and the like."""
    return options_of(shlex.split(text))


def options_of(words: list[str]) -> SshOptions:
    """OpenSSH's command line, without destination and command."""
    options = SshOptions()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if len(word) < 2 or word[0] != "-":  # noqa: PLR2004 (a dash and a letter)
            continue
        letter, value = word[1], word[2:]
        if letter not in _VALUE_FLAGS:
            continue
        value = value or (rest.pop(0) if rest else "")
        _note(options, letter, value)
    return options


def _note(options: SshOptions, letter: str, value: str) -> None:
    match letter:
        case "p":
            options.port = int(value) if value.isdigit() else 0
        case "i":
            options.identities.append(value)
        case "F":
            options.config = value
        case "l":
            options.user = value
        case "o":
            name, _, setting = value.replace(" ", "=", 1).partition("=")
            options.settings.setdefault(name.lower(), setting.strip())
            if name.lower() == "identityfile":
                options.identities.append(setting.strip())
            if name.lower() == "port" and setting.isdigit():
                options.port = int(setting)
        case _:
            pass


def reach(call: ToolCall, destination: str, options: SshOptions) -> LabHost:
    """The host behind ``user@address``, if OpenSSH would get there; raises SshError."""
    user, _, address = destination.rpartition("@")
    user = options.user or user or "root"
    host = call.workshop.host_at(options.port)
    faults = call.workshop.faults
    if host is None or not host.machine.powered or faults.take(host.name, "unreachable") is not None:
        raise SshError(f"ssh: connect to host {address} port {options.port}: Connection refused\n")
    _check_host_key(call, host, address, options)
    denied = f"{user}@{address}: Permission denied (publickey).\n"
    if user not in host.users or not _has_key(call, options) or faults.peek(host.name, "auth-refused") is not None:
        raise SshError(denied)
    return host


def _check_host_key(call: ToolCall, host: LabHost, address: str, options: SshOptions) -> None:
    wrong = call.workshop.faults.peek(host.name, "wrong-host-key") is not None
    shown = call.workshop.keyring.key(WRONG if wrong else host.machine.host_key)
    policy = (options.setting("StrictHostKeyChecking") or "yes").lower()
    known = _known_keys(call, address, options)
    if any(key.public_data == shown.public_data for key in known):
        return
    if known and policy != "no":
        raise SshError(
            "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r\n"
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n"
            "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r\n"
            f"Host key for [{address}]:{options.port} has changed and you have requested strict checking.\r\n"
            "Host key verification failed.\r\n"
        )
    if policy in ("no", "accept-new") or (options.config and not options.settings):
        return
    raise SshError(
        f"No ED25519 host key is known for [{address}]:{options.port} and you have requested strict checking.\r\n"
        "Host key verification failed.\r\n"
    )


def _known_keys(call: ToolCall, address: str, options: SshOptions) -> list[asyncssh.SSHKey]:
    files = shlex.split(options.setting("UserKnownHostsFile") or "~/.ssh/known_hosts")
    alias = options.setting("HostKeyAlias")
    found: list[asyncssh.SSHKey] = []
    for name in files:
        path = _expanded(call, name.replace("%%", "%"))
        if not path.is_file():
            continue
        known = asyncssh.import_known_hosts(path.read_text())
        host_keys, *_ = asyncssh.match_known_hosts(known, alias or address, "", None if alias else options.port)
        found += host_keys
    return found


def _has_key(call: ToolCall, options: SshOptions) -> bool:
    wanted = call.workshop.keyring.key(CLIENT).public_data
    for name in options.identities:
        path = _expanded(call, name.replace("%%", "%"))
        try:
            if asyncssh.read_private_key(path).public_data == wanted:
                return True
        except (OSError, asyncssh.KeyImportError):
            continue
    return not options.identities and options.config is not None


def _expanded(call: ToolCall, name: str) -> Path:
    if name.startswith("~/"):
        return Path(call.env.get("HOME", "/")) / name[2:]
    return call.cwd / name


async def run_remote(call: ToolCall, host: LabHost, user: str, command: str) -> int:
    """A command over a connection that is already made; raises SshError when the connection breaks meanwhile."""
    boot = host.machine.boot_id
    dropped = call.workshop.faults.take_text(host.name, "disconnect-during", command)
    task = host.process(host.execute(user, command, Streams(out=call.out, err=call.err)))
    if dropped is not None:
        raise SshError("client_loop: send disconnect: Broken pipe\r\n")
    code = await task
    if host.machine.boot_id != boot:
        raise SshError("Connection closed by remote host.\r\n")
    return code
