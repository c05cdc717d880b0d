"""Making a bed, and taking it away: namespaces, the controller's nix, the flake, the hosts' disks, cables and power.

All processes hang on PDEATHSIG, and the namespaces on a pipe that only this process holds (``keeper.sh``): a killed
pytest leaves nothing behind.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.real.bed.fleet import RealFleet, merged
from tests.real.bed.host import HERE, RealHost, wait_until
from tests.real.bed.prepare import PASSWORD, HostOptions, prepare_host
from tests.real.bed.tree import programs, tree

ROOT = Path(__file__).resolve().parents[3]
FLAKE = ROOT / "flakes" / "lab"
NETWORK = "10.77.0"
INOTIFY = 4096
NIX_CONF = """\
experimental-features = nix-command flakes
build-users-group =
substituters =
flake-registry =
sandbox = false
max-jobs = 4
warn-dirty = false
"""


@contextmanager
def real_fleet(
    directory: Path,
    *,
    tier: int = 1,
    hosts: int = 3,
    options: HostOptions | None = None,
    per_host: Mapping[str, HostOptions] | None = None,
    initial: Mapping[str, Any] | None = None,
    nix: str | None = None,
) -> Iterator[RealFleet]:
    """A bed in ``directory`` (which is new), for the length of the block.

    Every host runs and has booted a first system, generation 1: ``flakes/lab`` with no units and no packages, merged
    with ``initial``. Its store holds nothing else. ``nix``: the Debian whose Nix is used on both sides, and whose sshd
    and systemd on the hosts, ``trixie`` or ``forky``; else what NIXKUBE_REAL_NIX says, else the machine's own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    suite = nix or os.environ.get("NIXKUBE_REAL_NIX", "")
    fleet = RealFleet(directory, tier, base=tree(suite) if suite else Path("/"))
    fleet.environment = _environment(directory, programs(suite) if suite else None)
    try:
        _controller(fleet)
        _flake(fleet, [f"n{number}" for number in range(1, hosts + 1)])
        first = _first_system(fleet, initial or {})
        for number in range(1, hosts + 1):
            name = f"n{number}"
            chosen = (per_host or {}).get(name, options or HostOptions())
            host = RealHost(name=name, address=f"{NETWORK}.{number}", tier=tier, number=number, bed=directory)
            fleet.hosts[name] = host
            prepare_host(fleet, host, chosen, first)
        _power_on(fleet)
        yield fleet
    finally:
        _end(fleet)


def _controller(fleet: RealFleet) -> None:
    directory = fleet.directory
    for each in ("run", "controller/home", "controller/state", "controller/nix-conf", "logs"):
        (directory / each).mkdir(parents=True, exist_ok=True)
    Path("/nix").mkdir(exist_ok=True)  # A place to mount on, as on every machine with nix.
    groups = f"nixkube-bed-{os.getpid()}-{secrets.token_hex(3)}" if fleet.tier == 2 else "-"
    argv = ["unshare", "--mount", "--net", "--propagation", "private", "sh", str(HERE / "keeper.sh"), str(directory)]
    log = directory / "logs" / "keeper.log"
    with log.open("wb") as errors:
        fleet.keeper = subprocess.Popen(
            [*argv, groups],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=fleet.environment,
        )
    assert fleet.keeper.stdout is not None
    ready = fleet.keeper.stdout.readline()
    assert ready == b"ready\n", f"no namespaces for the bed: {log.read_text()}"
    fleet.groups = groups
    (directory / "controller" / "nix-conf" / "nix.conf").write_text(NIX_CONF)
    fleet.password_file.write_text(PASSWORD)
    fleet.password_file.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(fleet.key)], check=True)


def _environment(directory: Path, newer: Path | None) -> dict[str, str]:
    controller = directory / "controller"
    own = (str(newer),) if newer else ()
    paths = (
        str(Path(sys.executable).parent),
        *own,
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
    )
    return {
        "HOME": str(controller / "home"),
        "LANG": "C.UTF-8",
        "NIXKUBE_DEPLOY_STATE": str(controller / "state"),
        "NIX_CONF_DIR": str(controller / "nix-conf"),
        "NO_COLOR": "1",
        "PATH": ":".join((*paths, "/bin")),
        "PYTHONPATH": str(ROOT),
    }


