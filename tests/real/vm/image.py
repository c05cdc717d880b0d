"""A machine's disk, and a snapshot of it booted: made once, kept outside the tree.

python -m tests.real.vm.image    # makes it where it is missing; says what is missing where it cannot be made
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.real.bed import prepare
from tests.real.bed.build import FLAKE
from tests.real.bed.fleet import RealFleet, real_fleet
from tests.real.bed.tree import NoTree, cache
from tests.real.vm import needs, system, tree
from tests.real.vm.machine import ADDRESS, NAME, Machine
from tests.real.vm.needs import NoMachine

HERE = Path(__file__).resolve().parent
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "ldconfig.service",
    "getty.target",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-hostnamed.socket",
    "systemd-journal-catalog-update.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "systemd-pstore.service",
    "systemd-sysext.socket",
    "systemd-tpm2-setup.service",
    "systemd-tpm2-setup-early.service",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
)
_NETWORK = """\
[Unit]
DefaultDependencies=no
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/ip address add 10.0.2.15/24 dev eth0
ExecStart=/bin/ip link set eth0 up
ExecStart=/bin/ip route add default via 10.0.2.2
"""
"""As QEMU's own network wants it; a daemon would take seconds of every emulated boot."""
_FSTAB = "/dev/vda2 / ext4 defaults 0 0\n/dev/vda1 /boot vfat umask=0077 0 0\n"
_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
KexAlgorithms curve25519-sha256
UsePAM yes
UseDNS no
PermitRootLogin prohibit-password
PasswordAuthentication no
PrintMotd no
MaxStartups 100
MaxSessions 50
Subsystem sftp internal-sftp
"""


def image() -> Path:
    """The folder with ``disk.qcow2``, ``vars.qcow2``, ``kernel``, ``initrd``, ``id`` and ``host_key``; made if need be.

    Raises:
        NoMachine: it cannot be made here.
    """
    needs.check()
    place = cache().parent / f"vm-{_digest()}"
    if not place.exists():
        half = place.with_name(f"{place.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        try:
            _make(half)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise
        half.rename(place)
    return place


def _digest() -> str:
    """Of everything an image is made from."""
    files = sorted(p for top in (HERE, FLAKE) for p in top.rglob("*") if p.suffix in {".py", ".sh", ".nix", ".json"})
    made_from = [path.read_bytes() for path in files if path.name.partition("_")[0] not in {"conftest.py", "test"}]
    return hashlib.sha256(b"\0".join(made_from)).hexdigest()[:12]


def _make(place: Path) -> None:
    guest = tree.guest()
    with tempfile.TemporaryDirectory(prefix="nixkube-vm-") as name:
        work = Path(name)
        (kernel,) = (guest / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, place / "kernel")
        shutil.copy(system.make_initrd(guest, work), place / "initrd")
        for key in ("id", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", place / key], check=True)
        with real_fleet(work / "bed", hosts=0) as fleet:
            system.furnish(fleet, place / "kernel", place / "initrd")
            _disk(fleet, guest, place, work)
            for disk in ("disk.qcow2", "vars.qcow2"):
                shutil.copy(work / disk, place / disk)
            _snapshot(fleet, place)


def _disk(fleet: RealFleet, guest: Path, place: Path, work: Path) -> None:
    root, esp = work / "root", work / "esp"
    subprocess.run(["cp", "-a", "--reflink=auto", guest, root], check=True)
    _etc(root / "etc", place)
    for path in (*(root / "boot").iterdir(), *(root / "var" / "cache" / "apt").rglob("*.deb")):
        path.unlink()
    shutil.rmtree(root / "usr" / "share" / "doc")
    (root / "var" / "log" / "journal").mkdir(exist_ok=True)
    keys = root / "root" / ".ssh"
    keys.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(place / "id.pub", keys / "authorized_keys")
    first = first_system(fleet)
    fleet.controller("nix", "copy", "--no-check-sigs", "--to", f"local?root={root}", first)
    fleet.inside(
        f"cd {root}/nix/var/nix; rm -rf profiles gcroots; mkdir profiles; "
        f"ln -s {first} profiles/system-1-link; ln -s system-1-link profiles/system"
    )
    _esp(esp, fleet, first)
    subprocess.run(["sh", HERE / "inside.sh", tree.tools(), work, "cp", "-r", *_LOADER], check=True)
    script = HERE / "image.sh"
    shutil.copy(script, work / "image.sh")
    subprocess.run(["sh", HERE / "inside.sh", tree.tools(), work, "sh", "/mnt/vm/image.sh", "/mnt/vm"], check=True)


_LOADER = ("/usr/lib/systemd/boot/efi/systemd-bootx64.efi", "/mnt/vm/esp/EFI/BOOT/BOOTX64.EFI")


def first_system(fleet: RealFleet) -> str:
    """Build what the fleet's flake says of the machine."""
    attribute = f"{fleet.flake}#nixosConfigurations.{NAME}.config.system.build.toplevel"
    built = fleet.controller("nix", "build", "--json", "--no-link", attribute).stdout
    return str(json.loads(built)[0]["outputs"]["out"])


