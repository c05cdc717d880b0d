"""The stand-in ``nixos-anywhere``: kexec, disko, install, reboot. A bare machine becomes a NixOS of the fleet.

Like the real one it verifies no host key, waits without end for a machine that does not answer, and does not wait
for the installed system to come up.
"""

import asyncio
import uuid
from dataclasses import dataclass
from pathlib import Path

from nixkube_deploy.lab.host import LabHost
from nixkube_deploy.lab.machine import Loader, Machine, Personality
from nixkube_deploy.lab.tools.nix_store import copy_one
from nixkube_deploy.lab.tools.remote import SshError, SshOptions, reach
from nixkube_deploy.lab.tools.workshop import ToolCall, ToolError

PHASES = ("kexec", "disko", "install", "reboot")
_USAGE = "Usage: nixos-anywhere [options] [<ssh-host>]\n"
_POLL_SECONDS = 3.0
_SWITCHES = (
    "-L", "--print-build-logs", "--show-trace", "--debug", "--env-password", "--copy-host-keys", "-t", "--tty",
    "--no-substitute-on-destination", "--no-use-machine-substituters", "--vm-test", "--no-disko-deps",
    "--build-on-remote",
)  # fmt: skip
_VALUES = {
    "-f": 1, "--flake": 1, "--target-host": 1, "-i": 1, "-p": 1, "--ssh-port": 1, "--ssh-option": 1, "--kexec": 1,
    "-s": 2, "--store-paths": 2, "--kexec-extra-flags": 1, "--post-kexec-ssh-port": 1, "--extra-files": 1, "--chown": 2,
    "--disk-encryption-keys": 2, "--option": 2, "--ssh-store-setting": 2, "--from": 1, "--build-on": 1,
    "--generate-hardware-config": 2, "--phases": 1, "--disko-mode": 1,
}  # fmt: skip


@dataclass(slots=True)
class _Request:
    target: str = ""
    port: int = 22
    identity: str | None = None
    disko: str = ""
    system: str = ""
    phases: tuple[str, ...] = PHASES
    copy_host_keys: bool = False
    extra_files: str | None = None


async def nixos_anywhere(call: ToolCall) -> int:
    """Run the phases that were asked for."""
    request = _parsed(call)
    if not request.system:
        raise ToolError("aborted: flake must be set, or --store-paths given\n")
    store = call.workshop.store
    if not store.has(request.disko) or not store.has(request.system):
        raise ToolError("aborted: the disko script or the system closure does not exist\n")
    host = await _connected(call, request)
    run = {"kexec": _kexec, "disko": _disko, "install": _install, "reboot": _reboot}
    for phase in PHASES:
        if phase in request.phases:
            await run[phase](call, host, request)
    call.workshop.changed()
    call.out("### Done! ###\n")
    return 0


def _parsed(call: ToolCall) -> _Request:
    """As the script's own loop: what it does not know is taken for the host, if it has none yet."""
    request = _Request()
    words = list(call.argv)
    while words:
        word = words.pop(0)
        if word == "--force-kexec":
            if not words:
                raise ToolError("")
            words.pop(0)
        elif word in _VALUES:
            count = _VALUES[word]
            if len(words) < count:
                raise ToolError(_USAGE)
            _note(request, word, words[:count])
            del words[:count]
        elif word == "--copy-host-keys":
            request.copy_host_keys = True
        elif word not in _SWITCHES:
            if request.target:
                raise ToolError(_USAGE)
            request.target = word
    if not request.target:
        raise ToolError("aborted: ssh-host must be set\n")
    return request


def _note(request: _Request, name: str, values: list[str]) -> None:
    match name:
        case "--target-host":
            request.target = values[0]
        case "-i":
            request.identity = values[0]
        case "-p" | "--ssh-port":
            request.port = int(values[0])
        case "-s" | "--store-paths":
            request.disko, request.system = values
        case "--extra-files":
            request.extra_files = values[0]
        case "--phases":
            request.phases = tuple(values[0].split(","))
            unknown = [phase for phase in request.phases if phase not in PHASES]
            if unknown:
                raise ToolError(f"aborted: unknown phase: {unknown[0]}\n")
        case _:
            pass


