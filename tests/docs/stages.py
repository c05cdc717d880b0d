"""What stands in for a reader's machines when the commands of the documentation are run: everything replaced is here.

It runs nothing; ``transcripts.py`` does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HOME = "/home/you/fleet"
"""The folder in which the reader sits, as pages show it."""

FLEET = """\
cluster: {name: homelab, distribution: k3s}
flake: ./flake
defaults:
  ssh: {user: root}
strategy: {canary: 1, soak: 1s, drain: {timeout: 30s}}
gates:
  kubelet: {ready_for: 1s, timeout: 5m}
groups:
  control-plane: {role: control-plane}
  workers: {role: worker}
hosts:
  cp1: {address: 10.0.0.11, groups: [control-plane], labels: {zone: a}}
  w1: {address: 10.0.0.21, groups: [workers], labels: {zone: a}}
  w2: {address: 10.0.0.22, groups: [workers], labels: {zone: b}}
"""
"""``inventory.yaml``, unless a page's stage has another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a page finds before its first command."""

    up: bool = True
    """The lab is up; ``inventory.yaml``, ``flake`` and the terminal lead into it. Else the page does this itself."""
    up_options: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    """Commands that the page takes as done."""
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    long: bool = False
    """Run by ``nox -s docs`` alone."""
    patience: float = 150


WITH_DISK = FLEET.replace("labels: {zone: b}}", "labels: {zone: b}, bootstrap: {disks: [/dev/disk/by-id/lab-w2]}}")
"""The same, and w2 may be installed."""

BROUGHT_UP = "deploy apply inventory.yaml --yes"
"""Hosts run what the flake says, when a page begins with a change."""

STAGES: dict[str, Stage] = {
    "docs/explanation/gates.md": Stage(long=True),
    "docs/how-to/bare-machine.md": Stage(up_options=("--bare", "w2"), files={"inventory.yaml": WITH_DISK}),
    "docs/how-to/caches.md": Stage(long=True),
    "docs/how-to/from-colmena.md": Stage(long=True),
    "docs/how-to/multi-arch.md": Stage(long=True),
    "README.md": Stage(up=False, environment={"EDITOR": "true"}, long=True, patience=500),
    "docs/how-to/reboot-night.md": Stage(before=(BROUGHT_UP,)),
    "docs/how-to/when-something-failed.md": Stage(before=(BROUGHT_UP,)),
    "docs/how-to/new-cluster.md": Stage(up=False),
    "docs/lab.md": Stage(up=False),
    "docs/tutorial/first-cluster.md": Stage(up=False),
}
"""Pages that need something else than a lab that is up."""

ENDS_OTHERWISE: dict[str, int] = {
    ".venv/bin/deploy rehearse inventories/lab.yaml --fault w2:reboot-old-kernel": 5,
    ".venv/bin/deploy rehearse inventories/lab.yaml --fault cp2:switch=2": 5,
}
"""Exit codes of commands that fail on purpose where the page does not show ``echo $?``."""

README = Path(__file__).resolve().parents[2] / "README.md"
ELSEWHERE = (
    "the README's two lines to paste, or a part of them: run from a clean copy by tests/architecture/test_readme.py"
)
NO_CACHE = "there is no binary cache to send to, and a stand-in for one would prove nothing about yours"
NO_NIX = "the lab's nix builds what deploy asks it for, and no attribute that a person names"

NOT_RUN: dict[str, str] = {
    "python3 -m venv .venv && .venv/bin/pip install -q -c .ci/constraints.txt -e .": ELSEWHERE,
    "export PATH=$PWD/.venv/bin:$PATH": ELSEWHERE,
    "nix build .#nixosConfigurations.w1.config.system.build.toplevel": NO_NIX,
    "nix copy --to 'https://cache.example' ./result": NO_CACHE,
    "nix copy --to 'https://cache.example' /nix/store/...-nixos-system-w1-25.11": NO_CACHE,
    **dict.fromkeys(re.findall(r"^```sh\n(.*?)\n```", README.read_text(), re.DOTALL | re.MULTILINE), ELSEWHERE),
}
"""Commands that cannot run in a lab, each with its reason."""

VOLATILE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"\d{8}T\d{6}Z-[0-9a-f]{4}", "RUN"),
        (r"\[\d\d:\d\d\]", "[TIME]"),
        (r"\b\d+(\.\d+)?m?s\b", "TIME"),
        (r"\bsha256-[\w+/=]+", "HASH"),
        (r"/nix/store/[a-z0-9]{32}", "/nix/store/HASH"),
        (r"\b\d+ (MiB|GiB)\b", "SIZE"),
        (r"\b\d+ pods? evicted", "PODS evicted"),
    )
)
"""What is never the same twice, on both sides of a comparison."""