def _flake(fleet: RealFleet, names: Sequence[str]) -> None:
    """The repository's, with the busybox it does not hold, and plain hosts that run two harmless services."""
    shutil.copytree(FLAKE, fleet.flake)
    (fleet.flake / "before.json").unlink()
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    assert busybox is not None
    (fleet.flake / "nixos" / "busybox").mkdir()
    shutil.copy(busybox, fleet.flake / "nixos" / "busybox" / "busybox")
    common = json.loads((FLAKE / "common.json").read_text())
    common["units"] = {"web.service": "1.0", "metrics.service": "1.9.1"}
    (fleet.flake / "common.json").write_text(json.dumps(common, indent=2))
    (fleet.flake / "hosts").mkdir(exist_ok=True)
    for name in names:
        (fleet.flake / "hosts" / f"{name}.json").write_text('{"role": "worker"}')


def _first_system(fleet: RealFleet, initial: Mapping[str, Any]) -> str:
    """Build the system every host starts on, and lay a store with nothing else in it aside."""
    first = fleet.directory / "first"
    shutil.copytree(fleet.flake, first)
    for path in (first / "hosts").iterdir():
        path.unlink()
    (first / "roles" / "worker.json").write_text("{}")
    plain = merged(json.loads((first / "common.json").read_text()), {"units": None, "packages": None})
    (first / "common.json").write_text(json.dumps(merged(plain, initial)))
    (first / "hosts" / "first.json").write_text("{}")
    attribute = f"path:{first}#nixosConfigurations.first.config.system.build.toplevel"
    built = fleet.controller("nix", "build", "--json", "--no-link", attribute).stdout
    system = str(json.loads(built)[0]["outputs"]["out"])
    shutil.rmtree(first)
    template = fleet.directory / "run" / "template"
    fleet.controller("nix", "copy", "--no-check-sigs", "--to", f"local?root={template}", system)
    fleet.inside(
        f"cd {template}/nix/var/nix; rm -rf gcroots profiles; mkdir profiles; "
        f"ln -s {system} profiles/system-1-link; ln -s system-1-link profiles/system"
    )
    return system


def _let_many_watch() -> None:
    """Each systemd takes a few of the machine's inotify instances, and 128 are too few for a dozen of hosts.

    Raised for good: whoever else runs a bed now needs it as well.
    """
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < INOTIFY:
        limit.write_text(f"{INOTIFY}\n")


def _power_on(fleet: RealFleet) -> None:
    if fleet.tier == 2:
        _let_many_watch()
    for host in fleet.hosts.values():
        if fleet.tier == 2:
            host.cgroup = f"{fleet.directory}/run/cgroup/{fleet.groups}/{host.name}"
        host.start(fleet)
    lines = []
    for host in fleet.hosts.values():
        wait_until(host.has_own_network, f"the network namespace of {host.name}")
        lines += [
            f"ip link add {host.link} type veth peer name eth0 netns {host.mains.pid}",
            f"ip link set {host.link} master br0 up",
            f"nsenter --net=/proc/{host.mains.pid}/ns/net ip addr add {host.address}/24 dev eth0",
            f"nsenter --net=/proc/{host.mains.pid}/ns/net ip link set eth0 up",
        ]
    fleet.inside("\n".join(lines))
    for host in fleet.hosts.values():
        host.wait_for_ssh()
    for host in fleet.hosts.values():
        assert host.settled() == "running", f"{host.name} boots badly: {host.failed_units}\n{host.journal('*')[-3000:]}"
    fleet.known_hosts.write_text("".join(host.known_hosts_line for host in fleet.hosts.values()))


def _end(fleet: RealFleet) -> None:
    """Everything is killed before anything is waited for, and before anything is complained about."""
    with ExitStack() as stack:
        stack.callback(_close, fleet)
        left = {
            host.name: stack.enter_context(host.pinned()) for host in fleet.hosts.values() if host.started is not None
        }
        for name in left:
            fleet.hosts[name].kill()
        for name, processes in left.items():
            wait_until(lambda processes=processes: not processes(), f"the end of every process of {name}", 30)


def _close(fleet: RealFleet) -> None:
    if fleet.keeper is None:
        return
    assert fleet.keeper.stdin is not None
    assert fleet.keeper.stdout is not None
    fleet.keeper.stdin.close()
    try:
        code = fleet.keeper.wait(timeout=60)
    except subprocess.TimeoutExpired:
        fleet.keeper.kill()
        code = fleet.keeper.wait()
    fleet.keeper.stdout.close()
    assert code == 0, f"the bed's keeper ended with {code}: {(fleet.directory / 'logs' / 'keeper.log').read_text()}"
