"""The two Debians a virtual machine takes: one that QEMU runs in, one that runs in it.

Made once, kept outside the tree; nothing else is tried where they cannot be made.
"""

import hashlib
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.real.bed.tree import archive, cache
from tests.real.vm.needs import GUEST, SUITE, TOOLS, NoMachine

_COMPLETE = ".complete"


def tools() -> Path:
    """QEMU, firmware, and what makes disks."""
    return _tree("vm-tools", TOOLS)


def guest() -> Path:
    """What the machine's disk is made from."""
    return _tree("vm-guest", GUEST)


def _tree(name: str, packages: Sequence[str]) -> Path:
    digest = hashlib.sha256(" ".join((SUITE, *packages)).encode()).hexdigest()[:12]
    place = cache() / f"{name}-{digest}"
    if not (place / _COMPLETE).exists():
        _make(place, packages)
    return place


def _make(place: Path, packages: Sequence[str]) -> None:
    half = place.with_name(f"{place.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.parent.mkdir(parents=True, exist_ok=True)
    lax = "--aptopt=Acquire::Check-Valid-Until false"
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", lax, f"--include={','.join(packages)}", SUITE, str(half)]
    done = subprocess.run([*argv, *archive()], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(half, ignore_errors=True)
        raise NoMachine(f"its Debian cannot be had: {shlex.join(argv)}\n{done.stderr.strip()[-2000:]}")
    (half / _COMPLETE).touch()
    half.rename(place)
