"""Closures as the nix on this machine tells of them, in stores of the test's own; ``diff-closures`` is the oracle.

Skipped where there is no nix.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from nixkube_deploy.backends.nix.closures import NixClosures
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.backends.nix.store import StoreFiles
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.model.packages import PackageChanges, PackageFate, Sizes
from nixkube_deploy.plan.packages import NOTICEABLE, closure_of, package_changes
from nixkube_deploy.ports.shell import CommandResult
from tests.builders import a_host, store_path
from tests.fakes.shell import FakeShell

pytestmark = pytest.mark.skipif(shutil.which("nix") is None, reason="nix is not installed")

SYSTEMS = """
let
  make = name: kib: parts: derivation {
    inherit name;
    system = "x86_64-linux";
    builder = "/bin/sh";
    data = "head -c ${toString (kib * 1024)} /dev/zero > $out/data";
    args = [ "-c" "PATH=/usr/bin:/bin; mkdir $out; eval $data; echo ${toString parts} > $out/parts" ];
  };
  lib = make "glibc-2.40-66" 40 [ ];
in {
  before = make "nixos-system-w1-25.05" 1 [
    lib
    (make "linux-6.12.7" 100 [ lib ])
    (make "linux-6.12.7-modules" 300 [ ])
    (make "openssl-1.1.1" 20 [ ])
    (make "openssl-3.0.14" 20 [ ])
    (make "openssl-3.0.14-bin" 9 [ ])
    (make "gone-1" 30 [ ])
    (make "etc" 1 [ ])
    (make "grows-2" 1 [ ])
    (make "rebuilt-3.1" 1 [ ])
    (make "unversioned" 1 [ ])
  ];
  after = make "nixos-system-w1-25.11" 1 [
    lib
    (make "linux-6.12.8" 101 [ lib ])
    (make "linux-6.12.8-modules" 310 [ ])
    (make "openssl-1.1.1" 20 [ ])
    (make "openssl-3.0.15" 20 [ ])
    (make "openssl-3.0.15-bin" 9 [ ])
    (make "etc" 2 [ ])
    (make "grows-2" 50 [ ])
    (make "rebuilt-3.1" 2 [ ])
    (make "unversioned-7" 1 [ ])
    (make "new-0.1" 30 [ ])
  ];
}
"""
"""Only names that Nix's rule and ours take apart in the same way; the one other is in ``test_plan_packages``."""


@dataclass(frozen=True, slots=True)
class Place:
    closures: NixClosures
    before: StorePath
    after: StorePath
    root: Path
    remote: Path
    shell: FakeShell


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("closures")
    folders = "".join(f" {each}" for each in ("/bin", "/lib", "/lib64", "/usr") if Path(each).exists())
    config = f"build-users-group =\nsubstituters =\nsandbox-paths ={folders}\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIX_REMOTE", str(folder / "root"))
        patch.setenv("NIX_CONFIG", config)
        patch.setenv("HOME", str(folder))
        (folder / "systems.nix").write_text(SYSTEMS)
        built = run("nix-build", "--no-out-link", str(folder / "systems.nix"), "-A", "before", "-A", "after")
        before, after = (StorePath(line) for line in built.split())
        remote = {**os.environ, "NIX_REMOTE": str(folder / "remote")}

        def answer(_host, command) -> CommandResult:
            done = subprocess.run(
                command.argv, env=remote, input=command.stdin, capture_output=True, text=True, check=False
            )
            return CommandResult(exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr)

        shell = FakeShell().answers(with_=answer)
        program = NixProgram(LocalProcesses(), "nix", os.environ)
        closures = NixClosures(program, StoreFiles(folder / "root"), shell)
        yield Place(closures, before, after, folder / "root", folder / "remote", shell)
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


async def closure(place: Place, system: StorePath) -> Sizes:
    found = closure_of(system, await place.closures.stored([place.before, place.after]))
    assert found is not None
    return found


async def test_one_query_tells_every_systems_closure_and_sizes(place):
    before, after = await closure(place, place.before), await closure(place, place.after)
    for system, sizes in ((place.before, before), (place.after, after)):
        paths = run("nix-store", "--query", "--requisites", system).split()
        assert set(sizes) == set(paths)
        told = run("nix-store", "--query", "--size", *paths).split()
        assert [sizes[StorePath(path)] for path in paths] == [int(size) for size in told]


async def test_a_system_that_is_not_here_is_not_in_the_answer(place):
    missing = store_path("nixos-system-w9-25.11")
    known = await place.closures.stored([missing, place.before])
    assert closure_of(missing, known) is None
    assert closure_of(place.before, known) is not None
    assert await place.closures.stored([missing]) == {}


async def test_the_difference_is_what_nix_says_it_is(place):
    made = package_changes(await closure(place, place.before), await closure(place, place.after))
    said = run(
        "nix", "--extra-experimental-features", "nix-command", "store", "diff-closures", place.before, place.after
    )
    assert as_nix_says(made) == [line for line in without_colour(said) if not line.startswith("nixos-system-")]
    assert {row.name for row in made.packages if row.fate is PackageFate.REBUILT} == {"grows"}
    assert made.rebuilt == ("etc", "rebuilt")


def as_nix_says(made: PackageChanges) -> list[str]:
    lines = []
    for row in made.packages:
        parts = []
        if row.old or row.new:
            parts.append(f"{versions(row.old)} → {versions(row.new)}")
        if abs(row.delta) >= NOTICEABLE:
            parts.append(f"{row.delta / 1024:.1f} KiB")  # Nix up to 2.26 writes a plus before it.
        lines.append(f"{row.name}: {', '.join(parts)}")
    return sorted(lines)


def versions(given: tuple[str, ...]) -> str:
    return ", ".join(version or "ε" for version in given) or "∅"


def without_colour(text: str) -> list[str]:
    return sorted(re.sub(r"\x1b\[[0-9;]*m|[+](?=[0-9.]+ [KMG]iB)", "", text).splitlines())


async def test_a_host_says_what_it_lacks_in_one_round_trip(place):
    run("nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", "--to", str(place.remote),
        place.before)  # fmt: skip
    before, after = await closure(place, place.before), await closure(place, place.after)
    place.shell.ran.clear()
    store = await place.closures.on_host(a_host("w1"), list(after))
    assert store.missing == after.keys() - before.keys()
    assert store.running is None
    store = await place.closures.on_host(a_host("w1"), list(after), place.before)
    assert (store.missing, store.running) == (after.keys() - before.keys(), before)
    assert len(place.shell.ran) == 2


async def test_two_thousand_paths_are_one_question(place):
    many = [store_path(f"package-{number}") for number in range(2000)]
    place.shell.ran.clear()
    store = await place.closures.on_host(a_host("w1"), [*many, place.before])
    assert len(place.shell.ran) == 1
    assert store.missing - {place.before} == set(many)


async def test_a_host_whose_running_system_is_unknown_to_its_store_still_says_what_it_lacks(place):
    nowhere = store_path("nixos-system-w9-25.11")
    store = await place.closures.on_host(a_host("w1"), [nowhere], nowhere)
    assert (store.missing, store.running) == ({nowhere}, None)


async def test_a_host_without_nix_is_a_failure_that_says_what_to_type(place):
    closures = NixClosures(NixProgram(LocalProcesses(), "nix", os.environ), StoreFiles(place.root), FakeShell())
    with pytest.raises(TaskError) as caught:
        await closures.on_host(a_host("w1"), [place.before])
    assert caught.value.failure.next == "ssh w1.lan nix-store --verify"