def _esp(esp: Path, fleet: RealFleet, first: str) -> None:
    """As the system's own installer would leave it."""
    for folder in ("EFI/BOOT", "EFI/nixos", "loader/entries"):
        (esp / folder).mkdir(parents=True)
    names = []
    for part in ("kernel", "initrd"):
        stored = fleet.controller("readlink", "-f", f"{first}/{part}").stdout.strip()
        names.append(stored.removeprefix("/nix/store/").replace("/", "-") + ".efi")
        shutil.copy(fleet.path(stored), esp / "EFI" / "nixos" / names[-1])
    (esp / "loader" / "entries" / "nixos-generation-1.conf").write_text(
        f"title NixOS\nsort-key nixos\nversion Generation 1\nlinux /EFI/nixos/{names[0]}\n"
        f"initrd /EFI/nixos/{names[1]}\noptions init={first}/init {' '.join(system.PARAMETERS)}\n"
    )
    (esp / "loader" / "loader.conf").write_text("timeout 0\ndefault nixos-generation-1.conf\n")


def _etc(etc: Path, place: Path) -> None:
    (etc / "hostname").write_text(f"{NAME}\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost {NAME}\n")
    (etc / "os-release").unlink()
    (etc / "os-release").write_text(prepare.OS_RELEASE)
    (etc / "machine-id").write_text(f"{0x77_05:032x}\n")
    (etc / "fstab").write_text(_FSTAB)
    (etc / "nix").mkdir(exist_ok=True)
    (etc / "nix" / "nix.conf").write_text(prepare.NIX_CONF)
    (etc / "ssh" / "sshd_config").write_text(_SSHD)
    for key in (etc / "ssh").glob("ssh_host_*"):
        key.unlink()
    shutil.copy(place / "host_key", etc / "ssh" / "ssh_host_ed25519_key")
    units = etc / "systemd" / "system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    (units / "eth0.service").write_text(_NETWORK)
    (wants / "eth0.service").symlink_to("../eth0.service")
    if not (wants / "ssh.service").is_symlink():
        (wants / "ssh.service").symlink_to("/usr/lib/systemd/system/ssh.service")
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")


def _snapshot(fleet: RealFleet, place: Path) -> None:
    began = time.monotonic()
    with Machine.running(fleet, place, place, snapshot=False) as machine:
        machine.wait_for_ssh()
        seconds = time.monotonic() - began
        state = machine.run("systemctl is-system-running --wait; systemctl --failed --plain --no-legend", check=False)
        if not state.startswith("running"):
            raise NoMachine(f"its first boot ends badly: {state}\n{machine.console[-3000:]}")
        machine.monitor("savevm booted")
        machine.monitor("quit", answers=False)
        machine.process.wait(timeout=60)
    sys.stdout.write(f"first boot: {seconds:.0f} s to ssh at {ADDRESS}\n")


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{image()}\n")
    except (NoMachine, NoTree) as error:
        sys.exit(f"not run: no virtual machine can be had here: {error}")
