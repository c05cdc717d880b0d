"""One virtual machine, and how tests reach it: its power, its console, a shell on it that the product knows nothing of.

It is emulated (TCG): slow, but the same everywhere. Nothing outside of the bed's namespaces can reach it.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.real.bed.fleet import RealFleet
from tests.real.bed.host import RealHost
from tests.real.vm import tree
from tests.real.vm.needs import NoMachine

HERE = Path(__file__).resolve().parent
NAME = "n1"
ADDRESS = "10.77.0.1"
_FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
_PROMPT = b"(qemu) "
_BOOT = 150.0
_PROFILE = "/nix/var/nix/profiles/system"


@dataclass
class Machine:
    """A machine with a processor of its own, if a slow one."""

    fleet: RealFleet
    folder: Path
    key: Path
    process: "subprocess.Popen[bytes]"

    @classmethod
    @contextmanager
    def running(cls, fleet: RealFleet, image: Path, folder: Path, *, snapshot: bool) -> "Iterator[Machine]":
        """The machine of ``image``, with its disks in ``folder``: from its snapshot, or from its power button."""
        if folder != image:
            folder.mkdir(parents=True)
            for disk in ("disk.qcow2", "vars.qcow2"):
                subprocess.run(["cp", "--reflink=auto", "--sparse=always", image / disk, folder / disk], check=True)
        key = fleet.key
        for end in ("", ".pub"):  # ssh looks at both.
            shutil.copy(image / f"id{end}", f"{key}{end}")
        public = (image / "host_key.pub").read_text().split()
        fleet.known_hosts.write_text(f"{ADDRESS} {public[0]} {public[1]}\n")
        fleet.hosts[NAME] = RealHost(name=NAME, address=ADDRESS, tier=2, number=1, bed=fleet.directory)
        fleet.inside(f"ip addr add {ADDRESS}/32 dev lo")
        argv = ["sh", str(HERE / "inside.sh"), str(tree.tools()), str(folder), *_qemu(snapshot=snapshot)]
        with (folder / "qemu.log").open("wb") as log:
            process = subprocess.Popen(
                fleet.argv(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=fleet.environment
            )
        machine = cls(fleet=fleet, folder=folder, key=key, process=process)
        try:
            if snapshot:
                machine.wait_for_ssh()
                machine.run(f"date -s @{fleet.controller('date', '+%s').stdout.strip()}")
            yield machine
        finally:
            process.kill()
            process.wait()
            if folder != image:  # Half a gigabyte.
                (folder / "disk.qcow2").unlink()
                (folder / "vars.qcow2").unlink()

    # --- power -------------------------------------------------------------------------------------------------------

    def monitor(self, command: str, *, answers: bool = True) -> str:
        """Tell QEMU something, and wait until it has done it."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(60)
            monitor.connect(str(self.folder / "monitor"))
            _until_prompt(monitor)
            monitor.sendall(f"{command}\n".encode())
            return _until_prompt(monitor) if answers else ""

    def reset(self) -> None:
        """Cut its power, and give it back."""
        self.monitor("system_reset")

    @property
    def console(self) -> str:
        """All that it said since it started."""
        return (self.folder / "serial.log").read_text(errors="replace")

    def wait_for_ssh(self, *, not_boot: str = "") -> str:
        """Until it has booted (anew): its boot id."""
        end = time.monotonic() + _BOOT
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise NoMachine(f"QEMU ended: {(self.folder / 'qemu.log').read_text()}")
            boot_id = self.run("cat /proc/sys/kernel/random/boot_id", check=False, timeout=25)
            if boot_id not in {"", not_boot}:
                return boot_id
            time.sleep(0.5)
        raise NoMachine(f"no ssh within {_BOOT:g} s\n{self.console[-3000:]}")

    # --- what it is --------------------------------------------------------------------------------------------------

    def run(self, command: str, *, check: bool = True, timeout: float = 60) -> str:
        """What a shell command prints on it."""
        argv = ("ssh", *self.fleet.ssh_options, "-o", "ConnectTimeout=20", f"root@{ADDRESS}", command)
        try:
            done = self.fleet.controller(*argv, check=False, timeout=timeout)
        except subprocess.TimeoutExpired:
            assert not check, f"{command}: no answer within {timeout:g} s"
            return ""
        assert done.returncode == 0 or not check, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    @property
    def boot_id(self) -> str:
        return self.run("cat /proc/sys/kernel/random/boot_id")

    @property
    def systems(self) -> tuple[str, str, str]:
        """Booted, current and the profile's."""
        booted, current, profile = self.run(
            f"readlink -f /run/booted-system /run/current-system {_PROFILE}"
        ).splitlines()
        return booted, current, profile

    @property
    def started(self) -> str:
        """The system that the boot loader told the kernel to start."""
        line = next(word for word in self.run("cat /proc/cmdline").split() if word.startswith("init="))
        return line.removeprefix("init=").removesuffix("/init")

    @property
    def default(self) -> str:
        """The entry of every boot from now on, as the loader's configuration has it."""
        return self.run("sed -n 's/^default //p' /boot/loader/loader.conf")

    @property
    def one_shot(self) -> str:
        """The entry of the next boot only, if any."""
        return self.run("ls /sys/firmware/efi/efivars | grep LoaderEntryOneShot", check=False)


def _qemu(*, snapshot: bool) -> tuple[str, ...]:
    disk = "file=/mnt/vm/disk.qcow2,format=qcow2,if=none,id=disk,cache=unsafe"
    net = f"user,id=net,restrict=on,hostfwd=tcp:{ADDRESS}:22-:22"
    return (
        "qemu-system-x86_64",
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-smp", "2", "-m", "1024"),
        *("-nodefaults", "-display", "none", "-serial", "file:/mnt/vm/serial.log"),
        *("-monitor", "unix:/mnt/vm/monitor,server,nowait"),
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_FIRMWARE}"),
        *("-drive", "if=pflash,format=qcow2,unit=1,file=/mnt/vm/vars.qcow2"),
        *("-drive", disk, "-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", net, "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
        *(("-loadvm", "booted") if snapshot else ()),
    )


def _until_prompt(monitor: socket.socket) -> str:
    said = b""
    while not said.endswith(_PROMPT):
        more = monitor.recv(4096)
        if not more:
            raise NoMachine(f"QEMU has gone: {said.decode(errors='replace')}")
        said += more
    return said.decode(errors="replace")
