"""The lab's flake, read as its ``flake.nix`` reads it: ``common.json``, then the role's, then the host's, merged.

It evaluates nothing else: an expression that real Nix would understand is matched by its outline, not interpreted.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nixkube_deploy.lab.recipe import Configuration


class EvaluationError(Exception):
    """What the evaluator would print after ``error:``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flake:
    """One flake as it was when it was read."""

    path: Path
    nar_hash: str
    hosts: Mapping[str, dict[str, Any]]
    """Host name to the content of ``hosts/<host>.json``."""
    common: Mapping[str, Any]
    roles: Mapping[str, Mapping[str, Any]]

    def configuration(self, host: str) -> Configuration:
        """One host's merged configuration; raises EvaluationError."""
        if host not in self.hosts:
            raise EvaluationError(f"attribute '{host}' missing")
        own = self.hosts[host]
        role = own.get("role", "worker")
        if role not in self.roles:
            raise EvaluationError(f"getting status of '{self.path}/roles/{role}.json': No such file or directory")
        return Configuration.parse(host, merge(merge(self.common, self.roles[role]), own))

    def host_of_attribute(self, attribute: str) -> str | None:
        """The host behind an attribute path other than ``nixosConfigurations``."""
        return next((host for host, own in self.hosts.items() if own.get("attr") == attribute), None)


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """As nixpkgs' ``recursiveUpdate``: objects merge, everything else is replaced."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def locate(reference: str, cwd: Path) -> Path:
    """The directory a flake reference names; raises EvaluationError for anything but a local one."""
    plain = reference.removeprefix("path:").removeprefix("git+file://").partition("?")[0]
    if "://" in plain or (":" in plain and not plain.startswith(("/", "."))):
        raise EvaluationError(f"unable to download '{reference}': Could not resolve hostname")
    path = (cwd / plain).resolve()
    if not path.is_dir():
        raise EvaluationError(f"getting status of '{path}': No such file or directory")
    if not (path / "flake.nix").is_file():
        raise EvaluationError(f"path '{path}' does not contain a 'flake.nix'")
    return path


def read_flake(path: Path) -> Flake:
    """Read every JSON file; raises EvaluationError."""
    texts = {str(each.relative_to(path)): each.read_text() for each in sorted(path.rglob("*.json"))}
    texts["flake.nix"] = (path / "flake.nix").read_text()
    digest = hashlib.sha256("\0".join(f"{name}\0{text}" for name, text in sorted(texts.items())).encode()).digest()
    if "common.json" not in texts:
        raise EvaluationError(f"flake 'path:{path}' does not provide attribute 'nixosConfigurations'")
    return Flake(
        path=path,
        nar_hash="sha256-" + base64.b64encode(digest).decode(),
        common=_read("common.json", texts),
        roles=_folder("roles", texts),
        hosts=_folder("hosts", texts),
    )


def _folder(folder: str, texts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    names = [name for name in texts if Path(name).parent.as_posix() == folder]
    return {Path(name).stem: _read(name, texts) for name in names}


def _read(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    try:
        plain = json.loads(texts[name])
    except json.JSONDecodeError as error:
        raise EvaluationError(f"[json.exception.parse_error.101] parse error in {name} at line {error.lineno}, "
                              f"column {error.colno}: {error.msg}") from None  # fmt: skip
    if not isinstance(plain, dict):
        raise EvaluationError(f"expected a set but found {type(plain).__name__} in {name}")
    return plain
