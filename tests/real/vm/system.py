"""The flake of ``flakes/lab`` with what a machine needs beyond a host: kernel, initrd, stage 2, whole entries.

Its systems' switch-to-configuration then writes entries as NixOS's installer for systemd-boot writes them.
"""

import json
import shutil
import subprocess
from pathlib import Path

from tests.real.bed.fleet import RealFleet

HERE = Path(__file__).resolve().parent
PARAMETERS = (
    "console=ttyS0",
    "net.ifnames=0",
    "quiet",
    "panic=3",
    "systemd.show_status=0",
    "mitigations=off",
    "modprobe.blacklist=ahci,kvm_amd",
)
DRIVERS = ("failover", "net_failover", "virtio_blk", "virtio_net")
"""In the order of their names, which is that of their needs."""
FIRST = {"kernelParams": list(PARAMETERS), "units": None, "packages": None}
"""The system that a machine is made with: generation 1."""

_INIT = """\
mv $out/bin/activate $out/activate
      sed -e "s|@out@|$out|g" $init >$out/init
      chmod +x $out/init
      printf '%s\\n' "$stage2" >$out/stage2"""
_COPY = "copy=/boot/EFI/nixos/$(echo"
_ENTRY = """printf 'title NixOS\\nversion Generation %s\\noptions init=%s/init\\n' "$number" "$to" """
_WHOLE_ENTRY = """\
{
      printf 'title NixOS\\nsort-key nixos\\nversion Generation %s\\n' "$number"
      printf 'linux %s\\ninitrd %s\\n' "$kernel" "$initrd"
      printf 'options init=%s/init %s\\n' "$to" "$(cat "$to/kernel-params")"
    } """
_INSTALLED = "mv /boot/loader/loader.conf.tmp /boot/loader/loader.conf\n"
_CHANGES = {
    "system.nix": (
        ('echo "kernel ${version}" >$out/bzImage', "cp ${./boot/kernel} $out/bzImage"),
        ('echo "initrd ${c.initrd or "1"}" >$out/initrd', "cp ${./boot/initrd} $out/initrd"),
        ("activate = ./activate.sh;", 'activate = ./activate.sh; init = ./boot/init.sh; stage2 = c.stage2 or "";'),
        ("mv $out/bin/activate $out/activate", _INIT),
    ),
    "switch-to-configuration.sh": (
        (_COPY, f'eval "$part=/EFI/nixos/$(echo "$copy" | tr / -).efi"\n      {_COPY}'),
        (_ENTRY, _WHOLE_ENTRY),
        ("printf 'timeout 5\\n", "printf 'timeout 0\\n"),
        (_INSTALLED, f"{_INSTALLED}  sync\n"),
    ),
}


def furnish(fleet: RealFleet, kernel: Path, initrd: Path) -> None:
    """Change the fleet's flake; it describes ``n1`` alone, as its first system."""
    nixos = fleet.flake / "nixos"
    (nixos / "boot").mkdir()
    shutil.copy(kernel, nixos / "boot" / "kernel")
    shutil.copy(initrd, nixos / "boot" / "initrd")
    shutil.copy(HERE / "flake" / "init.sh", nixos / "boot" / "init.sh")
    for name, changes in _CHANGES.items():
        text = (nixos / name).read_text()
        for old, new in changes:
            assert text.count(old) == 1, f"flakes/lab/nixos/{name} no longer says once: {old}"
            text = text.replace(old, new)
        (nixos / name).write_text(text)
    common = json.loads((fleet.flake / "common.json").read_text())
    (fleet.flake / "common.json").write_text(json.dumps({**common, **FIRST, "units": {}, "packages": {}}))
    (fleet.flake / "roles" / "worker.json").write_text("{}")
    (fleet.flake / "hosts" / "n1.json").write_text("{}")


def make_initrd(guest: Path, work: Path) -> Path:
    """A busybox, the driver of the disk, and what finds the root file system."""
    tree = work / "initrd"
    for folder in ("bin", "dev", "proc", "sys", "root", "modules"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(guest / "usr" / "bin" / "busybox", tree / "bin" / "busybox")
    shutil.copy(HERE / "initrd.sh", tree / "init")
    (tree / "init").chmod(0o755)
    drivers = guest / "usr" / "lib" / "modules"
    for name in DRIVERS:
        (found,) = drivers.glob(f"*/kernel/**/{name}.ko*")
        shutil.copy(found, tree / "modules" / found.name)
    script = "cd mnt/vm/initrd && find . -name '*.xz' -exec xz -d {} + && find . | cpio -o -H newc --quiet | gzip -1"
    with (work / "initrd.img").open("wb") as out:
        subprocess.run(["sh", HERE / "inside.sh", guest, work, "sh", "-euc", script], stdout=out, check=True)
    return work / "initrd.img"
