"""Kernels that boot, do not boot, or may not yet: what the boot loader is told, and what a person is told."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.lab.fault_fleet import machines
from tests.lab.rig import Rig, a_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

INVENTORY = """\
cluster: {name: boots, distribution: none}
flake: ./flake
defaults:
  ssh: {user: root}
strategy: {canary: 0, max_unavailable: 1, soak: 0s, reboot_timeout: 12s}
gates:
  kubelet: {ready_for: 200ms}
groups:
  web: {role: worker}
hosts:
  web1: {address: 10.0.0.1, groups: [web]}
  web2: {address: 10.0.0.2, groups: [web]}
"""
WHAT_IS_ARMED = "/var/lib/nixkube-deploy/boot-entry.json"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("boots")
    (folder / "boots.yaml").write_text(INVENTORY)
    with a_lab(folder, folder / "boots.yaml") as rig:
        done = rig.deploy("apply", rig.inventory, "--yes")
        assert done.returncode == 0, done.stderr
        yield rig


@pytest.fixture
def rig(lab) -> Iterator[Rig]:
    yield lab
    lab.lab("fault", "clear")


def upgrade(rig: Rig, *hosts: str, kernel: str) -> None:
    for host in hosts:
        rig.configure(host, kernel=kernel)


def after(entry: str) -> str:
    """The entry of the next generation."""
    return f"nixos-generation-{int(entry.removeprefix('nixos-generation-').removesuffix('.conf')) + 1}.conf"


def asked(rig: Rig, host: str, *argv: str) -> str:
    return rig.deploy("exec", "--on", host, rig.inventory, "--", *argv).stdout


def default(rig: Rig, host: str) -> str:
    conf = asked(rig, host, "cat", "/boot/loader/loader.conf")
    return next(line.split()[-1] for line in conf.splitlines() if " default " in f" {line} ")


def said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr + done.stdout).split())


def with_strategy(rig: Rig, **rules: object) -> Path:
    """The lab's inventory with other rules."""
    plain = yaml.safe_load(rig.inventory.read_text())
    plain["strategy"].update(rules)
    path = rig.directory / "other.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


