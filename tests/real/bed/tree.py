"""Other Debians, for a newer Nix than this machine's: a root file system for hosts, and its ``nix`` for the controller.

Made by mmdebstrap from the Debian archive this machine installs from, once, outside the checkout. Where that fails,
whoever asked for it is told; nothing falls back to the machine's own.

    python -m tests.real.bed.tree trixie    # makes it where it is missing; prints the folder with its nix programs
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITES = ("trixie", "forky", "sid")
PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "dbus",
    "iproute2",
    "libpam-systemd",
    "nix-bin",
    "openssh-client",
    "openssh-server",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
)
PROGRAMS = ("nix", "nix-build", "nix-collect-garbage", "nix-copy-closure", "nix-daemon", "nix-env", "nix-store")
_COMPLETE = ".complete"
_LINKER = "lib64/ld-linux-x86-64.so.2"


class NoTree(Exception):  # noqa: N818 (says what is not there)
    """A tree that cannot be had, and why."""


def cache() -> Path:
    """Where trees are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nixkube-deploy" / "trees"


def tree(suite: str) -> Path:
    """The root of a Debian; made if it is not there yet.

    Raises:
        NoTree: it cannot be made here.
    """
    if suite not in SUITES:
        raise NoTree(f"there is no Debian {suite!r} to take a Nix from; there are {', '.join(SUITES)}")
    place = cache() / suite
    if not (place / _COMPLETE).exists():
        _make(suite, place)
    return place


def _make(suite: str, place: Path) -> None:
    if os.geteuid() != 0:
        raise NoTree(f"a tree of Debian {suite} needs root to be made in {place}")
    if shutil.which("mmdebstrap") is None:
        raise NoTree(f"a tree of Debian {suite} needs mmdebstrap (package mmdebstrap)")
    half = place.with_name(f"{place.name}.half-{os.getpid()}")
    half.parent.mkdir(parents=True, exist_ok=True)
    # A clock behind or ahead of the archive's is no reason not to test; what is downloaded is still signed.
    lax = "--aptopt=Acquire::Check-Valid-Until false"
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", lax, f"--include={','.join(PACKAGES)}", suite, str(half)]
    done = subprocess.run([*argv, *archive()], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(half, ignore_errors=True)
        raise NoTree(f"a tree of Debian {suite} cannot be made: {shlex.join(argv)}\n{done.stderr.strip()[-2000:]}")
    (half / _COMPLETE).touch()
    try:
        half.rename(place)
    except OSError:  # Somebody else was faster.
        shutil.rmtree(half)


def archive() -> list[str]:
    """The first archive this machine itself installs from, else mmdebstrap's own choice."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text() for path in places if path.is_file())
    found = re.search(r"^(?:deb(?: \[[^]]*\])? |URIs: )(https?://\S+)", text, re.MULTILINE)
    return [found[1]] if found else []


def programs(suite: str) -> Path:
    """A folder with the suite's nix programs, as programs of this machine: only they see the tree's libraries.

    Raises:
        NoTree: there is no such tree.
    """
    root = tree(suite)
    folder = cache() / f"{suite}-programs"
    folder.mkdir(exist_ok=True)
    libraries = ":".join(str(root / place) for place in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib"))
    for name in PROGRAMS:
        words = [str(root / _LINKER), "--argv0", name, "--library-path", libraries, str(root / "usr/bin/nix")]
        # Nix starts itself again, for its build hook; asked for its own name, it would answer the linker's.
        text = f'#!/bin/sh\nexport NIX_BIN_DIR={shlex.quote(str(folder))}\nexec {shlex.join(words)} "$@"\n'
        if not (folder / name).exists() or (folder / name).read_text() != text:
            _write_program(folder / name, text)
    return folder


def _write_program(path: Path, text: str) -> None:
    """At once, whoever else writes or runs it."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).chmod(0o755)
    Path(file.name).rename(path)


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{programs(sys.argv[1])}\n")
    except NoTree as error:
        sys.exit(f"no newer Nix: {error}")