async def _connected(call: ToolCall, request: _Request) -> LabHost:
    """Upload the key until it works: there is no end to this in the real program either."""
    settings = {"stricthostkeychecking": "no", "userknownhostsfile": "/dev/null"}
    identities = [request.identity] if request.identity else []
    options = SshOptions(port=request.port, identities=identities, settings=settings)
    call.out("### Uploading install SSH keys ###\n")
    while True:
        try:
            return reach(call, request.target, options)
        except SshError as error:
            call.err(str(error))
        await asyncio.sleep(_POLL_SECONDS)


async def _kexec(call: ToolCall, host: LabHost, _request: _Request) -> None:
    call.out("### Gathering machine facts ###\n")
    machine = host.machine
    if machine.personality is Personality.INSTALLER:
        return
    call.out("### Switching system into kexec ###\n")
    await asyncio.sleep(0.2)
    await host.go_down()
    machine.personality = Personality.INSTALLER
    machine.hostname = "nixos-installer"
    machine.roots.clear()
    await asyncio.sleep(host.setting.reboot_seconds)
    await host.come_up(None)
    call.out("### Waiting for the machine to become reachable again ###\n")


async def _disko(call: ToolCall, host: LabHost, request: _Request) -> None:
    if host.machine.personality is not Personality.INSTALLER:
        raise ToolError("aborted: the machine does not run a NixOS installer\n")
    call.out("### Formatting hard drive with disko ###\n")
    await copy_one(call, host, request.disko, f"ssh://{request.target}", checked=False)
    await asyncio.sleep(0.2)
    host.machine.partitioned = True
    host.machine.prepared = None


async def _install(call: ToolCall, host: LabHost, request: _Request) -> None:
    if not host.machine.partitioned:
        raise ToolError("mountpoint: /mnt: No such file or directory\naborted: /mnt is not mounted\n")
    call.out("### Uploading the system closure ###\n")
    url = f"ssh://{request.target}?remote-store=local%3Froot=%2Fmnt"
    await copy_one(call, host, request.system, url, checked=False)
    if request.extra_files is not None and not (call.cwd / request.extra_files).is_dir():
        raise ToolError(f"aborted: extra files directory {request.extra_files} does not exist\n")
    call.out("### Installing NixOS ###\n")
    await asyncio.sleep(0.3)
    host.machine.prepared = request.system
    _settle_host_key(call, host, request)


def _settle_host_key(call: ToolCall, host: LabHost, request: _Request) -> None:
    """The installed system's key: sent along, carried over, or a new one that nobody knows yet."""
    name = f"{host.name}-installed"
    sent = Path(call.cwd / (request.extra_files or "")) / "etc/ssh/ssh_host_ed25519_key"
    if request.extra_files is not None and sent.is_file():
        call.workshop.keyring.adopt(name, sent.read_text())
        host.machine.files["/mnt/host-key"] = name
    elif not request.copy_host_keys:
        call.workshop.keyring.renew(name)
        host.machine.files["/mnt/host-key"] = name
    else:
        host.machine.files["/mnt/host-key"] = host.machine.host_key


async def _reboot(call: ToolCall, host: LabHost, _request: _Request) -> None:
    machine = host.machine
    call.out("### Waiting for the machine to become unreachable due to reboot ###\n")
    await asyncio.sleep(0.1)
    await host.go_down()
    if machine.prepared is None:
        machine.personality, machine.hostname = Personality.DEBIAN, "debian"
    else:
        _become_nixos(machine, machine.prepared, host)
    if host.fault("reboot-never-returns") is None:
        host.setting.spawn(_come_back(host))


def _become_nixos(machine: Machine, system: str, host: LabHost) -> None:
    machine.personality, machine.hostname = Personality.NIXOS, machine.name
    machine.machine_id = uuid.uuid4().hex
    machine.host_key = machine.files.get("/mnt/host-key", machine.host_key)
    machine.files.clear()
    machine.folders.clear()
    machine.generations.clear()
    machine.roots = {system}
    machine.loader = Loader(kind=machine.loader.kind)
    machine.set_profile(system, host.setting.now())
    machine.install_loader((system,))
    machine.partitioned, machine.prepared = False, None


async def _come_back(host: LabHost) -> None:
    await asyncio.sleep(host.setting.reboot_seconds)
    await host.power_on()
