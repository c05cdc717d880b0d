"""Building with the nix on this machine, in stores of its own: progress, blame, roots, validity, remote builders.

Skipped where there is no nix. Hosts and remote builders are second stores behind a stand-in ``ssh``, or behind
OpenSSH's real server on loopback.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest

from nixkube_deploy.backends.nix.building import target
from nixkube_deploy.backends.nix.cli import NixCli, NixSettings
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.backends.ssh.options import OpensshOptions
from nixkube_deploy.backends.ssh.shell import SshShell
from nixkube_deploy.model.building import BuildOn, BuildSettings
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.ports.nix import Built
from tests.fakes.sshd import openssh_sshd, path_of_a_host_in, real_sshd

NIX = shutil.which("nix")
pytestmark = pytest.mark.skipif(NIX is None, reason="nix is not installed")
NEEDS_SSHD = pytest.mark.skipif(openssh_sshd() is None, reason="OpenSSH's sshd is not installed")

FLAKE = """
{ outputs = { self }:
    let
      make = script: name: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ "-c" "PATH=/usr/bin:/bin; ${script}" ];
      };
      loud = tag: "for i in $(seq 30); do echo ${tag} line $i; sleep 0.03; done; echo ${tag} dies >&2; exit 3";
      system = name: part:
        make "mkdir $out; echo ${part} > $out/part; echo params > $out/kernel-params" "nixos-${name}";
    in {
      good = system "good" (make "sleep 1; echo good > $out" "good-part-1.0");
      other = system "other" (make "echo other > $out" "other-part-1.0");
      mute = system "mute" (make "echo hm; sleep 60" "mute-part-1.0");
      ill = system "ill" (make (loud "ill") "ill-part-1.0");
      sick = system "sick" (make (loud "sick") "sick-part-1.0");
    };
}
"""


@dataclass
class Place:
    """A controller: a flake, a store, a directory for roots."""

    path: Path
    ssh_options: object = None
    shell: object = None
    said: list[str] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.path / "root"

    def nix(self, build: BuildSettings = BuildSettings()) -> NixCli:
        settings = NixSettings(build=build, roots=self.path / "built")
        return NixCli(LocalProcesses(), self.ssh_options, self.shell, environ=os.environ, settings=settings)

    def evaluated(self, *names: str) -> list[Evaluated]:
        wanted = "".join(f"{name} = [ f.{name}.drvPath f.{name}.outPath ];" for name in names)
        flake = f"(builtins.getFlake path:{self.path}/flake)"
        argv = ["nix", "eval", "--impure", "--json", "--expr", f"let f = {flake}; in {{ {wanted} }}"]
        found = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
        return [
            Evaluated(host=HostName(name), drv=drv, out=StorePath(out), system="x86_64-linux")
            for name, (drv, out) in found.items()
        ]

    async def build(self, *names: str, build: BuildSettings = BuildSettings()) -> Built:
        return await self.nix(build).build("unused", self.evaluated(*names), frozenset(), self.said.append)

    def has(self, path: str, store: Path | None = None) -> bool:
        return ((store or self.store) / path.lstrip("/")).exists()

    def collect_garbage(self, store: Path | None = None) -> None:
        env = {**os.environ, "NIX_REMOTE": str(store or self.store)}
        subprocess.run(["nix-store", "--gc"], env=env, capture_output=True, check=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    (tmp_path / "flake").mkdir()
    (tmp_path / "flake/flake.nix").write_text(FLAKE)
    folders = "".join(f" {folder}" for folder in ("/bin", "/lib", "/lib64", "/usr") if Path(folder).exists())
    features = "experimental-features = nix-command flakes"
    monkeypatch.setenv("NIX_REMOTE", str(tmp_path / "root"))
    monkeypatch.setenv(
        "NIX_CONFIG", f"build-users-group =\nsubstituters =\nmax-jobs = 4\nsandbox-paths ={folders}\n{features}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    yield Place(tmp_path)
    subprocess.run(["chmod", "-R", "u+w", tmp_path], check=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_is_built_is_told_while_it_is_built(place):
    built = await place.build("good", "other")
    assert set(built.closures) == {"good", "other"}
    # Newer versions of Nix also count what they only look at.
    assert any(re.search(r"building \d of [45]: .*good-part-1\.0", line) for line in place.said), place.said
    assert place.said[-1] == "built 4 derivations"


async def test_what_is_there_is_not_built_again(place):
    first = await place.build("good")
    place.said.clear()
    assert (await place.build("good")).closures == first.closures
    assert place.said == []


async def test_parallel_failures_show_each_the_end_of_its_own_log(place):
    built = await place.build("good", "ill", "sick")
    assert set(built.closures) == {"good"}
    for name in ("ill", "sick"):
        failure = built.failures[HostName(name)]
        assert failure.kind is FailureKind.BUILD
        assert failure.message == f"{name}'s system was not built: {name}-part-1.0 (exit code 3)"
        assert failure.evidence[1:] == (*(f"> {name} line {i}" for i in range(13, 31)), f"> {name} dies")
        drv = failure.next.removeprefix("nix log ")
        log = await anyio.run_process(["nix", "log", drv])
        assert f"{name} line 1\n" in log.stdout.decode()


async def test_what_was_built_survives_a_garbage_collection_until_the_run_is_over(place):
    built = await place.build("good", "ill")
    out = built.closures[HostName("good")].out
    place.collect_garbage()
    assert place.has(out)
    shutil.rmtree(place.path / "built")
    place.collect_garbage()
    assert not place.has(out)


async def test_a_path_that_lies_there_half_written_is_built(place):
    (one,) = place.evaluated("other")
    half = place.store / one.out.lstrip("/")
    half.mkdir(parents=True)
    assert await place.nix().contents(one.out) is None
    built = await place.build("other")
    assert built.closures[HostName("other")].contents.kernel_params == "params"
    assert await place.nix().contents(one.out) is not None


async def test_settings_reach_nix(place):
    impatient = BuildSettings(max_jobs=1, cores=1, builders="", options={"max-silent-time": "1"})
    built = await place.build("other", "mute", build=impatient)
    assert set(built.closures) == {"other"}
    failure = built.failures[HostName("mute")]
    reason = r"mute's system was not built: mute-part-1\.0 \(after 1 seconds( of silence)?\)"
    assert re.fullmatch(reason, failure.message), failure
    assert failure.evidence[-1] == "> hm"
    refused = await place.build("sick", build=BuildSettings(max_jobs=0))
    said = refused.failures[HostName("sick")].message
    assert re.search("nable to start any build|sick.*local builds are disabled", said), said


# --- another machine ---


@dataclass
class Another:
    """A second store, reached by the real ssh over the real sshd."""

    host: Host
    store: Path


@pytest.fixture
async def another(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Another]:
    """Whoever logs in finds a store under ``tmp_path/there``, but this machine's root directory."""
    monkeypatch.setattr(target, "ROOT", str(tmp_path / "kept/built"))
    store = tmp_path / "there"
    env = {"NIX_REMOTE": str(store), "NIX_CONFIG": os.environ["NIX_CONFIG"], "HOME": str(tmp_path / "home")}
    env["PATH"] = path_of_a_host_in(store, tmp_path / "programs")
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    login = tmp_path / "login"
    login.write_text(f'#!/bin/sh\n{exports}exec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    login.chmod(0o755)
    async with real_sshd(tmp_path, f"ForceCommand {login}\n") as sshd:
        host = sshd.host("good")
        options = OpensshOptions({host.name: host}, tmp_path / "ssh")
        async with SshShell({}, None) as shell:
            place.ssh_options, place.shell = options, shell
            yield Another(host=host, store=store)


@NEEDS_SSHD
async def test_a_remote_builder_builds_and_its_failures_show_the_log(place, another, monkeypatch):
    monkeypatch.setenv("NIX_SSHOPTS", place.ssh_options(another.host).spaced())
    machine = f"ssh://{place.ssh_options(another.host).destination} x86_64-linux - 2"
    built = await place.build("good", "ill", build=BuildSettings(max_jobs=0, builders=machine))
    assert set(built.closures) == {"good"}
    assert place.has(built.closures[HostName("good")].out)
    assert place.has(built.closures[HostName("good")].out, another.store), "it was built there"
    assert any("good-part-1.0 on 127.0.0.1" in line for line in place.said)
    failure = built.failures[HostName("ill")]
    assert failure.message.startswith("ill's system was not built: ill-part-1.0 (exit code ")
    assert failure.evidence[-1] == "> ill dies"


@NEEDS_SSHD
async def test_a_host_builds_its_own_system_and_the_controller_never_holds_it(place, another):
    (one,) = place.evaluated("good")
    nix = place.nix()
    await nix.build_on(another.host, one, place.said.append)
    assert place.has(one.out, another.store)
    assert not place.has(one.out)
    assert any("good: building " in line and "good-part-1.0" in line for line in place.said)
    place.said.clear()
    await nix.build_on(another.host, one, place.said.append)
    assert place.said == []
    place.collect_garbage(another.store)
    assert place.has(one.out, another.store)
    assert not await nix.copy(one.out, replace(another.host, build_on=BuildOn.TARGET))


@NEEDS_SSHD
async def test_a_build_that_fails_on_its_host_shows_the_log(place, another):
    (one,) = place.evaluated("ill")
    with pytest.raises(TaskError) as caught:
        await place.nix().build_on(another.host, replace(one, host=another.host.name), place.said.append)
    failure = caught.value.failure
    assert failure.kind is FailureKind.BUILD
    assert failure.message == "good's system was not built on good: ill-part-1.0 (exit code 3)"
    assert failure.evidence[-1] == "> ill dies"
    assert failure.next.startswith("on good: nix log /nix/store/")


@NEEDS_SSHD
async def test_a_host_that_does_not_take_the_derivations_says_why(place, another):
    (one,) = place.evaluated("good")
    with pytest.raises(TaskError) as caught:
        await place.nix().build_on(another.host, replace(one, drv=one.drv.replace("nixos-", "nothing-")))
    assert "the derivations could not be sent to good" in caught.value.failure.message
