"""Evaluates what ``deploy init`` writes: against nixpkgs, or against a table of its options with nixpkgs' library.

Run as a program (``nox -s flakes``) it checks every kind of fleet and says which of the two it did. It builds nothing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nixkube_deploy.app.scaffold import scaffold
from nixkube_deploy.app.scaffoldtext import EXAMPLES, HARDWARE, Machine, Wanted

HERE = Path(__file__).parent
SAMPLE = HERE.parents[1] / "flakes" / "cluster"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB5Yg1e6L1c0b1dpcnRoZW9yeW9mZXZlcnl0aGlu me@laptop"
NOT_RUN = "not run: no nixpkgs. Give one: nox -s flakes -- --nixpkgs=PATH, or NIXKUBE_NIXPKGS=PATH; a checkout of\n"
NOT_RUN += "nix-community/nixpkgs.lib is enough for the table (git clone https://github.com/nix-community/nixpkgs.lib)"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Third-party sources by path; nothing is downloaded."""

    nixpkgs: Path
    disko: Path | None = None
    hardware: Path | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it has NixOS, not just the library."""
        return (self.nixpkgs / "nixos/lib/eval-config.nix").is_file()

    @property
    def told(self) -> str:
        """Which of the two it is."""
        devices = "devices by disko's own types" if self.disko else "disko's devices taken as data"
        if self.is_whole:
            return f"evaluated with the NixOS modules of {self.nixpkgs}; {devices}"
        table = "against the table of options in tests/flakes/declared.nix, with the library of"
        return f"evaluated {table} {self.nixpkgs}; {devices}"


def find_sources(arguments: list[str]) -> Sources | None:
    """From ``--nixpkgs=PATH`` and the like, from the environment, or where this machine's Nix looks for nixpkgs."""
    given = dict(each.removeprefix("--").split("=", 1) for each in arguments if each.startswith("--") and "=" in each)

    def path(option: str) -> Path | None:
        text = given.get(option) or os.environ.get(f"NIXKUBE_{option.upper().replace('-', '_')}")
        return Path(text).resolve() if text else None

    nixpkgs = path("nixpkgs") or _installed()
    if nixpkgs is None or not (nixpkgs / "lib/default.nix").is_file():
        return None
    return Sources(nixpkgs=nixpkgs, disko=path("disko"), hardware=path("nixos-hardware"))


def _installed() -> Path | None:
    if shutil.which("nix-instantiate") is None:
        return None
    done = subprocess.run(["nix-instantiate", "--find-file", "nixpkgs"], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def parse(file: Path) -> str:
    """What is wrong with a file's syntax; empty when nothing is."""
    done = _nix("--parse", str(file))
    return "" if done.returncode == 0 else done.stderr


def evaluate(folder: Path, sources: Sources) -> dict[str, Any]:
    """Every host of the flake in ``folder``.

    Raises:
        AssertionError: with what Nix says.
    """
    words = ["--eval", "--strict", "--json", "--read-write-mode" if sources.is_whole else "--readonly-mode"]
    words += [str(HERE / "evaluate.nix"), "--arg", "folder", str(folder.resolve())]
    words += ["--arg", "lib", f'import "{sources.nixpkgs}/lib"']
    for name, path in (
        ("nixpkgs", sources.nixpkgs if sources.is_whole else None),
        ("disko", sources.disko),
        ("hardware", sources.hardware),
    ):
        words += ["--arg", name, str(path)] if path else []
    done = _nix(*words)
    if done.returncode != 0:
        raise AssertionError("\n".join(line for line in done.stderr.splitlines() if "nixbld" not in line))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _nix(*words: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as store:  # Nothing is written into this machine's own.
        environment = {**os.environ, "NIX_REMOTE": f"local?root={store}", "NIX_PATH": ""}
        return subprocess.run(["nix-instantiate", *words], env=environment, capture_output=True, text=True, check=False)


def fleets() -> dict[str, Wanted]:
    """Every distribution and every hardware."""
    kinds = [
        Machine(name=f"n{number}", address=f"10.0.0.{number}", is_control_plane=number == 1, hardware=hardware)
        for number, hardware in enumerate(HARDWARE, 1)
    ]
    both = {
        distribution: Wanted(name="lab", distribution=distribution, machines=tuple(kinds), keys=(KEY,))
        for distribution in ("k3s", "kubernetes")
    }
    return {"examples": Wanted(name="homelab", distribution="k3s", machines=EXAMPLES, keys=(KEY,)), **both}


def write(folder: Path, wanted: Wanted, *, everything: bool = False, mirror: bool = False) -> Path:
    """A fleet; with ``everything`` each switch of ``cluster.nix`` is on."""
    scaffold(folder, wanted)
    if everything:
        cluster = folder / "cluster.nix"
        cluster.write_text(re.sub(r"(cilium|rook|longhorn)\.enable = false", r"\1.enable = true", cluster.read_text()))
    if mirror:
        host = folder / "hosts" / f"{wanted.first.name}.nix"
        text = host.read_text().replace("../disks/single.nix", "../disks/mirror.nix\n    ../disks/storage.nix")
        disks = 'disks = [\n      "/dev/a"\n      "/dev/b"\n    ];\n    storage.disk = "/dev/c";'
        host.write_text(re.sub(r'disk = "[^"]*";', disks, text))
    return folder


def tell(*lines: str) -> None:
    """To whoever runs it."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def main(arguments: list[str]) -> int:
    """Parse, then evaluate every fleet; the first line says what was done."""
    sources = find_sources(arguments)
    wrong = {file: said for file in sorted(SAMPLE.rglob("*.nix")) if (said := parse(file))}
    tell(f"parsed {len(list(SAMPLE.rglob('*.nix')))} files, {len(wrong)} of them wrong", *wrong.values())
    if sources is None:
        tell(NOT_RUN)
        return 1
    tell(sources.told)
    with tempfile.TemporaryDirectory() as scratch:
        for name, wanted in fleets().items():
            for everything in (False, True):
                folder = write(Path(scratch) / f"{name}-{everything}", wanted, everything=everything, mirror=everything)
                try:
                    found = evaluate(folder, sources)["hosts"]
                except AssertionError as error:
                    wrong[folder] = str(error)
                    tell(f"{name}{', everything on' if everything else ''}: WRONG", str(error))
                    continue
                options = {option for host in found.values() for option in host["options"]}
                failed = [message for host in found.values() for message in host["assertions"]]
                wrong |= {folder: str(failed)} if failed else {}
                told = f"{len(found)} hosts, {len(options)} options set, {len(failed)} assertions failed"
                tell(f"{name}{', everything on' if everything else ''}: {told}", *failed)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
