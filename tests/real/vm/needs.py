"""What a virtual machine of ours is made of, and how it is said that it cannot be had here.

Nothing falls back to less than was asked for: a machine that cannot be made is ``NoMachine``, and no test passes.
"""

import os
import shutil

from tests.real.bed.needs import missing

TOOLS = (
    "ca-certificates",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "mtools",
    "ovmf",
    "qemu-system-x86",
    "qemu-utils",
    "systemd-boot-efi",
)
"""Of the tree that QEMU runs in: the one of Debian 12 lets guests with cmpxchg16b crash."""
GUEST = (
    "busybox-static",
    "ca-certificates",
    "cpio",
    "dbus",
    "iproute2",
    "kexec-tools",
    "kmod",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "nix-bin",
    "openssh-server",
    "procps",
    "systemd",
    "systemd-boot-tools",
    "systemd-sysv",
    "udev",
    "xz-utils",
)
"""Of the machine itself: its kernel, its systemd, its sshd and its nix."""
SUITE = "trixie"


class NoMachine(Exception):  # noqa: N818 (says what is not there)
    """A virtual machine that cannot be had, and why."""


def check() -> None:
    """What can be known before anything is made.

    Raises:
        NoMachine: naming what is missing.
    """
    if os.geteuid() != 0:
        raise NoMachine("needs root, for namespaces and for trees of another Debian")
    lacks = list(missing(1))
    if shutil.which("mmdebstrap") is None:
        lacks.append("mmdebstrap (package mmdebstrap)")
    if os.uname().machine != "x86_64":
        lacks.append(f"an x86_64 machine (this one is {os.uname().machine})")
    if lacks:
        raise NoMachine(f"missing {', '.join(lacks)}")