@contextmanager
def a_prometheus(firing: list[int]) -> Iterator[str]:
    """As many alerts as the list's last item says."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            result = [{"metric": {}, "value": [0, "1"]}] * firing[-1]
            body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_broken_kernel_falls_back_by_itself_and_is_told_as_that(rig):
    old, before = default(rig, "web1"), machines(rig)["web1"]
    upgrade(rig, "web1", kernel="6.12.91")
    rig.lab("fault", "add", "web1:boot-fails")
    done = rig.deploy("apply", rig.inventory, "--yes")
    assert done.returncode == 5, said(done)
    assert f"the new entry {after(old)} did not boot on web1; the old one, {old}, did, by itself" in said(done)
    now = machines(rig)["web1"]
    assert (now["current"], now["booted"]) == (before["current"], before["current"])
    assert default(rig, "web1") == old
    assert "No such file" in asked(rig, "web1", "ls", WHAT_IS_ARMED)

    rig.lab("fault", "clear")
    assert "activate, reboot, prove, gate, promote, confirm" in rig.deploy("plan", rig.inventory).stdout
    done = rig.deploy("apply", rig.inventory, "--yes", "--events", "-")
    assert done.returncode == 0, said(done)
    assert f"boot loader: {after(old)} for the next boot only, {old} stays the default" in said(done)
    assert f"{after(old)} is the default now" in said(done)
    assert default(rig, "web1") == after(old)


def test_a_kernel_that_hangs_is_left_at_the_next_power_cycle(rig):
    old, before = default(rig, "web1"), machines(rig)["web1"]["current"]
    upgrade(rig, "web1", kernel="6.12.92")
    rig.lab("fault", "add", "web1:boot-fails=hang")
    inventory = with_strategy(rig, reboot_timeout="3s")
    done = rig.deploy("apply", inventory, "--yes", "--on-failure", "halt", "--on", "web1")
    assert done.returncode == 4, said(done)
    assert f"then cut its power: it boots {old}, the old system, by itself" in said(done)
    assert not machines(rig)["web1"]["powered"]
    rig.lab("fault", "clear")
    assert machines(rig)["web1"]["booted"] == before
    assert default(rig, "web1") == old
    done = rig.deploy("apply", rig.inventory, "--yes")
    assert done.returncode == 0, said(done)
    assert default(rig, "web1") == after(old)


def test_a_controller_that_is_killed_meanwhile_leaves_the_old_default_and_a_successor_tells(rig):
    old, before = default(rig, "web1"), machines(rig)["web1"]
    upgrade(rig, "web1", kernel="6.12.93")
    rig.lab("fault", "add", "web1:boot-fails*1")  # The first boot panics, which uses up what was armed.
    process = rig.start("apply", rig.inventory, "--yes")
    deadline = time.monotonic() + 60
    while machines(rig)["web1"]["powered"] and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while not machines(rig)["web1"]["powered"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert default(rig, "web1") == old
    done = rig.deploy("resume")
    assert done.returncode == 5, said(done)
    assert f"the new entry {after(old)} did not boot on web1; the old one, {old}, did, by itself" in said(done)
    assert machines(rig)["web1"]["boots"] == before["boots"] + 1, "it is not tried a second time unasked"
    assert rig.deploy("apply", rig.inventory, "--yes").returncode == 0
    assert default(rig, "web1") == after(old)


def test_kexec_goes_past_the_loader_and_a_kernel_that_cannot_be_loaded_is_booted(rig):
    inventory = with_strategy(rig, reboot_method="kexec")
    wanted = {host: after(default(rig, host)) for host in ("web1", "web2")}
    upgrade(rig, "web1", "web2", kernel="6.12.94")
    rig.lab("fault", "add", "web2:kexec-refused")
    done = rig.deploy("apply", inventory, "--yes", "--events", "-")
    assert done.returncode == 0, said(done)
    now = machines(rig)
    assert all(machine["booted"] == machine["current"] for machine in now.values())
    assert {host: default(rig, host) for host in now} == wanted
    assert f"{wanted['web1']} for no boot before the gate" in said(done)
    assert "reboots through its firmware, not by kexec" in said(done)


def test_alerts_hold_reboots_back_until_they_are_over(rig):
    firing, before = [1], boots(rig)
    with a_prometheus(firing) as url:
        inventory = with_strategy(rig, reboot_blockers={"prometheus": [{"url": url}], "timeout": "1s"})
        done = rig.deploy("reboot", inventory, "--all", "--yes", "--max-failures", "5")
        assert done.returncode == 4, said(done)
        for host in ("web1", "web2"):  # One that may not reboot is available, and keeps nobody's place.
            assert f'{host} may not reboot: 1 series of prometheus ALERTS{{alertstate="firing"}}' in said(done)
        assert boots(rig) == before
        done = rig.deploy("reboot", inventory, "--all", "--on", "web2", "--ignore-blockers", "--yes")
        assert (done.returncode, boots(rig)["web1"]) == (0, before["web1"]), said(done)
        assert boots(rig)["web2"] != before["web2"]
        firing.append(0)
        done = rig.deploy("reboot", inventory, "--all", "--yes")
        assert done.returncode == 0, said(done)
    assert all(boots(rig)[host] != before[host] for host in before)
    assert "Nothing to do" in rig.deploy("reboot", rig.inventory, "--needed", "--yes").stderr


def test_outside_the_windows_nothing_reboots(rig):
    before = boots(rig)
    day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(time.gmtime().tm_wday + 3) % 7]
    inventory = with_strategy(rig, windows=[{"days": [day], "from": "02:00", "to": "03:00"}])
    done = rig.deploy("reboot", inventory, "--all", "--yes")
    assert done.returncode == 4, said(done)
    assert "outside the maintenance windows" in said(done)
    assert boots(rig) == before


def boots(rig: Rig) -> dict[str, str]:
    return {host: machine["boot_id"] for host, machine in machines(rig).items()}
