"""What evaluating 1, 10 and 50 hosts costs: our evaluator against one process a host and one process for all.

Run it with ``nox -s bench``. The flake is made up, and costs memory and time as a module system does: every host folds
a few thousand options over a base that all hosts share. It bounds itself to some 2 GiB and is no test: it asserts that
all ways find the same systems, and prints.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import anyio

from nixkube_deploy.backends.nix.evaluation.cache import EvaluationCache
from nixkube_deploy.backends.nix.evaluation.evaluator import NixEvaluator
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.backends.nix.store import StoreFiles, store_root
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.model.building import EvaluationSettings
from tests.builders import a_host

MIB = 1024**2
CAP = 1024 * MIB
NAMES = [f"w{i:02}" for i in range(1, 51)]
FLAKE = """
{
  outputs = { self }:
    let
      numbers = n: builtins.genList (i: i) n;
      key = i: "option-${toString i}";
      table = of: n: builtins.listToAttrs (map (i: { name = key i; value = of i; }) (numbers n));
      # The base: what every host reads.
      base = table (i: { default = "value ${toString i}"; inherit i; }) 12000;
      # A host: a fixpoint over its own options, and part of the base.
      options = name: builtins.mapAttrs
        (key: option: "${option.default} of ${name}, after ${toString (builtins.length option.defs)}")
        (table (i: base.${key i} // { defs = map toString (numbers 4); }) 12000);
      host = name: let own = options name; in {
        pkgs.system = "x86_64-linux";
        config.options = own;
        config.system.build.toplevel = derivation {
          name = "nixos-${name}"; system = "x86_64-linux"; builder = "/bin/sh";
          options = builtins.hashString "sha256" (builtins.concatStringsSep "," (builtins.attrValues own));
        };
      };
    in {
      nixosConfigurations = builtins.listToAttrs (map (name: { inherit name; value = host name; }) [ @names@ ]);
    };
}
"""
SELECT = (
    "cs: builtins.listToAttrs (map (n: { name = n; value = cs.${n}.config.system.build.toplevel.drvPath; })"
    " [ @names@ ])"
)


def tell(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


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


def measured(label: str, hosts: int, work: Callable[[], int]) -> None:
    """Run it, and print wall time, CPU time and the most memory that all its processes had at once."""
    peak, ended = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, resident(os.getpid()))

    sampler = threading.Thread(target=sample, daemon=True)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    sampler.start()
    found = work()
    wall = time.monotonic() - begun
    ended.set()
    sampler.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert found == hosts, f"{label}: {found} of {hosts}"
    tell(f"{hosts:3} hosts  {label:30} {wall:6.2f} s wall {cpu:6.2f} s CPU {peak // MIB:6} MiB at once")


def nix_eval(flake: str, names: list[str]) -> int:
    """One ``nix eval`` over these hosts; how many came back."""
    function = SELECT.replace("@names@", " ".join(f'"{name}"' for name in names))
    arguments = ["nix", "eval", "--json", f"{flake}#nixosConfigurations", "--apply", function]
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.count(".drv")


def ours(flake: str, names: list[str], cache: Path) -> int:
    """Our evaluator, under a cap."""
    files = StoreFiles(store_root(os.environ["NIX_REMOTE"]))
    evaluator = NixEvaluator(
        NixProgram(LocalProcesses(), "nix", os.environ),
        EvaluationSettings(max_memory=CAP),
        cache=EvaluationCache(cache, files),
        environ=os.environ,
    )

    async def run() -> int:
        return len((await evaluator.evaluate(flake, [a_host(name) for name in names])).hosts)

    return anyio.run(run, backend="asyncio")


def one_each(flake: str, names: list[str]) -> int:
    """A process for every host, as many side by side as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(lambda name: nix_eval(flake, [name]), names))


def main() -> int:
    """Measure everything in a store of its own."""
    if shutil.which("nix") is None:
        tell("nix is not installed: nothing is measured")
        return 0
    with tempfile.TemporaryDirectory(prefix="nixkube-bench-") as folder:
        place = Path(folder)
        (place / "flake").mkdir()
        names = " ".join(f'"{name}"' for name in NAMES)
        (place / "flake/flake.nix").write_text(FLAKE.replace("@names@", names))
        config = "experimental-features = nix-command flakes\nbuild-users-group =\nsubstituters =\n"
        os.environ |= {"NIX_REMOTE": str(place / "root"), "NIX_CONFIG": config, "HOME": str(place)}
        flake = f"path:{place}/flake"
        for count in (1, 10, 50):
            some, kept = NAMES[:count], place / f"kept{count}"
            measured(f"ours, in {CAP // MIB} MiB", count, partial(ours, flake, some, kept))
            measured("ours again, nothing changed", count, partial(ours, flake, some, kept))
            measured("one process a host", count, partial(one_each, flake, some))
            measured("one process for all", count, partial(nix_eval, flake, some))
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
