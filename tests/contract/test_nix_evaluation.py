"""The evaluator against the nix on this machine, in a store of its own, with flakes that need no nixpkgs.

Skipped where there is no nix. Memory is looked at from a thread that knows nothing of who watches it.
"""

import json
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from nixkube_deploy.backends.nix.evaluation import eval_jobs, expressions
from nixkube_deploy.backends.nix.evaluation.cache import EvaluationCache
from nixkube_deploy.backends.nix.evaluation.evaluator import NixEvaluator
from nixkube_deploy.backends.nix.evaluation.sizing import MIB
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.backends.nix.store import StoreFiles, store_root
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.model.building import EvaluationSettings
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.names import HostName
from tests.builders import a_host

pytestmark = pytest.mark.skipif(shutil.which("nix") is None, reason="nix is not installed")

HOSTS = """
{
  outputs = { self }:
    let
      host = name: {
        pkgs.system = "x86_64-linux";
        config.system.build.toplevel = derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; };
      };
    in {
      nixosConfigurations = {
        n1 = host "n1${builtins.getEnv "WHO"}";
        n2 = host "n2";
        "a.b" = host "a.b";
        thrown = host (throw "this host is broken");
        recursive = let x = x; in x;
        absent = {}.nope;
        aborted = abort "no way";
      };
    };
}
"""

HEAVY = """
{
  outputs = { self }:
    let
      # A host's configuration is a list of its own that lives as long as the set of hosts does.
      many = size: builtins.genList (i: { s = toString i; }) size;
      host = size: name: rec {
        pkgs.system = "x86_64-linux";
        held = many size;
        config.system.build.toplevel = derivation {
          name = builtins.deepSeq held "nixos-${name}"; system = "x86_64-linux"; builder = "/bin/sh";
        };
      };
    in {
      nixosConfigurations = {
        h1 = host 500000 "h1"; h2 = host 500000 "h2"; h3 = host 500000 "h3"; h4 = host 500000 "h4";
        huge = host 40000000 "huge";
        light = host 10 "light";
      };
    };
}
"""

WITH_INPUT = """
{
  inputs.part.url = "path:@part@";
  outputs = { self, part }: {
    nixosConfigurations.n1 = {
      pkgs.system = "x";
      config.system.build.toplevel = derivation { name = part.name; system = "x"; builder = "b"; };
    };
  };
}
"""


