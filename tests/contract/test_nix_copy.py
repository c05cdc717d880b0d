"""Copies with the nix and the OpenSSH of this machine: a chroot store there, another here, sshd on loopback between.

Skipped where one of them is missing. What needs a machine of its own (sudo, a full disk, a link that is cut) is proved
on the bed, in ``tests/real``.
"""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nixkube_deploy.backends.nix.cli import NixCli, NixSettings
from nixkube_deploy.backends.nix.copying import copier
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.backends.ssh.options import OpensshOptions
from nixkube_deploy.backends.ssh.shell import SshShell
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import CopySettings, CopyVia, Host
from nixkube_deploy.model.names import StorePath
from tests.fakes.sshd import openssh_sshd, path_of_a_host_in, real_sshd

pytestmark = pytest.mark.skipif(
    shutil.which("nix") is None or openssh_sshd() is None, reason="nix or sshd is not installed"
)

CONFIG = "build-users-group =\nsubstituters =\nexperimental-features = nix-command flakes\n"
EXPRESSION = """
let
  make = name: script: derivation {
    inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "PATH=/usr/bin:/bin; ${script}" ];
  };
  parts = builtins.genList (i: make "part-${toString i}" "mkdir $out; echo ${toString i} > $out/n") 12;
  base = make "base" "echo ${toString parts} > $out";
in {
  one = make "system-one" "echo ${base} > $out";
  two = make "system-two" "echo ${base} ${make "unit" "echo two > $out"} > $out";
  big = make "system-big" "head -c 20000000 /dev/zero > $out";
}
"""
COPYING = re.compile(r"copied (\d+) paths?")


def nix(place: Path, *argv: str, **env: str) -> str:
    known = {**os.environ, "HOME": str(place), "NIX_CONFIG": CONFIG + f"sandbox-paths = {folders()}\n", **env}
    return subprocess.run(argv, env=known, check=True, capture_output=True, text=True).stdout


def writable(folder: Path) -> None:
    """Stores are read-only; what is to be deleted must not be."""
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)


def folders() -> str:
    return " ".join(folder for folder in ("/bin", "/lib", "/lib64", "/usr") if Path(folder).exists())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    """The controller's store, built once: ``one``, ``two`` (a change of two paths to it) and ``big``."""
    place = tmp_path_factory.mktemp("store")
    (place / "x.nix").write_text(EXPRESSION)
    names = ("one", "two", "big")
    asked = [word for name in names for word in ("-A", name)]
    argv = ("nix-build", str(place / "x.nix"), *asked, "--no-out-link")
    paths = nix(place, *argv, NIX_REMOTE=str(place / "ctl")).split()
    yield place, dict(zip(names, map(StorePath, paths), strict=True))
    writable(place)


