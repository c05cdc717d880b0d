"""The twin of an inventory, and a lab as a person runs it."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import asyncssh
import pytest
import yaml

from nixkube_deploy.inventory.load import load_fleet
from nixkube_deploy.lab.lifecycle import is_alive
from nixkube_deploy.lab.twin import seconds_in, write_twin
from nixkube_deploy.lab.world import Wishes, World

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.lab, pytest.mark.filterwarnings("ignore::ResourceWarning")]

INVENTORY = """
cluster: {name: home, distribution: k3s, context: admin, kubeconfig: ~/.kube/config}
flake: ./somewhere
defaults:
  ssh: {user: admin, port: 2200, identity_file: ~/.ssh/id, jump: hop.example}
  privilege: sudo
  privilege_password: {env: SUDO}
strategy:
  soak: 5m
  canary: 1
  on_failure: rollback
  windows: [{days: [sat], from: "02:00", to: "06:00"}]
gates:
  kubelet: {ready_for: 1m}
  pods: {critical: false, selected: [{selector: app=mon}]}
  http: [{url: "https://status.example/"}, {url: "http://127.0.0.1:9/"}]
  command: [{run: "etcdctl endpoint health", on: "@control-plane"}, {run: "ceph status"}]
groups:
  control-plane: {role: control-plane}
  workers: {strategy: {soak: 10m, max_unavailable: 1}}
hosts:
  cp1: {address: 10.0.0.1, groups: [control-plane]}
  w1: {address: w1.lan, groups: [workers], ssh: {user: root, jump: cp1, config: ./ssh_config}, labels: {zone: a}}
  pi1:
    address: pi1.lan
    groups: [workers]
    system: aarch64-linux
    bootstrap: {disks: [/dev/mmcblk0], extra_files: ./pi}
