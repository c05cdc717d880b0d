"""The twin: the inventory with addresses, keys and waits of the lab, and the other files that lead into it.

Everything a rollout decides by (hosts, groups, labels, strategy, gates on the cluster) stays as it was written.
"""

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nixkube_deploy.lab import yaml_text
from nixkube_deploy.lab.commands.table import PROGRAMS
from nixkube_deploy.lab.keyring import CLIENT
from nixkube_deploy.lab.population import jump_name
from nixkube_deploy.lab.world import World

LOOPBACK = "127.0.0.1"
SCALE = 30.0
_OURS = ("config", "host_key", "host_key_policy", "identity_file", "jump", "known_hosts", "port")
_UNITS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

Plain = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where the files lie that lead into a lab."""

    folder: Path

    @property
    def inventory(self) -> Path:
        """The twin."""
        return self.folder / "inventory.yaml"

    @property
    def kubeconfig(self) -> Path:
        """Admin access to the simulated API."""
        return self.folder / "kubeconfig"

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``."""
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        """Every host's key."""
        return self.folder / "known_hosts"

    @property
    def bin(self) -> Path:
        """The stand-ins."""
        return self.folder / "bin"

    @property
    def flake(self) -> Path:
        """What the hosts are built from."""
        return self.folder / "flake"

    @property
    def env(self) -> Path:
        """For ``. DIR/env``."""
        return self.folder / "env"

    def environment(self) -> dict[str, str]:
        """What a program needs to find the lab instead of the world."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "NIX_REMOTE": str(self.folder / "store"),
            "NIXKUBE_DEPLOY_RS": str(self.bin / "deploy-rs"),
            "NIXKUBE_NIX": str(self.bin / "nix"),
            "NIXKUBE_NIXOS_ANYWHERE": str(self.bin / "nixos-anywhere"),
            "NIXKUBE_NIXOS_REBUILD": str(self.bin / "nixos-rebuild"),
            "NIXKUBE_NIX_EVAL_JOBS": "",
            "NIXKUBE_LAB_DIR": str(self.folder),
        }


def write_twin(world: World, text: str, base: Path) -> Paths:
    """Write every file for people and programs outside; ``text`` is the inventory as it was written."""
    paths = Paths(folder=world.folder)
    original: Plain = yaml_text.read(text)
    changed: list[str] = []
    twin = _twin(original, world, paths, base, changed)
    header = "".join(f"# - {line}\n" for line in changed)
    _private(
        paths.inventory,
        f"# A twin of {world.fleet.source}, for the lab beside it. Changed:\n{header}\n{yaml_text.write(twin)}",
    )
    if world.kube is not None:
        _private(paths.kubeconfig, world.kubeconfig())
    _private(paths.known_hosts, _known_hosts(world))
    _private(paths.ssh_config, _ssh_config(world, paths))
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in paths.environment().items())
    _private(paths.env, exports + f"export PATH={shlex.quote(str(paths.bin))}:$PATH\n")
    return paths


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _twin(original: Plain, world: World, paths: Paths, base: Path, changed: list[str]) -> Plain:
    twin: Plain = json.loads(json.dumps(original))  # Aliases of one anchor become copies.
    twin["flake"] = str(paths.flake)
    cluster = twin["cluster"]
    if cluster.get("kubeconfig") not in (None, {"fetch": True}):
        cluster["kubeconfig"] = str(paths.kubeconfig)
    for layer in _layers(twin):
        _strip(layer, paths, base)
    defaults = twin.get("defaults") or {}
    twin["defaults"] = defaults
    defaults["ssh"] = {**(defaults.get("ssh") or {}), **_way_in(paths)}
    for name, host in (twin.get("hosts") or {}).items():
        twin["hosts"][name] = _place(host or {}, world, name)
    changed += ["every host is a simulated one on loopback: address, port, keys, jump hosts, ssh_config"]
    changed += ["flake, kubeconfig and passwords are the lab's"]
    if not world.wishes.real_time:
        _scale(twin)
        changed += [f"waits are {SCALE:.0f} times shorter (--real-time keeps them), but not below what the lab needs"]
    _drop_outside(twin, changed)
    return twin


def _layers(twin: Plain) -> list[Plain]:
    """Everything that may hold settings of hosts."""
    tables = [twin.get("groups") or {}, twin.get("hosts") or {}]
    layers = [twin.get("defaults"), *(layer for table in tables for layer in table.values())]
    return [layer for layer in layers if isinstance(layer, dict)]


def _strip(layer: Plain, paths: Paths, base: Path) -> None:
    if isinstance(layer.get("ssh"), dict):
        layer["ssh"] = {key: value for key, value in layer["ssh"].items() if key not in _OURS}
    if layer.get("privilege_password") is not None:
        layer["privilege_password"] = {"file": str(paths.folder / "keys" / "sudo-password")}
    bootstrap = layer.get("bootstrap")
    if isinstance(bootstrap, dict) and bootstrap.get("extra_files"):
        bootstrap["extra_files"] = str(base / Path(bootstrap["extra_files"]).expanduser())


def _way_in(paths: Paths) -> Plain:
    return {
        "identity_file": str(paths.folder / "keys" / CLIENT),
        "known_hosts": str(paths.known_hosts),
        "host_key_policy": "verify",
    }


def _place(host: Plain, world: World, name: str) -> Plain:
    machine = world.hosts[name].machine
    ssh: Plain = {"port": machine.port, "host_key": world.keyring.public(machine.host_key)}
    jump = _jump(world, name)
    if jump:
        ssh["jump"] = jump
    if name in world.wishes.bare:
        host = {**host, "bootstrap": _bootstrap(host, world, name)}
    else:
        ssh["config"] = "none"  # nixos-anywhere cannot be told to read none, so a bare machine goes without this.
    return {**host, "address": LOOPBACK, "ssh": {**(host.get("ssh") or {}), **ssh}}


def _bootstrap(host: Plain, world: World, name: str) -> Plain:
    """Send the host key along with the installation, as one does who wants to know the machine afterwards."""
    bootstrap = dict(host.get("bootstrap") or {})
    extra = world.folder / "extra-files" / name
    given = Path(str(bootstrap.get("extra_files", "")))
    if bootstrap.get("extra_files") and given.is_dir():
        shutil.copytree(given, extra, dirs_exist_ok=True)
    key = extra / "etc/ssh/ssh_host_ed25519_key"
    key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not key.exists():
        _private(key, world.keyring.private(world.hosts[name].machine.host_key))
    return {**bootstrap, "extra_files": str(extra)}


def _jump(world: World, name: str) -> str:
    """Hops that are hosts of the inventory keep their names; the others are machines of the lab."""
    original = next(host.ssh.jump for host in world.fleet.hosts.values() if host.name == name)
    hops = []
    for hop in (original or "").split(","):
        known = jump_name(hop)
        if known in world.fleet.hosts:
            hops.append(known)
        elif known in world.hosts:
            hops.append(f"root@{LOOPBACK}:{world.hosts[known].machine.port}")
    return ",".join(hops)


# --- waits -----------------------------------------------------------------------------------------------------------


def _scale(twin: Plain) -> None:
    """The floors keep what is simulated possible: a reboot takes a second here, not nothing."""
    layers = [twin, *_layers(twin)]
    strategies = [layer["strategy"] for layer in layers if isinstance(layer.get("strategy"), dict)]
    if not isinstance(twin.get("strategy"), dict):
        twin["strategy"] = {}
        strategies.append(twin["strategy"])
    for key, usual in (("soak", "60s"), ("reboot_timeout", "10m"), ("activation_timeout", "15m")):
        twin["strategy"].setdefault(key, usual)
    twin["strategy"].setdefault("drain", {})
    if isinstance(twin["strategy"]["drain"], dict):
        twin["strategy"]["drain"].setdefault("timeout", "10m")
    for strategy in strategies:
        _shorten(strategy, "soak", 0.3)
        _shorten(strategy, "reboot_timeout", 15.0)
        _shorten(strategy, "activation_timeout", 15.0)
        if isinstance(strategy.get("drain"), dict):
            _shorten(strategy["drain"], "timeout", 20.0)
    gates = twin.setdefault("gates", {}) or {}
    twin["gates"] = gates
    gates["kubelet"] = {"ready_for": "30s", "timeout": "10m", **(gates.get("kubelet") or {})}
    _shorten(gates["kubelet"], "ready_for", 0.3)
    _shorten(gates["kubelet"], "timeout", 20.0)


def _shorten(table: Plain, key: str, floor: float) -> None:
    if isinstance(table.get(key), str):
        seconds = seconds_in(table[key])
        table[key] = f"{round(max(seconds / SCALE, min(seconds, floor)), 3):.12g}s"


def seconds_in(text: str) -> float:
    """``1h30m`` as seconds."""
    return sum(float(number) * _SECONDS[unit] for number, unit in _UNITS.findall(text))


def _drop_outside(twin: Plain, changed: list[str]) -> None:
    """A rehearsal touches nothing real and can wait for no weekend."""
    strategy, gates = twin.get("strategy") or {}, twin.get("gates") or {}
    if [layer.pop("specialisation") for layer in _layers(twin) if layer.get("specialisation")]:
        changed.append("specialisations are left out: each host runs its system itself")
    if strategy.pop("windows", None):
        changed.append("maintenance windows are left out")
    for kind in ("http", "prometheus"):
        kept = [
            gate for gate in gates.get(kind) or [] if LOOPBACK in str(gate.get("url", "")) or "localhost" in str(gate)
        ]
        if len(kept) < len(gates.get(kind) or []):
            changed.append(f"{kind} gates on things outside the lab are left out")
            gates[kind] = kept
    if (gates.get("pods") or {}).pop("selected", None):
        changed.append("gates on selected pods are left out: the lab runs pods of its own")
    for gate in [each for each in gates.get("command") or [] if not _is_known(each)]:
        gates["command"].remove(gate)
        changed.append(f"the command gate {gate['run']!r} is left out: no lab host has that program")


def _is_known(gate: Mapping[str, Any]) -> bool:
    words = shlex.split(str(gate.get("run", "")))
    return bool(words) and words[0] in PROGRAMS


# --- ssh -------------------------------------------------------------------------------------------------------------


def _known_hosts(world: World) -> str:
    machines = [host.machine for host in world.hosts.values()]
    return "".join(f"[{LOOPBACK}]:{each.port} {world.keyring.public(each.host_key)}\n" for each in machines)


def _ssh_config(world: World, paths: Paths) -> str:
    blocks = []
    for name, host in world.hosts.items():
        lines = [f"Host {name}", f"  HostName {LOOPBACK}", f"  Port {host.machine.port}", f"  User {host.user}"]
        jump = _jump(world, name) if name in world.fleet.hosts else ""
        blocks.append("\n".join([*lines, *([f"  ProxyJump {jump}"] if jump else []), ""]))
    way_in = [
        "Host *",
        f'  IdentityFile "{paths.folder / "keys" / CLIENT}"',
        "  IdentitiesOnly yes",
        f'  UserKnownHostsFile "{paths.known_hosts}"',
        "  GlobalKnownHostsFile /dev/null",
        "  StrictHostKeyChecking yes",
        "",
    ]
    return "\n".join([*blocks, *way_in])
