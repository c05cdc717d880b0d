"""Three real hosts, a change for all of them, and hands to break things with: n1 is the canary, n2 suffers.

What became of each host is asked inside it, never over ssh. It judges nothing; ``fault_case`` does.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.real.bed.fleet import HostOptions, RealFleet, real_fleet
from tests.real.bed.host import RealHost

LOG = "/var/log/activations"
VICTIM = "n2"
PATIENCE = 90.0


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A bed and the policy of its inventory. Everything is short, so that a case is."""

    tier: int = 2
    hosts: int = 3
    victim: HostOptions = field(default_factory=HostOptions)
    deploys: bool = False
    """Whether one logs in to n2 as ``deploy``, who becomes root by sudo. Its Nix then needs a daemon."""
    on_failure: str = "rollback"
    activation_timeout: str = "20s"
    confirm_timeout: str = "60s"
    gate: str = "5s"
    limit: int = 1
    """``max_unavailable``: a host that does not answer counts."""
    victim_settings: Mapping[str, Any] = field(default_factory=dict)
    """Of n2 in the inventory."""

    def inventory(self, fleet: RealFleet) -> Path:
        login = {"user": "deploy"}
        other = {"ssh": login, "privilege": "sudo", "privilege_password": {"file": str(fleet.password_file)}}
        return fleet.inventory(
            per_host={VICTIM: {**(other if self.deploys else {}), **self.victim_settings}},
            defaults={"ssh": {"keepalive": "1s", "connect_timeout": "2s"}},
            strategy={
                "canary": 1,
                "max_unavailable": self.limit,
                "max_failures": 0,
                "on_failure": self.on_failure,
                "activation_timeout": self.activation_timeout,
                "confirm_timeout": self.confirm_timeout,
                "reboot_timeout": "30s",
            },
            gates={"kubelet": {"ready_for": "0s", "timeout": self.gate}},
        )


@dataclass(frozen=True, kw_only=True)
class HostState:
    """What a host says of itself, inside."""

    current: str
    booted: str
    profile: str
    generations: tuple[int, ...]
    generation: int
    activations: tuple[str, ...]
    """``old`` and ``new``, once for each time a system began to be activated."""
    units: tuple[str, ...]
    """Ours that systemd still knows."""
    locked: bool
    boot_id: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """One ``deploy apply``."""

    exit_code: int
    output: str
    seconds: float


@dataclass(kw_only=True)
class Scene:
    """One bed in the middle of a case."""

    fleet: RealFleet
    inventory: Path
    first: str
    """The system every host began with."""
    began: float = 0.0
    """When the product was started last."""

    @property
    def victim(self) -> RealHost:
        return self.fleet.hosts[VICTIM]

    # --- what the flake wants ----------------------------------------------------------------------------------------

    def breaks(self, *, host: str = VICTIM, before: str = "", **activation: object) -> None:
        """How the new system of a host fails; nothing: it does not fail any more."""
        well = {"exit": 0, "check": 0, "loader": 0, "run": ""}
        self.fleet.configure(host, activation={**well, "before": f"echo new >>{LOG}; {before}", **activation})

    def wants(self) -> dict[str, str]:
        """What every host is to run now."""
        attribute = f"path:{self.fleet.flake}#nixosConfigurations"
        paths = "c: builtins.mapAttrs (_: v: v.config.system.build.toplevel.outPath) c"
        wanted: dict[str, str] = json.loads(
            self.fleet.controller("nix", "eval", "--json", attribute, "--apply", paths).stdout
        )
        return wanted

    # --- the product -------------------------------------------------------------------------------------------------

    def apply(self, *arguments: str) -> Done:
        return self.finish(self.start(*arguments))

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        self.began = time.monotonic()
        return self.fleet.spawn("apply", self.inventory, "--yes", *arguments)

    def finish(self, process: "subprocess.Popen[str]") -> Done:
        out, err = process.communicate(timeout=170)
        return Done(exit_code=process.returncode, output=err + out, seconds=time.monotonic() - self.began)

    def kill(self, process: "subprocess.Popen[str]") -> None:
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def show(self) -> dict[str, Any] | None:
        """The last run as ``deploy show --json`` tells it; None when there was none."""
        if not self.fleet.journals:
            return None
        done = self.fleet.deploy("show", self.fleet.journals[-1].stem, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def problems(self) -> dict[str, dict[str, Any]]:
        """By host, what ``deploy plan`` finds wrong."""
        plan = json.loads(self.fleet.deploy("plan", self.inventory, "--json").stdout)
        return {host["host"]: host["problem"] for host in plan["hosts"] if host["problem"]}

    @property
    def journal(self) -> str:
        return self.fleet.journals[-1].read_text() if self.fleet.journals else ""

    def restart_nix_daemon(self) -> None:
        """So that who is not root may copy to n2 at all."""
        unit = "systemd-run --quiet --collect --unit=bed-nix-daemon nix-daemon"
        socket = "test -S /nix/var/nix/daemon-socket/socket"
        self.victim.run(f"systemctl stop bed-nix-daemon 2>/dev/null; rm -f /nix/var/nix/daemon-socket/socket; {unit}")
        self.until(lambda: self.victim.run(f"{socket} && echo yes", check=False) == "yes", "its nix-daemon")

    # --- the hosts ---------------------------------------------------------------------------------------------------

    def activations(self, host: str = VICTIM) -> tuple[str, ...]:
        return tuple(self.fleet.hosts[host].run(f"cat {LOG} 2>/dev/null", check=False).split())

    def until(self, true: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
            time.sleep(0.05)

    def until_new_activates(self, host: str = VICTIM) -> None:
        self.until(lambda: "new" in self.activations(host), "the switch to begin")

    def state(self, host: RealHost) -> HostState:
        links = "readlink -f /run/current-system /run/booted-system /nix/var/nix/profiles/system"
        listed = "nix-env -p /nix/var/nix/profiles/system --list-generations"
        units = "systemctl list-units --all --plain --no-legend 'nixkube-deploy-*'"
        free = "flock --nonblock /run/nixkube-deploy.lock true && echo free || echo held"
        said = host.run(f"{links}; echo @; {listed}; echo @; cat {LOG} 2>/dev/null; echo @; {units}; echo @; {free}")
        links, listed, log, units, free = (part.strip() for part in said.split("@\n"))
        current, booted, profile = links.splitlines()
        numbers = [line.split() for line in listed.splitlines()]
        return HostState(
            current=current,
            booted=booted,
            profile=profile,
            generations=tuple(int(words[0]) for words in numbers),
            generation=next(int(words[0]) for words in numbers if words[-1] == "(current)"),
            activations=tuple(log.split()),
            units=tuple(line.split()[0] for line in units.splitlines()),
            locked=free != "free",
            boot_id=host.boot_id,
        )

    def states(self) -> dict[str, HostState]:
        """Of every host that is on."""
        return {name: self.state(host) for name, host in self.fleet.hosts.items() if host.init}


@contextmanager
def a_scene(folder: Path, setup: Setup) -> Iterator[Scene]:
    """Hosts on their first system, and a flake that wants another one."""
    old = {"activation": {"before": f"echo old >>{LOG}"}}
    others = {VICTIM: setup.victim}
    with real_fleet(folder, tier=setup.tier, hosts=setup.hosts, per_host=others, initial=old) as fleet:
        scene = Scene(fleet=fleet, inventory=setup.inventory(fleet), first=fleet.hosts["n1"].current)
        for host in fleet.hosts:
            scene.breaks(host=host)
        if setup.deploys:
            scene.restart_nix_daemon()
        yield scene
