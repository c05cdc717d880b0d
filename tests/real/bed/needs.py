"""What the real hosts need of the machine they run on, and what becomes of tests where it is missing.

Where nothing is promised (a laptop, no root) the tests are skipped and the missing thing is named. In CI as root
everything can be installed, so what is missing there fails the tests.
"""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

PACKAGES = {
    "busybox": "busybox-static",
    "ip": "iproute2",
    "nix": "nix-bin",
    "nix-store": "nix-bin",
    "nsenter": "util-linux",
    "pgrep": "procps",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}
"""Program to the Debian package it comes from."""

SSHD = Path("/usr/sbin/sshd")
SYSTEMD = Path("/lib/systemd/systemd")
_PAM = next(Path("/usr/lib").glob("*/security/pam_systemd.so"), Path("/usr/lib/security/pam_systemd.so"))
TIER2_FILES = {
    SYSTEMD: "systemd",
    Path("/usr/bin/systemd-run"): "systemd",
    Path("/usr/bin/dbus-daemon"): "dbus",
    _PAM: "libpam-systemd",
}


def missing(tier: int, *, sudo: bool = False) -> tuple[str, ...]:
    """What is not there, each with where it comes from."""
    found = [f"{name} (package {package})" for name, package in PACKAGES.items() if _which(name) is None]
    if not SSHD.exists():
        found.append("sshd (package openssh-server)")
    if sudo and shutil.which("sudo") is None:
        found.append("sudo (package sudo)")
    if tier == 2:
        found += [f"{path.name} (package {package})" for path, package in TIER2_FILES.items() if not path.exists()]
    return tuple(sorted(set(found)))


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin")


def require(tier: int, *, sudo: bool = False) -> None:
    """Skip, naming what is missing; in CI as root, fail."""
    if os.geteuid() != 0:
        pytest.skip(f"real hosts of tier {tier}: needs root, to make namespaces")
    lacks = missing(tier, sudo=sudo)
    if lacks and os.environ.get("CI"):
        pytest.fail(f"real hosts of tier {tier}: CI runs as root but lacks {', '.join(lacks)}; see .ci/run")
    if lacks:
        pytest.skip(f"real hosts of tier {tier}: missing {', '.join(lacks)}")
    if refused := _refused():
        pytest.skip(f"real hosts of tier {tier}: this root may not make namespaces and mounts: {refused}")


@cache
def _refused() -> str:
    """What the kernel says to a root that is none (in an unprivileged container)."""
    argv = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""
