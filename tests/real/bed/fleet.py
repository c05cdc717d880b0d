"""A bed of real hosts, and the product as their controller: real OpenSSH, real nix, real stores, profiles and reboots.

Nothing of it can be reached from outside, and nothing outlives the process that made it. ``README.md`` beside this says
how tests use it; ``build`` beside this makes it.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.real.bed.host import RealHost

Table = dict[str, Any]


@dataclass
class RealFleet:
    """Hosts ``n1`` to ``nN``, a flake that describes them, and a controller."""

    directory: Path
    tier: int
    base: Path = Path("/")
    """Whose programs the hosts run: the machine's, or those of a tree of another Debian."""
    hosts: dict[str, RealHost] = field(default_factory=dict)
    keeper: "subprocess.Popen[bytes] | None" = None
    groups: str = ""
    """The control group of its hosts, on tier 2."""
    environment: dict[str, str] = field(default_factory=dict)
    """Of the controller's programs; a test may add to it."""

    # --- the controller ----------------------------------------------------------------------------------------------

    @property
    def flake(self) -> Path:
        """Edit it: ``common.json``, ``roles/worker.json``, ``hosts/n1.json``; or use ``configure``."""
        return self.directory / "flake"

    @property
    def key(self) -> Path:
        return self.directory / "controller" / "id"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "controller" / "known_hosts"

    @property
    def password_file(self) -> Path:
        """Holds the password of the user ``deploy``: for ``privilege_password: {file: ...}``."""
        return self.directory / "controller" / "password"

    @property
    def ssh_options(self) -> tuple[str, ...]:
        """For the real ssh, as a careful person would call it."""
        pairs = {
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "5",
        }
        return ("-i", str(self.key), *(word for key, value in pairs.items() for word in ("-o", f"{key}={value}")))

    def configure(self, host: str | None = None, **settings: object) -> None:
        """Change the flake: of one host, or of all (``common.json``). Objects merge; None takes a key away."""
        path = self.flake / ("common.json" if host is None else f"hosts/{host}.json")
        path.write_text(json.dumps(merged(json.loads(path.read_text()), settings), indent=2))

    @property
    def spaces(self) -> tuple[str, str]:
        """For ``nsenter``: the controller's network and mounts."""
        assert self.keeper is not None
        return f"--net=/proc/{self.keeper.pid}/ns/net", f"--mount=/proc/{self.keeper.pid}/ns/mnt"

    def argv(self, *argv: str | Path) -> list[str]:
        """What starts a program in the controller's namespaces; its process id is the program's own.

        It is killed when the thread that started it ends, and so when pytest is killed.
        """
        inside = ("nsenter", *self.spaces, "--", "env", "-C", str(self.directory), *map(str, argv))
        return ["setpriv", "--pdeathsig", "KILL", *inside]

    def controller(
        self,
        *argv: str | Path,
        check: bool = True,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> "subprocess.CompletedProcess[str]":
        """Run any program where the controller is: nix, ssh, git. It starts in the bed's folder."""
        done = subprocess.run(
            self.argv(*argv),
            env={**self.environment, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0 or not check, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def deploy(
        self, *arguments: str | Path, timeout: float = 170, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run the product; whatever its exit code."""
        return self.controller(*self._deploy, *arguments, check=False, timeout=timeout, env=env)

    def spawn(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start the product: to be signalled, killed (its pid is the program's), or waited for."""
        return subprocess.Popen(
            self.argv(*self._deploy, *arguments),
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def _deploy(self) -> tuple[str, ...]:
        return sys.executable, "-m", "nixkube_deploy"

    @property
    def journals(self) -> list[Path]:
        """The journals of every run so far, oldest first."""
        return sorted((self.directory / "controller" / "state").glob("runs/*.jsonl"))

    def inventory(
        self,
        name: str = "inventory",
        *,
        hosts: Sequence[str] | None = None,
        user: str = "root",
        per_host: Mapping[str, Table] | None = None,
        **overrides: Any,
    ) -> Path:
        """Write an inventory for (some of) the hosts, and say where.

        ``overrides`` are merged into its top level: ``defaults={"copy": {"via": "cache"}}``,
        ``strategy={"canary": 1}``, ``gates={...}``; None takes a key away. ``user="deploy"`` becomes root by sudo with
        the password in ``password_file``.
        """
        defaults: Table = {
            "ssh": {
                "user": user,
                "identity_file": str(self.key),
                "known_hosts": str(self.known_hosts),
                "config": "none",
                "connect_timeout": "5s",
            },
            "privilege": "none",
        }
        if user != "root":
            defaults |= {"privilege": "sudo", "privilege_password": {"file": str(self.password_file)}}
        chosen = [self.hosts[each] for each in (hosts or self.hosts)]
        plain: Table = {
            "cluster": {"name": "bed", "distribution": "none"},
            "flake": str(self.flake),
            "defaults": defaults,
            "strategy": {"canary": 0, "max_unavailable": "100%", "soak": "0s"},
            "gates": {"kubelet": {"ready_for": "0s", "timeout": "30s"}},
            "groups": {"all": {"role": "worker"}},
            "hosts": {host.name: {"address": host.address, "groups": ["all"]} for host in chosen},
        }
        for host, own in (per_host or {}).items():
            plain["hosts"][host] = merged(plain["hosts"][host], own)
        path = self.directory / f"{name}.yaml"
        path.write_text(json.dumps(merged(plain, overrides), indent=2))
        return path

    # --- the hosts ---------------------------------------------------------------------------------------------------

    def on(self, host: str, command: str, *, check: bool = True, timeout: float = 60) -> str:
        """What a shell command prints on a host; entered by its namespaces, so no sshd and no network is needed."""
        return self.hosts[host].run(command, check=check, timeout=timeout)

    def everywhere(self, command: str) -> dict[str, str]:
        """``on`` every host."""
        return {name: self.on(name, command) for name in self.hosts}

    def toplevel(self, host: str) -> str:
        """The store path of what the flake says the host is to run now; not built by this."""
        return self.toplevels()[host]

    def toplevels(self) -> dict[str, str]:
        """``toplevel`` of every host of the flake, by one evaluation."""
        paths = "builtins.mapAttrs (_: c: c.config.system.build.toplevel.outPath)"
        return json.loads(
            self.controller("nix", "eval", "--json", f"{self.flake}#nixosConfigurations", "--apply", paths).stdout
        )

    def inside(self, script: str) -> str:
        """A shell script in the bed's own namespaces, where the bridge and every host's disk are."""
        return self.controller("sh", "-euc", script).stdout

    def path(self, inside: str | Path) -> Path:
        """A path of the controller's mount namespace (its /nix, the hosts' disks), as seen from here."""
        assert self.keeper is not None
        return Path(f"/proc/{self.keeper.pid}/root") / str(inside).lstrip("/")


def merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Table:
    """Objects merge, None takes away, everything else is replaced."""
    out = dict(lower)
    for key, value in upper.items():
        below = out.get(key)
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return out


def __getattr__(name: str) -> Any:
    """``real_fleet`` lives with those who build; tests look for it here."""
    if name in {"real_fleet", "HostOptions", "PASSWORD"}:
        from tests.real.bed import build, prepare

        return getattr(build if name == "real_fleet" else prepare, name)
    raise AttributeError(name)