"""


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def twin(tmp_path):
    folder = tmp_path / "lab"
    loaded = load_fleet(tmp_path / "inventory.yaml", text=INVENTORY)
    (folder / "keys").mkdir(parents=True)
    (folder / "keys/sudo-password").write_text("secret\n")
    world = World(folder, loaded.fleet, Wishes())
    await world.open()
    paths = write_twin(world, loaded.provenance.source.text, loaded.provenance.source.base)
    yield load_fleet(paths.inventory).fleet, paths, loaded.fleet, world
    await world.close()


async def test_what_a_rollout_decides_by_stays(twin):
    fleet, _, original, _ = twin
    assert list(fleet.hosts) == list(original.hosts)
    assert {n: g.members for n, g in fleet.groups.items()} == {n: g.members for n, g in original.groups.items()}
    assert fleet.groups["workers"].max_unavailable == original.groups["workers"].max_unavailable
    for name, host in fleet.hosts.items():
        before = original.hosts[name]
        assert (host.role, host.system, host.labels, host.privilege) == (
            before.role, before.system, before.labels, before.privilege,
        )  # fmt: skip
    assert fleet.strategy.on_failure is original.strategy.on_failure
    assert fleet.cluster.name == "home"


async def test_every_way_in_is_the_labs(twin):
    fleet, paths, _, world = twin
    for name, host in fleet.hosts.items():
        machine = world.hosts[name].machine
        assert (host.address, host.ssh.port) == ("127.0.0.1", machine.port)
        assert host.ssh.host_key == world.keyring.public(machine.host_key)
        assert host.ssh.identity_file == str(paths.folder / "keys/id_ed25519")
        assert host.ssh.config == "none"  # The person's own ssh_config has no say.
    assert fleet.hosts["cp1"].ssh.user == "admin"
    assert fleet.hosts["w1"].ssh.user == "root"
    assert fleet.hosts["w1"].ssh.jump == "cp1"
    assert fleet.hosts["cp1"].ssh.jump == f"root@127.0.0.1:{world.hosts['hop.example'].machine.port}"
    assert fleet.flake == str(paths.flake)
    assert fleet.cluster.kubeconfig == str(paths.kubeconfig)
    assert fleet.hosts["cp1"].privilege_password.file == str(paths.folder / "keys/sudo-password")
    assert world.hosts["cp1"].password == "secret"


async def test_waits_are_shorter_and_windows_and_the_outside_are_left_out(twin):
    fleet, paths, _, _ = twin
    assert fleet.strategy.host.soak == 10.0
    assert fleet.hosts["w1"].policy.soak == 20.0
    assert fleet.gates.kubelet.ready_for == 2.0
    assert fleet.gates.kubelet.timeout == 20.0
    assert fleet.strategy.host.reboot_timeout == 20.0
    assert fleet.strategy.host.activation_timeout == 30.0
    assert not fleet.strategy.windows
    assert [gate.url for gate in fleet.gates.http] == ["http://127.0.0.1:9/"]
    assert [gate.run for gate in fleet.gates.command] == ["etcdctl endpoint health"]
    header = paths.inventory.read_text().split("\n\n")[0]
    for said in ("windows are left out", "http gates", "selected pods", "ceph status", "30 times shorter"):
        assert said in header


async def test_files_that_lead_into_the_lab_are_private(twin):
    _, paths, _, world = twin
    for path in (paths.inventory, paths.kubeconfig, paths.folder / "keys/id_ed25519", paths.env):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = yaml.safe_load(paths.kubeconfig.read_text())
    assert config["current-context"] == "admin"
    assert config["clusters"][0]["cluster"]["server"] == world.kube_url
    assert "Host cp1" in paths.ssh_config.read_text()


async def test_a_bare_machine_gets_its_host_key_sent_along_and_the_persons_files_too(tmp_path):
    (tmp_path / "pi/etc").mkdir(parents=True)
    (tmp_path / "pi/etc/secret").write_text("kept")
    (tmp_path / "lab/keys").mkdir(parents=True)
    (tmp_path / "lab/keys/sudo-password").write_text("secret\n")
    loaded = load_fleet(tmp_path / "inventory.yaml", text=INVENTORY)
    world = World(tmp_path / "lab", loaded.fleet, Wishes(bare=("pi1",)))
    await world.open()
    paths = write_twin(world, loaded.provenance.source.text, loaded.provenance.source.base)
    await world.close()
    host = load_fleet(paths.inventory).fleet.hosts["pi1"]
    extra = Path(host.bootstrap.extra_files)
    assert (extra / "etc/secret").read_text() == "kept"
    sent = asyncssh.read_private_key(extra / "etc/ssh/ssh_host_ed25519_key").export_public_key().decode()
    assert sent.startswith(host.ssh.host_key)
    assert host.bootstrap.disks == ("/dev/mmcblk0",)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h30m", 5400.0), ("90s", 90.0), ("250ms", 0.25), ("1.5s", 1.5), ("2d", 172800.0)]
)
def test_durations_are_read_with_their_units(text, seconds):
    assert seconds_in(text) == seconds


# --- the command line ------------------------------------------------------------------------------------------------


def lab(*argv, cwd=ROOT, **env):
    command = [sys.executable, "-m", "nixkube_deploy.lab", *argv]
    given = {key: value for key, value in os.environ.items() if key != "NIXKUBE_LAB_DIR"}
    return subprocess.run(
        command, cwd=cwd, env={**given, **env}, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "lab"
    yield folder
    lab("down", "--dir", str(folder))


def test_a_lab_goes_up_is_looked_at_broken_and_goes_down(folder):
    where = ("--dir", str(folder))
    began = time.monotonic()
    up = lab("up", "inventories/lab.yaml", *where)
    assert (up.returncode, "12 hosts are up" in up.stderr) == (0, True)
    assert time.monotonic() - began < 10
    again = lab("up", "inventories/lab.yaml", *where)
    assert (again.returncode, "already up" in again.stderr) == (2, True)
    status = json.loads(lab("status", "--json", *where).stdout)
    assert [host["host"] for host in status["hosts"]][:4] == ["cp1", "cp2", "cp3", "w1"]
    assert all(host["node"]["ready"] for host in status["hosts"])
    table = lab("status", *where)
    assert table.stdout.splitlines()[1].startswith("cp1")
    assert lab("fault", "add", "w2:swich=4", *where).stderr.endswith("hint: did you mean switch?\n")
    assert lab("fault", "add", "w2:switch=4", *where).returncode == 0
    assert "fault  w2:switch=4" in lab("status", *where).stdout
    assert "cleared w2:switch=4" in lab("fault", "clear", *where).stderr
    ran = lab("run", *where, "--", "sh", "-c", "nix --version; echo $NIX_REMOTE; exit 9")
    assert (ran.returncode, ran.stdout) == (9, f"nix (Nix) 2.28.5\n{folder}/store\n")
    assert "export KUBECONFIG=" in lab("env", *where).stdout
    assert lab("down", *where).returncode == 0
    assert lab("down", *where).returncode == 2


def test_a_lab_that_was_killed_comes_up_again(folder):
    where = ("--dir", str(folder))
    assert lab("up", "inventories/homelab.yaml", *where).returncode == 0
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    time.sleep(0.1)
    assert "no lab is up" in lab("status", *where).stderr
    assert (folder / "control.sock").exists()
    assert lab("up", *where).returncode == 0
    assert len(json.loads(lab("status", "--json", *where).stdout)["hosts"]) == 3


def test_a_wrong_inventory_or_fault_is_a_clear_error(folder):
    where = ("--dir", str(folder))
    missing = lab("up", "nowhere.yaml", *where)
    assert (missing.returncode, "Traceback" in missing.stderr) == (2, False)
    assert "nowhere.yaml" in missing.stderr
    wrong = lab("up", "inventories/homelab.yaml", "--fault", "cp9:switch=4", *where)
    assert (wrong.returncode, wrong.stderr) == (2, "error: there is no host 'cp9'\nhint: did you mean cp1?\n")
    assert lab("status", *where).returncode == 2


def test_every_fault_is_documented():
    listed = lab("fault", "list").stdout
    assert "HOST:switch=1|2|4|100|inhibitor" in listed
    assert "fleet:api-down=seconds" in listed


def test_a_lab_for_one_command_ends_with_it_however_it_ends(tmp_path):
    command = [sys.executable, "-m", "nixkube_deploy.lab", "run", "--inventory", "inventories/homelab.yaml", "--"]
    command += ["sh", "-c", "echo $NIXKUBE_LAB_DIR; exec sleep 20"]
    given = {**os.environ, "TMPDIR": str(tmp_path)}
    for number, leftover in ((signal.SIGTERM, False), (signal.SIGKILL, True)):
        with subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.PIPE, text=True) as process:
            folder = Path(process.stdout.readline().strip())
            daemon = int((folder / "pid").read_text())
            process.send_signal(number)
            process.wait(20)
        deadline = time.monotonic() + 10
        while is_alive(daemon) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not is_alive(daemon)
        assert folder.exists() is leftover
