"""The programs of a real control plane: built from pinned Go modules, and Debian's etcd; made once, outside the tree.

It deliberately takes nothing that happens to be installed but etcd: what is pinned in ``go.mod`` is what is tested.

    python -m tests.real.control_plane.programs    # makes them where they are missing; says why where it cannot
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.real.bed.tree import cache

HERE = Path(__file__).resolve().parent
NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
ETCD = "etcd"
_COMPLETE = ".complete"
_FLAGS = ("-trimpath", "-mod=readonly", "-buildvcs=false", "-p=2")
_GO_FILES = ("go.mod", "go.sum")
_PATIENCE = 3600
"""Seconds for a compile: four minutes on two idle cores."""


class NoControlPlane(Exception):  # noqa: N818 (says what is not there)
    """A control plane that cannot be had, and why."""


def programs() -> Path:
    """The folder with the programs, which are made if they are not there yet.

    Raises:
        NoControlPlane: they cannot be had here.
    """
    place = cache().parent / f"control-plane-{_digest()}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        if not (place / _COMPLETE).exists():
            place.mkdir(exist_ok=True)
            _build(place)
            _take_etcd(place)
            (place / _COMPLETE).touch()
    return place


def version() -> str:
    """The Kubernetes that ``go.mod`` pins."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (HERE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None, "go.mod pins k8s.io/kubernetes"
    return found[1]


def _digest() -> str:
    made_from = [(HERE / name).read_bytes() for name in _GO_FILES] + [" ".join(_FLAGS).encode()]
    return hashlib.sha256(b"\0".join(made_from)).hexdigest()[:12]


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process at a time: a compile takes all of a small machine."""
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(place: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise NoControlPlane("Go is missing (go.mod says from which version on); any newer one fetches what it needs")
    number = version()
    major, minor = number.removeprefix("v").split(".")[:2]
    stamp = {"gitVersion": number, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamped = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamp.items())
    # ``tool`` are those that go.mod names; one command, so that what they share is compiled once.
    argv = ["nice", "-n", "10", go, "build", *_FLAGS, "-ldflags", f"-s -w {stamped}", "-o", f"{place}/", "tool"]
    sys.stdout.write(f"building Kubernetes {number} and kwok in {place}: minutes the first time\n")
    sys.stdout.flush()
    began = time.monotonic()
    # The user's own settings (a proxy, a private mirror) count, but for what would change the programs.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "auto"}
    _run(argv, environment=environment, folder=HERE)
    sys.stdout.write(f"built in {time.monotonic() - began:.0f} s\n")
    if lacks := [name for name in NAMES if not (place / name).exists()]:
        raise NoControlPlane(f"the build did not make {', '.join(lacks)}")


def _take_etcd(place: Path) -> None:
    """The one that is installed, or else the one in Debian's package, which is unpacked and not installed."""
    installed = shutil.which(ETCD)
    if installed is not None:
        (place / ETCD).unlink(missing_ok=True)
        (place / ETCD).symlink_to(installed)
        return
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NoControlPlane(f"etcd is missing, and so is {tool} to take it from Debian's package etcd-server")
    with tempfile.TemporaryDirectory(prefix="nixkube-etcd-") as name:
        folder = Path(name)
        # Elsewhere apt would drop to a user of its own, who may not write there.
        _run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "etcd-server"], folder=folder)
        (package,) = folder.glob("*.deb")
        _run(["dpkg-deb", "-x", str(package), str(folder / "files")])
        shutil.copy(folder / "files" / "usr" / "bin" / ETCD, place / ETCD)


def _run(argv: list[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=_PATIENCE
    )
    if done.returncode:
        raise NoControlPlane(f"{shlex.join(argv)} failed:\n{(done.stderr or done.stdout).strip()[-3000:]}")


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{programs()}\n")
    except NoControlPlane as error:
        sys.exit(f"not run: no control plane can be had here: {error}")