@dataclass(frozen=True, slots=True)
class Place:
    path: Path

    @property
    def flake(self) -> str:
        return f"path:{self.path}/flake"

    @property
    def root(self) -> Path:
        return self.path / "root"

    def write(self, text: str, folder: str = "flake") -> None:
        (self.path / folder).mkdir(exist_ok=True)
        (self.path / folder / "flake.nix").write_text(text)

    def evaluator(self, *, keep: bool = False, **settings) -> NixEvaluator:
        cache = EvaluationCache(self.path / "kept", StoreFiles(store_root(str(self.root)))) if keep else None
        program = NixProgram(LocalProcesses(), "nix", os.environ)
        return NixEvaluator(program, EvaluationSettings(**settings), cache=cache, environ=os.environ)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NIX_REMOTE", str(tmp_path / "root"))
    monkeypatch.setenv("NIX_CONFIG", "build-users-group =\nsubstituters =\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = Place(tmp_path)
    place.write(HOSTS)
    yield place
    subprocess.run(["chmod", "-R", "u+w", tmp_path], check=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def nix(*arguments: str) -> str:
    command = ["nix", "--extra-experimental-features", "nix-command flakes", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def resident(parent: int) -> int:
    """Bytes of every descendant."""
    total = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                total += int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                total += resident(int(entry.name))
        except OSError:
            continue
    return total


class Sampler(threading.Thread):
    """The most memory that all our descendants had at once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._ended = 0, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, resident(os.getpid()))

    def stop(self) -> int:
        self._ended.set()
        self.join()
        return self.peak


async def test_all_evaluators_together_stay_under_the_cap_and_every_host_that_fits_is_evaluated(place):
    place.write(HEAVY)
    cap, said, sampler = 320 * MIB, [], Sampler()
    hosts = [a_host(name) for name in ("h1", "h2", "h3", "h4", "huge", "light")]
    sampler.start()
    evaluation = await place.evaluator(workers=2, max_memory=cap).evaluate(place.flake, hosts, said.append)
    peak = sampler.stop()
    assert set(evaluation.hosts) == {"h1", "h2", "h3", "h4", "light"}
    failure = evaluation.failures[HostName("huge")]
    assert "huge does not evaluate in 320 MiB" in failure.message
    assert "max_memory: 640MiB" in failure.next
    assert 100 * MIB < peak < cap
    assert said[0] == "evaluating 6 hosts with up to 2 evaluators in 320 MiB"
    assert "evaluated 5 of 6 hosts in" in said[-1]


async def test_every_kind_of_error_is_one_hosts_own_and_says_where_it_is(place):
    names = ("n1", "n2", "thrown", "recursive", "absent", "aborted", "n22", "a.b")
    evaluation = await place.evaluator().evaluate(place.flake, [a_host(name) for name in names])
    told = {str(name): failure.message for name, failure in evaluation.failures.items()}
    assert set(evaluation.hosts) == {"n1", "n2", "a.b"}
    assert "this host is broken" in told["thrown"]
    assert "infinite recursion" in told["recursive"]
    assert "attribute 'nope' missing (at flake.nix:16)" in told["absent"]
    assert "no way" in told["aborted"]
    assert "did you mean n2?" in told["n22"]


async def test_a_lock_file_is_never_changed_and_what_it_lacks_is_named(place):
    for name in ("one", "two"):
        place.write(f'{{ outputs = {{ self }}: {{ name = "{name}"; }}; }}', name)
    place.write(WITH_INPUT.replace("@part@", str(place.path / "one")))
    with pytest.raises(TaskError, match="missing or out of date: part") as caught:
        await place.evaluator().evaluate(place.flake, [a_host("n1")])
    assert "nix flake lock" in caught.value.failure.next
    lock = place.path / "flake/flake.lock"
    assert not lock.exists()
    nix("flake", "lock", place.flake)
    before = lock.read_text()
    evaluation = await place.evaluator().evaluate(place.flake, [a_host("n1")])
    assert evaluation.hosts[HostName("n1")].out.endswith("-one")
    two = f"path:{place.path / 'two'}"
    evaluation = await place.evaluator(override_inputs={"part": two}).evaluate(place.flake, [a_host("n1")])
    assert evaluation.hosts[HostName("n1")].out.endswith("-two")
    assert lock.read_text() == before
    with pytest.raises(TaskError, match="has no input prt") as caught:
        await place.evaluator(override_inputs={"prt": two}).state(place.flake)
    assert caught.value.failure.next == "did you mean part?"


async def test_what_has_not_changed_is_not_evaluated_again_and_what_has_is(place):
    hosts, said = [a_host("n1"), a_host("n2")], []
    first = await place.evaluator(keep=True).evaluate(place.flake, hosts)
    assert await place.evaluator(keep=True).evaluate(place.flake, hosts, said.append) == first
    assert said == ["2 of 2 hosts are as they were when they were last evaluated"]
    (place.root / first.hosts[HostName("n1")].drv.lstrip("/")).unlink()
    said.clear()
    await place.evaluator(keep=True).evaluate(place.flake, hosts, said.append)
    assert said[1].startswith("evaluating 1 host ")
    (place.path / "flake/more.txt").write_text("x")
    said.clear()
    await place.evaluator(keep=True).evaluate(place.flake, hosts, said.append)
    assert said[0].startswith("evaluating 2 hosts ")


async def test_an_uncommitted_change_is_said_evaluated_and_kept_only_as_long_as_it_lasts(place):
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@x", "-c", "safe.directory=*")
        subprocess.run(["git", *identity, "-C", str(place.path / "flake"), *arguments], check=True, capture_output=True)

    git("init", "-q")
    git("add", "flake.nix")
    git("commit", "-q", "-m", "x")
    flake, said = f"git+file://{place.path}/flake", []
    clean = await place.evaluator(keep=True).evaluate(flake, [a_host("n1")], said.append)
    assert not clean.flake.dirty
    place.write(HOSTS.replace('"n1$', '"n1-changed$'))
    dirty = await place.evaluator(keep=True).evaluate(flake, [a_host("n1")], said.append)
    assert dirty.flake.dirty
    assert dirty.hosts[HostName("n1")].out.endswith("-n1-changed")
    assert any(line.endswith(", with uncommitted changes") for line in said)
    place.write(HOSTS.replace('"n1$', '"n1-again$'))
    again = await place.evaluator(keep=True).evaluate(flake, [a_host("n1")])
    assert again.hosts[HostName("n1")].out.endswith("-n1-again")


async def test_purity_is_given_up_only_when_asked(place, monkeypatch):
    monkeypatch.setenv("WHO", "-outside")
    pure = await place.evaluator().evaluate(place.flake, [a_host("n1")])
    impure = await place.evaluator(impure=True).evaluate(place.flake, [a_host("n1")])
    assert pure.hosts[HostName("n1")].out.endswith("-n1")
    assert impure.hosts[HostName("n1")].out.endswith("-n1-outside")


async def test_what_nix_eval_jobs_is_asked_to_select_is_understood_by_nix(place):
    """The program itself cannot be had here; its expressions can be evaluated without it."""
    wanted = [expressions.wanted(a_host(name)) for name in ("n1", "a.b", "nowhere")]
    drvs = f"builtins.mapAttrs (_: d: d.drvPath + (({eval_jobs.APPLY}) d).system)"
    apply = f"root: {drvs} (({eval_jobs.select(wanted)}) root)"
    told = json.loads(nix("eval", "--json", f"{place.flake}#nixosConfigurations", "--apply", apply))
    evaluation = await place.evaluator().evaluate(place.flake, [a_host("n1"), a_host("a.b")])
    assert told == {name: one.drv + one.system for name, one in evaluation.hosts.items()}