@dataclass
class Place:
    """A controller and one host."""

    nix: NixCli
    shell: SshShell
    host: Host
    remote: Path
    paths: dict[str, StorePath]
    log: Path
    lines: list[str] = field(default_factory=list)

    async def copy(self, name: str, **settings: object) -> bool:
        host = replace(self.host, copy=CopySettings(substitute=False, **settings))
        return await self.nix.copy(self.paths[name], host, self.lines.append)

    async def fails(self, name: str, **settings: object) -> Failure:
        with pytest.raises(TaskError) as caught:
            await self.copy(name, **settings)
        return caught.value.failure

    def holds(self, name: str) -> bool:
        argv = ["nix-store", "--check-validity", self.paths[name]]
        env = {**os.environ, "NIX_REMOTE": str(self.remote), "HOME": str(self.remote), "NIX_CONFIG": CONFIG}
        return subprocess.run(argv, env=env, check=False, capture_output=True).returncode == 0

    @property
    def travelled(self) -> int:
        """Paths the last copy moved."""
        match = COPYING.match(self.lines[-1])
        assert match is not None, self.lines
        return int(match[1])

    @property
    def logins(self) -> int:
        return self.log.read_text().count("Accepted publickey")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def place(tmp_path: Path, store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    async with a_place(tmp_path, store, monkeypatch) as made:
        yield made


@asynccontextmanager
async def a_place(tmp_path: Path, store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    controller, paths = store
    remote = tmp_path / "remote"
    monkeypatch.setenv("NIX_REMOTE", str(controller / "ctl"))
    monkeypatch.setenv("NIX_CONFIG", CONFIG)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "nix.conf").write_text("build-users-group =\nsubstituters =\n")
    log = tmp_path / "sshd.log"
    path = path_of_a_host_in(remote, tmp_path / "programs")
    settings = f"SetEnv NIX_REMOTE={remote} NIX_CONF_DIR={tmp_path} HOME={tmp_path} PATH={path}\n"
    async with real_sshd(tmp_path, settings, log=log) as sshd, SshShell({}, no_secret) as shell:
        host = sshd.host()
        options = OpensshOptions({host.name: host}, tmp_path / "ssh")
        settings_ = NixSettings(wires=tmp_path / "wires")
        cli = NixCli(LocalProcesses(), options, shell, environ=os.environ, settings=settings_)
        try:
            yield Place(nix=cli, shell=shell, host=host, remote=remote, paths=paths, log=log)
        finally:
            writable(tmp_path)


async def no_secret(reference: object) -> None:
    raise AssertionError(f"nobody should ask for {reference}")


async def test_only_missing_paths_travel_and_all_over_one_login(place):
    assert await place.copy("one")
    assert (place.travelled, place.holds("one")) == (14, True)
    assert await place.copy("two")
    assert (place.travelled, place.holds("two")) == (2, True)
    assert not await place.copy("two")
    assert place.logins == 1


async def test_a_path_that_lies_there_unregistered_is_not_there(place):
    half = place.remote / place.paths["one"].lstrip("/")
    half.parent.mkdir(parents=True)
    half.write_text("half a f")
    assert await place.copy("one")
    assert place.holds("one")
    assert half.read_text() != "half a f"


async def test_much_goes_through_openssh_with_its_bytes_counted(place):
    assert await place.copy("big")
    assert place.holds("big")
    assert place.logins == 2
    assert place.lines[-1] == "copied 1 path, 19 MiB"


async def test_both_ways_leave_the_same_behind(place, monkeypatch):
    await place.copy("one")
    over_the_kept = digests(place)
    writable(place.remote)
    shutil.rmtree(place.remote)
    monkeypatch.setattr(copier, "LARGEST_KEPT", -1)
    await place.copy("one")
    assert digests(place) == over_the_kept
    assert place.logins == 2


def digests(place: Place) -> list[tuple[str, str]]:
    """What the host's store says of each path."""
    listed = nix(place.remote, "nix", "path-info", "--json", "-r", place.paths["one"], NIX_REMOTE=str(place.remote))
    said = json.loads(listed)
    infos = said.items() if isinstance(said, dict) else ((one["path"], one) for one in said)
    return sorted((path, info["narHash"]) for path, info in infos)


async def test_a_path_that_was_never_built_cannot_be_copied(place):
    place.paths = {"none": StorePath("/nix/store/" + "a" * 32 + "-none")}
    failure = await place.fails("none")
    assert (failure.kind, failure.transient) == (FailureKind.COPY, False)


# --- caches ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def caches(store):
    """Two caches with the system ``one``: one that nobody signed, and one whose key is told."""
    place, paths = store
    env = {"NIX_REMOTE": str(place / "ctl")}
    nix(place, "nix", "copy", "--to", f"file://{place}/unsigned?compression=none", paths["one"], **env)
    nix(place, "nix-store", "--generate-binary-cache-key", "cache-1", str(place / "secret"), str(place / "public"))
    signed = f"file://{place}/signed?compression=none&secret-key={place}/secret"
    nix(place, "nix", "copy", "--to", signed, paths["one"], **env)
    return place / "unsigned", place / "signed", (place / "public").read_text().strip()


def trust(tmp_path: Path, key: str) -> None:
    with (tmp_path / "nix.conf").open("a") as conf:
        conf.write(f"trusted-public-keys = {key}\n")


async def test_a_host_pulls_what_a_trusted_key_signed_from_a_folder(place, caches, tmp_path):
    _, signed, key = caches
    trust(tmp_path, key)
    assert await place.copy("one", via=CopyVia.CACHE, cache=f"file://{signed}")
    assert (place.travelled, place.holds("one")) == (14, True)
    assert not await place.copy("one", via=CopyVia.CACHE, cache=f"file://{signed}")


async def test_a_host_pulls_what_a_trusted_key_signed_over_http(place, caches, tmp_path):
    _, signed, key = caches
    trust(tmp_path, key)
    with serving(signed) as url:
        assert await place.copy("one", via=CopyVia.CACHE, cache=url)
    assert (place.travelled, place.holds("one")) == (14, True)


async def test_a_host_refuses_what_nobody_signed(place, caches):
    unsigned, _, _ = caches
    failure = await place.fails("one", via=CopyVia.CACHE, cache=f"file://{unsigned}")
    assert (failure.kind, failure.transient) == (FailureKind.COPY, False)
    assert "trusted-public-keys" in failure.next
    assert not place.holds("one")


async def test_a_cache_that_lacks_the_path_is_to_be_filled(place, caches, tmp_path):
    _, signed, key = caches
    trust(tmp_path, key)
    failure = await place.fails("two", via=CopyVia.CACHE, cache=f"file://{signed}")
    assert (failure.kind, failure.transient) == (FailureKind.COPY, False)
    assert failure.next.startswith(f"nix copy --to file://{signed} {place.paths['two']}")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A binary cache is files behind any web server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""
