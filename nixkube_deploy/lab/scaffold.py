"""Writes the flake a lab's hosts are built from, and says what they ran before it.

A flake of the lab's own shape (``common.json`` beside ``flake.nix``) is copied; for any other inventory one is made up.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nixkube_deploy.lab.flake import Flake, merge, read_flake
from nixkube_deploy.lab.recipe import Configuration
from nixkube_deploy.model.fleet import Distribution, Fleet, Host, Role

TEMPLATE = Path(__file__).parent / "template"
SYSTEMS = "nixos"
"""The folder of the template that only real Nix reads."""
BEFORE = "before.json"
_MIN_WORKERS_FOR_A_LIVE_ONE = 3

Plain = dict[str, Any]


def write_flake(fleet: Fleet, target: Path) -> None:
    """Create the flake and ``before.json`` unless they are there; hosts that are new get their file."""
    source = Path(fleet.flake.removeprefix("path:"))
    is_template = (source / "common.json").is_file() and (source / "flake.nix").is_file()
    if not (target / "flake.nix").exists():
        if is_template:
            _copy(source, target)
        else:
            _invent(fleet.cluster.distribution, target)
    before = target.parent / BEFORE
    if not before.exists():
        told = source / BEFORE
        before.write_text(told.read_text() if is_template and told.exists() else _pretty(_invented_before(fleet)))
    for host in fleet.hosts.values():
        file = target / "hosts" / f"{host.name}.json"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            file.write_text(_pretty(_own(host)))


def configurations_before(fleet: Fleet, folder: Path) -> dict[str, Configuration]:
    """What each host ran before the flake said what it says now."""
    flake = read_flake(folder / "flake")
    rules = json.loads((folder / BEFORE).read_text())["rules"]
    return {name: _before(flake, rules, host) for name, host in fleet.hosts.items()}


def _before(flake: Flake, rules: Sequence[Mapping[str, Any]], host: Host) -> Configuration:
    plain: Plain = {**flake.configuration(host.name).to_plain()}
    for rule in rules:
        if _matches(str(rule["hosts"]), host):
            plain = merge(plain, rule["with"])
    return Configuration.parse(host.name, plain)


def _matches(pattern: str, host: Host) -> bool:
    if pattern.startswith("@"):
        return pattern[1:] == host.role or pattern[1:] in host.groups
    return fnmatchcase(host.name, pattern)


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in ("flake.nix", "common.json"):
        shutil.copyfile(source / name, target / name)
    for folder in ("roles", "hosts", SYSTEMS):
        if (source / folder).is_dir():
            shutil.copytree(source / folder, target / folder)


def _invent(distribution: Distribution, target: Path) -> None:
    (target / "roles").mkdir(parents=True)
    shutil.copyfile(TEMPLATE / "flake.nix", target / "flake.nix")
    shutil.copytree(TEMPLATE / SYSTEMS, target / SYSTEMS)
    (target / "common.json").write_text(_pretty(_common()))
    for role in Role:
        (target / "roles" / f"{role}.json").write_text(_pretty({"units": _units(distribution, role)}))


def _common() -> Plain:
    return {
        "kernel": "6.12.8",
        "kernelParams": ["loglevel=4", "net.ifnames=0"],
        "systemd": "257.9",
        "packages": {"curl": "8.16.0", "htop": "3.4.1"},
        "units": {"prometheus-node-exporter.service": "1.9.1"},
    }


def _units(distribution: Distribution, role: Role) -> dict[str, str]:
    match distribution:
        case Distribution.K3S:
            return {"k3s.service": "1.31.4"}
        case Distribution.RKE2:
            return {"rke2-server.service" if role.is_control_plane else "rke2-agent.service": "1.31.4"}
        case Distribution.KUBERNETES:
            units = {"kubelet.service": "1.31.4", "containerd.service": "2.0.1", "kube-proxy.service": "1.31.4"}
            plane = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
            extra = {f"{name}.service": "1.31.4" for name in plane} | {"etcd.service": "3.5.16"}
            return units | extra if role.is_control_plane else units
        case Distribution.NONE:
            return {"nginx.service": "1.28.0"}


def _own(host: Host) -> Plain:
    own: Plain = {"role": str(host.role), "system": host.system}
    return own | ({"attr": host.attr} if host.attr else {})


def _invented_before(fleet: Fleet) -> Plain:
    """Control plane: Kubernetes a patch behind. Workers: an older kernel too. One worker: only a package."""
    workers = [host for host in fleet.hosts.values() if not host.role.is_control_plane]
    units = _units(fleet.cluster.distribution, Role.CONTROL_PLANE) | _units(fleet.cluster.distribution, Role.WORKER)
    older = {name: "1.31.3" for name, version in units.items() if version == "1.31.4"} or {"nginx.service": "1.27.5"}
    behind = {
        role: {name: v for name, v in older.items() if name in _units(fleet.cluster.distribution, role)}
        for role in Role
    }
    rules: list[Plain] = [
        {"hosts": "@control-plane", "with": {"units": behind[Role.CONTROL_PLANE]}},
        {"hosts": "@worker", "with": {"kernel": "6.12.7", "units": behind[Role.WORKER]}},
    ]
    if len(workers) >= _MIN_WORKERS_FOR_A_LIVE_ONE:
        now = {"kernel": "6.12.8", "units": _units(fleet.cluster.distribution, Role.WORKER)}
        rules.append({"hosts": workers[-1].name, "with": {**now, "packages": {"curl": "8.15.0"}}})
    return {"rules": rules}


def _pretty(plain: object) -> str:
    return json.dumps(plain, indent=2) + "\n"
