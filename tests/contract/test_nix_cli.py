"""NixCli against the nix on this machine, in a store of its own, with a flake that needs no nixpkgs.

Skipped where there is no nix. Copies are ``test_nix_copy``'s.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from nixkube_deploy.backends.nix.cli import NixCli, NixSettings
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import SshInvocation
from tests.builders import a_host
from tests.fakes.shell import FakeShell

NIX = shutil.which("nix")
pytestmark = pytest.mark.skipif(NIX is None, reason="nix is not installed")

FLAKE = """
{
  outputs = { self }:
    let
      system = "x86_64-linux";
      make = script: name: derivation {
        inherit name system;
        builder = "/bin/sh";
        args = [ "-c" "PATH=/usr/bin:/bin; ${script}" ];
      };
      kernel = make "mkdir $out; echo k > $out/bzImage" "linux-6.12.8";
      unit = name: make "mkdir $out; echo ${name} > $out/k3s.service" "unit-k3s.service";
      units = name: make "mkdir $out; ln -s ${unit name}/k3s.service $out/k3s.service" "system-units";
      etc = name: make "mkdir -p $out/etc/systemd; ln -s ${units name} $out/etc/systemd/system" "etc";
      params = "printf 'a=b quiet' > $out/kernel-params";
      host = name: {
        pkgs.system = system;
        config.system.build.diskoScript = make "echo ${name} > $out" "disko-${name}";
        config.system.build.toplevel = make
          "mkdir $out; ln -s ${kernel}/bzImage $out/kernel; ln -s ${etc name}/etc $out/etc; ${params}"
          "nixos-system-${name}-25.11";
      };
      broken = make "echo first line; echo oops >&2; exit 3" "broken-part";
    in {
      nixosConfigurations = {
        n1 = host "n1";
        n2 = host "n2";
        "a.b" = host "a.b";
        throws = throw "this host is broken";
        fails = { config.system.build.toplevel = make "cat ${broken}" "nixos-system-fails"; };
      };
      other = host "other";
    };
}
"""


@dataclass(frozen=True, slots=True)
class Place:
    nix: NixCli
    flake: str
    root: Path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "flake").mkdir()
    (tmp_path / "flake/flake.nix").write_text(FLAKE)
    folders = "".join(f" {folder}" for folder in ("/bin", "/lib", "/lib64", "/usr") if Path(folder).exists())
    monkeypatch.setenv("NIX_REMOTE", str(tmp_path / "root"))
    monkeypatch.setenv("NIX_CONFIG", f"build-users-group =\nsubstituters =\nsandbox-paths ={folders}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    nix = NixCli(LocalProcesses(), ssh_of, FakeShell(), environ=os.environ)
    yield Place(nix, f"path:{tmp_path}/flake", tmp_path / "root")
    subprocess.run(["chmod", "-R", "u+w", tmp_path], check=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def ssh_of(host: Host) -> SshInvocation:
    return SshInvocation(f"root@{host.address}", ("-p", "2222"))


async def test_a_flake_has_a_revision_that_changes_with_its_content(place, tmp_path):
    before = await place.nix.state(place.flake)
    assert before == await place.nix.state(place.flake)
    (tmp_path / "flake/more.txt").write_text("x")
    assert (await place.nix.state(place.flake)).revision != before.revision


async def test_a_flake_that_is_not_there_is_an_evaluation_failure(place, tmp_path):
    with pytest.raises(TaskError) as caught:
        await place.nix.state(f"path:{tmp_path}/nowhere")
    assert caught.value.failure.kind is FailureKind.EVALUATION
    assert caught.value.failure.evidence


async def test_hosts_are_evaluated_and_culprits_named(place):
    hosts = [a_host("n1"), a_host("a.b"), a_host("throws"), a_host("absent"), a_host("odd", attr="other")]
    evaluation = await place.nix.evaluate(place.flake, hosts)
    assert list(evaluation.hosts) == ["n1", "a.b", "odd"]
    assert {one.system for one in evaluation.hosts.values()} == {"x86_64-linux"}
    assert "this host is broken" in evaluation.failures[HostName("throws")].message
    assert "absent" in evaluation.failures[HostName("absent")].expected


async def test_systems_are_built_and_read_and_culprits_named(place):
    evaluation = await place.nix.evaluate(place.flake, [a_host("n1"), a_host("n2"), a_host("fails")])
    wanted = list(evaluation.hosts.values())
    built = await place.nix.build(place.flake, wanted, frozenset({HostName("n2")}))
    assert set(built.closures) == {"n1", "n2"}
    contents = built.closures[HostName("n1")].contents
    assert contents.kernel.endswith("-linux-6.12.8/bzImage")
    assert contents.kernel_params == "a=b quiet"
    assert contents.units["k3s.service"].endswith("-unit-k3s.service/k3s.service")
    disko = built.closures[HostName("n2")].disko
    assert disko is not None
    assert (place.root / disko.lstrip("/")).read_text() == "n2\n"
    failure = built.failures[HostName("fails")]
    assert "broken-part" in failure.message
    assert any("oops" in line for line in failure.evidence)


async def test_a_kept_evaluation_whose_derivation_the_store_has_lost_costs_one_run_and_not_every_one(place, tmp_path):
    settings = NixSettings(evaluations=tmp_path / "kept")
    nix, n1 = NixCli(LocalProcesses(), ssh_of, FakeShell(), environ=os.environ, settings=settings), [a_host("n1")]
    (one,) = (await nix.evaluate(place.flake, n1)).hosts.values()
    file = place.root / one.drv.removeprefix("/")
    text = file.read_bytes()
    assert (await anyio.run_process(["nix-store", "--delete", one.drv])).returncode == 0
    file.parent.chmod(0o755)
    file.write_bytes(text)  # As a collection that was cut off leaves it: on the disk, and not registered.
    failed = await nix.build(place.flake, (await nix.evaluate(place.flake, n1)).hosts.values(), frozenset())
    failure = failed.failures[HostName("n1")]
    assert failure.next.startswith("run the same command again")
    again = await nix.build(place.flake, (await nix.evaluate(place.flake, n1)).hosts.values(), frozenset())
    assert set(again.closures) == {HostName("n1")}
