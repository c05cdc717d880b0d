"""The stand-in ``nixos-anywhere``: kexec, disko, install, reboot. A bare machine becomes a NixOS of the fleet.

Like the real one it verifies no host key, waits without end for a machine that does not answer, and does not wait
for the installed system to come up.
"""

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nixkube_deploy.lab.host import LabHost
from nixkube_deploy.lab.machine import Loader, Machine, Personality
from nixkube_deploy.lab.tools.nix_store import copy_one
from nixkube_deploy.lab.tools.remote import SshError, SshOptions, reach
from nixkube_deploy.lab.tools.workshop import ToolCall, ToolError

PHASES = ("kexec", "disko", "install", "reboot")
_USAGE = "Usage: nixos-anywhere [options] [<ssh-host>]\n"
_POLL_SECONDS = 3.0
_WORK_SECONDS = 0.3
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
    post_kexec_port: int = 22
    disk_keys: list[tuple[str, str]] = field(default_factory=list)
    report: tuple[str, str] | None = None
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
    if request.report is not None and "kexec" not in request.phases:
        await _report(call, host, request)
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
        case "--post-kexec-ssh-port":
            request.post_kexec_port = int(values[0])
        case "--disk-encryption-keys":
            request.disk_keys.append((values[0], values[1]))
        case "--generate-hardware-config":
            request.report = _backend(values[0]), values[1]
        case "--extra-files":
            request.extra_files = values[0]
        case "--phases":
            request.phases = _phases(values[0])
        case _:
            pass


def _phases(text: str) -> tuple[str, ...]:
    phases = tuple(text.split(",")) if text else ()
    unknown = [phase for phase in phases if phase not in PHASES]
    if unknown:
        raise ToolError(f"aborted: Unknown phase: {unknown[0]}\n")
    return phases


def _backend(text: str) -> str:
    if text not in ("nixos-facter", "nixos-generate-config"):
        raise ToolError(f"aborted: Unknown hardware config backend: {text}\n")
    return text


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


async def _kexec(call: ToolCall, host: LabHost, request: _Request) -> None:
    call.out("### Gathering machine facts ###\n")
    machine = host.machine
    if machine.personality is Personality.INSTALLER:
        return
    call.out("### Switching system into kexec ###\n")
    await asyncio.sleep(0.2)
    await host.go_down()
    machine.personality = Personality.INSTALLER
    machine.hostname = "nixos-installer"
    machine.host_key = f"{host.name}-installer"
    machine.roots.clear()
    machine.files.clear()
    machine.folders.clear()
    await asyncio.sleep(host.setting.reboot_seconds)
    await host.come_up(None)
    call.out("### Waiting for the machine to become reachable again ###\n")
    if request.post_kexec_port != machine.port:
        await asyncio.Event().wait()  # Nothing listens there, and nothing ends this.
    if request.report is not None:
        await _report(call, host, request)


async def _disko(call: ToolCall, host: LabHost, request: _Request) -> None:
    if host.machine.personality is not Personality.INSTALLER:
        raise ToolError("aborted: the machine does not run a NixOS installer\n")
    for remote, local in request.disk_keys:
        call.out(f"### Uploading {local} to {remote} ###\n")
        host.machine.files[remote] = (call.cwd / local).read_text()
    await copy_one(call, host, request.disko, f"ssh://{request.target}", checked=False)
    call.out("### Formatting hard drive with disko ###\n")

    def formatted() -> None:
        host.machine.partitioned = True
        host.machine.prepared = None

    await _on_host(host, request.disko, formatted)


async def _install(call: ToolCall, host: LabHost, request: _Request) -> None:
    if not host.machine.partitioned:
        raise ToolError("mountpoint: /mnt: No such file or directory\naborted: /mnt is not mounted\n")
    call.out("### Uploading the system closure ###\n")
    url = f"ssh://{request.target}?remote-store=local%3Froot=%2Fmnt"
    await copy_one(call, host, request.system, url, checked=False)
    if request.extra_files is not None and not (call.cwd / request.extra_files).is_dir():
        raise ToolError(f"aborted: extra files directory {request.extra_files} does not exist\n")
    if request.extra_files is not None:
        call.out("### Copying extra files ###\n")
        _copy_extra(call.cwd / request.extra_files, host)
    call.out("### Installing NixOS ###\n")

    def done() -> None:
        host.machine.prepared = request.system
        _settle_host_key(call, host, request)

    await _on_host(host, f"nixos-install --no-root-passwd --no-channel-copy --system {request.system}", done)


async def _on_host(host: LabHost, command: str, done: Callable[[], None]) -> None:
    """Work on the machine goes on when the program here is killed: nobody there is told."""

    async def work() -> int:
        host.machine.at_work = command
        await asyncio.sleep(_WORK_SECONDS)
        host.machine.at_work = ""
        done()
        host.setting.changed()
        return 0

    await asyncio.shield(host.process(work()))


def _copy_extra(folder: Path, host: LabHost) -> None:
    """As tar does; the lab's files are text and have no modes."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            host.machine.files[f"/mnt/{path.relative_to(folder)}"] = path.read_text()


async def _report(call: ToolCall, host: LabHost, request: _Request) -> None:
    """The hardware report, and ``git add`` of it: two of them at once fight over the index."""
    assert request.report is not None
    if host.machine.personality is not Personality.INSTALLER:
        raise ToolError("bash: line 1: nix: command not found\n")
    backend, name = request.report
    call.out(f"### Generating {Path(name).name} using {backend} ###\n")
    path = call.cwd / name
    lock = path.parent / ".index.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    if lock.exists():
        raise ToolError(f"fatal: Unable to create '{lock}': File exists.\n", 128)
    lock.touch()
    try:
        await asyncio.sleep(_WORK_SECONDS)
        path.write_text(json.dumps({"version": 1, "system": host.machine.architecture}) + "\n")
    finally:
        lock.unlink()


def _settle_host_key(call: ToolCall, host: LabHost, request: _Request) -> None:
    """The installed system's key: sent along, carried over, or a new one that nobody knows yet."""
    name, files = f"{host.name}-installed", host.machine.files
    sent = files.get("/mnt/etc/ssh/ssh_host_ed25519_key")
    if sent is not None:
        if host.fault("other-host-key") is not None:
            call.workshop.keyring.renew(name)
        else:
            call.workshop.keyring.adopt(name, sent)
        files["/mnt/host-key"] = name
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
        machine.personality, machine.hostname, machine.host_key = Personality.DEBIAN, "debian", host.name
        machine.partitioned = False
    else:
        _become_nixos(machine, machine.prepared, host)
    if host.fault("reboot-never-returns") is None:
        host.setting.spawn(_come_back(host))


def _become_nixos(machine: Machine, system: str, host: LabHost) -> None:
    machine.personality, machine.hostname = Personality.NIXOS, machine.name
    machine.machine_id = uuid.uuid4().hex
    machine.host_key = machine.files.get("/mnt/host-key", machine.host_key)
    kept = {path.removeprefix("/mnt"): text for path, text in machine.files.items() if path.startswith("/mnt/")}
    kept.pop("/host-key", None)
    machine.files = kept
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
