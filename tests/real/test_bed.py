"""The bed's own promises, on both tiers: what hosts are, that nothing leaks out, and that nothing is left.

What systemd does and what its stand-in does are asked in the same words of both.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.real.bed import needs
from tests.real.bed.fleet import PASSWORD, HostOptions, RealFleet, real_fleet
from tests.real.bed.host import RealHost, wait_until
from tests.real.bed.tree import programs

ROOT = Path(__file__).resolve().parents[2]
PER_HOST = {"n2": HostOptions(store="24m", boot="1m", sudo="free", daemon=True)}


@pytest.fixture(scope="module", params=[1, 2], ids=["tier 1", "tier 2"])
def fleet(request, tmp_path_factory):
    needs.require(request.param, sudo=True)
    with real_fleet(tmp_path_factory.mktemp("bed"), tier=request.param, hosts=2, per_host=PER_HOST) as fleet:
        yield fleet


@pytest.fixture
def host(fleet) -> RealHost:
    return fleet.hosts["n1"]


def ssh(fleet: RealFleet, command: str, *, user: str = "root", host: str = "n1", stdin: str = ""):
    login = f"{user}@{fleet.hosts[host].address}"
    return fleet.controller("ssh", *fleet.ssh_options, login, command, check=False, stdin=stdin)


# --- what hosts are ---------------------------------------------------------------------------------------------------


def test_a_host_runs_its_first_generation_and_has_nothing_else_in_its_store(fleet):
    host = fleet.hosts["n2"]
    assert host.current == host.booted == host.profile
    assert host.generations == {1: host.current}
    assert host.current.endswith("-nixos-system-first-25.11")
    stored = host.run("ls /nix/store").split()
    closure = host.run(f"nix-store --query --requisites {host.current}").split()
    assert {f"/nix/store/{name}" for name in stored if name != ".links"} == set(closure)


def test_hosts_say_that_they_are_nixos_and_are_told_apart(fleet):
    assert set(fleet.everywhere("grep ^ID= /etc/os-release").values()) == {"ID=nixos"}
    for what in ("cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "hostname"):
        assert len(set(fleet.everywhere(what).values())) == 2


def test_hosts_have_files_of_their_own(fleet):
    for place in ("/nix", "/var", "/home", "/root", "/etc", "/run", "/tmp", "/boot"):
        fleet.on("n1", f"echo x >{place}/only-here && rm {place}/only-here")
        fleet.on("n1", f"touch {place}/mine")
        assert fleet.on("n2", f"ls -a {place}/mine 2>&1 || true").endswith("No such file or directory")
        assert not Path(f"{place}/mine").exists()


def test_the_flake_evaluates_to_what_is_built_and_arrives(fleet):
    wanted = fleet.toplevel("n1")
    inventory = fleet.inventory(hosts=["n1"])
    done = fleet.deploy("apply", inventory, "--yes")
    assert done.returncode == 0, done.stderr
    host = fleet.hosts["n1"]
    assert host.current == host.profile == wanted
    assert host.has(wanted)
    assert host.generation == 2
    assert host.run("systemctl is-active web metrics").split() == ["active", "active"]


def test_a_reboot_is_a_reboot(host):
    before, current = host.boot_id, host.current
    host.run("touch /run/gone /var/kept; systemctl reboot", check=False)
    host.wait_for_boot(before)
    assert host.run("ls /run/gone /var/kept 2>/dev/null", check=False) == "/var/kept"
    assert host.booted == host.current == current
    wait_until(lambda: host.run("systemctl is-active web", check=False) == "active", "web", 10)


def test_the_boot_loader_decides_what_boots(host):
    wanted = host.current
    host.run("sed -i s/generation-2/generation-1/ /boot/loader/loader.conf")
    host.reboot()
    assert host.booted == host.current == host.generations[1] != wanted
    host.run("sed -i s/generation-1/generation-2/ /boot/loader/loader.conf")
    host.reboot()
    assert host.current == wanted


def test_a_host_that_loses_power_boots_again_and_one_that_is_kept_off_does_not(host):
    before = host.boot_id
    host.cut_power()
    host.wait_for_boot(before)
    before = host.boot_id
    host.keep_off()
    host.run("systemctl reboot", check=False)
    wait_until(lambda: not host.init, "the end of n1")
    time.sleep(0.5)
    assert not host.init
    host.plug_in()
    host.wait_for_boot(before)


def test_a_cut_link_is_a_dead_link_and_the_host_can_still_be_looked_at(fleet, host):
    fleet_ssh = ("ssh", "-o", "ConnectTimeout=1", *fleet.ssh_options, f"root@{host.address}", "true")
    host.cut()
    try:
        assert fleet.controller(*fleet_ssh, check=False).returncode == 255
        assert host.run("echo here") == "here"
    finally:
        host.mend()
    assert fleet.controller(*fleet_ssh).returncode == 0


def test_connections_are_counted(fleet, host):
    before = host.sshd_connections
    for _ in range(3):
        assert ssh(fleet, "true").returncode == 0
    wait_until(lambda: host.sshd_connections == before + 3, "three connections", 5)


def test_another_host_key_is_noticed(fleet, tmp_path_factory):
    host = fleet.hosts["n2"]
    host.change_host_key()
    seen = ssh(fleet, "true", host="n2")
    assert seen.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in seen.stderr
    host.file("/etc/ssh/ssh_host_ed25519_key").write_text((fleet.directory / "controller" / "n2.key").read_text())
    host.run("systemctl restart ssh")
    wait_until(lambda: ssh(fleet, "true", host="n2").returncode == 0, "the old key", 10)


def test_both_sides_have_the_nix_that_was_asked_for(fleet):
    suite = os.environ.get("NIXKUBE_REAL_NIX", "")
    machines = subprocess.run(["/usr/bin/nix", "--version"], capture_output=True, text=True, check=True).stdout
    here = fleet.controller("nix", "--version").stdout
    assert fleet.on("n1", "nix --version") == here.strip()
    assert (here != machines) is bool(suite)
    if suite:
        own = subprocess.run([programs(suite) / "nix", "--version"], capture_output=True, text=True, check=True).stdout
        assert here == own


# --- users and limits -------------------------------------------------------------------------------------------------


def test_the_deploy_user_becomes_root_with_a_password_or_without(fleet):
    assert ssh(fleet, "id -un", user="deploy").stdout == "deploy\n"
    assert ssh(fleet, "sudo -n id -un", user="deploy").returncode == 1
    assert ssh(fleet, "sudo -S id -un", user="deploy", stdin="wrong\n").returncode == 1
    assert ssh(fleet, "sudo -S id -un", user="deploy", stdin=f"{PASSWORD}\n").stdout == "root\n"
    assert ssh(fleet, "sudo -n id -un", user="deploy", host="n2").stdout == "root\n"


def test_stores_and_boot_partitions_can_be_small(fleet):
    host = fleet.hosts["n2"]
    for place in ("/nix", "/boot"):
        said = host.run(f"dd if=/dev/zero of={place}/big bs=1M count=30 2>&1; rm {place}/big", check=False)
        assert "No space left on device" in said


def test_a_daemon_takes_only_signed_paths_from_whom_it_does_not_trust(fleet):
    attribute = f"{fleet.flake}#nixosConfigurations.n2.config.system.build.toplevel"
    fleet.controller("nix", "build", "--no-link", attribute)
    path, options = fleet.toplevel("n2"), {"NIX_SSHOPTS": " ".join(fleet.ssh_options)}
    host = fleet.hosts["n2"]
    refused = fleet.controller("nix", "copy", "--to", f"ssh://deploy@{host.address}", path, check=False, env=options)
    assert refused.returncode == 1
    assert re.search("lacks a (valid )?signature", refused.stderr), refused.stderr
    assert not host.has(path)
    fleet.controller("nix", "copy", "--to", f"ssh://root@{host.address}", path, env=options)
    assert host.has(path)


# --- systemd, and its stand-in ----------------------------------------------------------------------------------------

SHOW = "--property=LoadState,ActiveState,SubState,Result,ExecMainStatus"


def shown(host: RealHost, unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in host.run(f"systemctl show {unit} {SHOW}").splitlines())


def states(host: RealHost, pattern: str) -> dict[str, list[str]]:
    listed = host.run(f"systemctl list-units --all '{pattern}' --plain --no-legend --no-pager")
    return {line.split()[0]: line.split()[1:4] for line in listed.splitlines()}


def test_a_unit_outlives_the_connection_that_started_it(fleet, host):
    unit = "systemd-run --quiet --unit=bed-slow --service-type=oneshot --remain-after-exit -- sleep 2"
    argv = fleet.argv("ssh", *fleet.ssh_options, f"root@{host.address}", unit)
    with subprocess.Popen(argv, env=fleet.environment) as session:
        wait_until(lambda: shown(host, "bed-slow")["ActiveState"] == "activating", "the unit", 10)
        session.kill()
    assert states(host, "bed-slow*") == {"bed-slow.service": ["loaded", "activating", "start"]}
    wait_until(lambda: shown(host, "bed-slow")["SubState"] == "exited", "the end of the unit", 10)
    assert shown(host, "bed-slow") == {
        "LoadState": "loaded",
        "ActiveState": "active",
        "SubState": "exited",
        "Result": "success",
        "ExecMainStatus": "0",
    }
    assert "already loaded" in host.run(f"{unit} 2>&1", check=False)
    host.run("systemctl stop bed-slow.service")
    assert shown(host, "bed-slow")["LoadState"] == "not-found"


def test_a_unit_that_fails_says_how(host):
    run = "systemd-run --quiet --unit=bed-bad --service-type=oneshot --remain-after-exit --"
    said = host.run(f"{run} sh -c 'echo why; exit 4'; echo code $?", check=False)
    assert said.endswith("code 1")
    assert shown(host, "bed-bad") == {
        "LoadState": "loaded",
        "ActiveState": "failed",
        "SubState": "failed",
        "Result": "exit-code",
        "ExecMainStatus": "4",
    }
    wait_until(lambda: "why" in host.journal("bed-bad").splitlines(), "its journal", 5)
    listed = host.run("systemctl list-units --failed --plain --no-legend --no-pager")
    assert listed.split()[:4] == ["bed-bad.service", "loaded", "failed", "failed"]
    assert host.run("systemctl is-system-running", check=False) == "degraded"
    assert host.run("systemctl is-failed bed-bad") == "failed"
    host.run("systemctl reset-failed bed-bad.service")
    assert shown(host, "bed-bad")["LoadState"] == "not-found"
    assert host.run("systemctl is-system-running") == "running"


def test_a_unit_that_is_killed_says_that(host):
    run = "systemd-run --quiet --unit=bed-killed --service-type=oneshot --remain-after-exit --"
    host.run(f"({run} sleep 1078 &) >/dev/null 2>&1")
    kill = "pkill -9 -fx '(/usr/bin/)?sleep 1078' && echo yes"
    wait_until(lambda: host.run(kill, check=False) == "yes", "the process", 5)
    wait_until(lambda: shown(host, "bed-killed")["ActiveState"] == "failed", "its end", 5)
    seen = shown(host, "bed-killed")
    assert (seen["ActiveState"], seen["Result"], seen["ExecMainStatus"]) == ("failed", "signal", "9")
    host.run("systemctl reset-failed bed-killed")


def test_a_unit_that_is_stopped_ends_with_all_its_processes(host):
    run = "systemd-run --quiet --unit=bed-stopped --service-type=oneshot --remain-after-exit --"
    host.run(f"({run} sh -c 'sleep 1077 & sleep 1077' &) >/dev/null 2>&1")
    wait_until(lambda: len(host.run("pgrep -fx 'sleep 1077'", check=False).split()) == 2, "both processes", 5)
    host.run("systemctl stop bed-stopped")
    assert host.run("pgrep -fx 'sleep 1077'", check=False) == ""
    seen = shown(host, "bed-stopped")
    assert (seen["ActiveState"], seen["Result"], seen["ExecMainStatus"]) == ("failed", "signal", "15")
    host.run("systemctl reset-failed bed-stopped")
    assert shown(host, "bed-stopped")["LoadState"] == "not-found"


def timer(host: RealHost, seconds: int, name: str, command: str) -> None:
    options = f"--on-active={seconds}s --timer-property=AccuracySec=1s"
    host.run(f"systemd-run --quiet --no-ask-password --unit={name} {options} -- sh -c '{command}' 2>&1")


def test_a_timer_runs_its_service_and_is_gone(host):
    timer(host, 1, "bed-soon", "sleep 1; echo done >/run/soon")
    assert states(host, "bed-soon*")["bed-soon.timer"] == ["loaded", "active", "waiting"]
    wait_until(lambda: states(host, "bed-soon*").get("bed-soon.service", [""])[-1] == "running", "its service", 10)
    wait_until(lambda: host.run("cat /run/soon 2>/dev/null", check=False) == "done", "its work", 10)
    wait_until(lambda: states(host, "bed-soon*") == {}, "its end", 5)


def test_a_timer_can_be_stopped_by_a_pattern_and_begin_anew(host):
    timer(host, 2, "bed-later", "echo fired >/run/later")
    timer(host, 600, "bed-never", "true")
    for _ in range(2):
        time.sleep(1.2)
        host.run("systemctl try-restart bed-later.timer")
    assert host.run("cat /run/later 2>/dev/null", check=False) == ""
    assert states(host, "bed-*.timer").keys() == {"bed-later.timer", "bed-never.timer"}
    host.run("systemctl stop 'bed-n*.timer'")
    assert states(host, "bed-never*") == {}
    wait_until(lambda: host.run("cat /run/later 2>/dev/null", check=False) == "fired", "the timer", 6)
    host.run("systemctl stop 'bed-nobody*.timer'")


def test_sshd_can_be_restarted_under_a_session(fleet, host):
    done = ssh(fleet, "systemctl restart ssh && sleep 0.3 && echo still here")
    assert done.stdout == "still here\n", done
    host.wait_for_ssh()
    assert ssh(fleet, "true").returncode == 0


# --- nothing leaks, nothing is left -----------------------------------------------------------------------------------


def test_the_machine_has_no_way_to_the_hosts(fleet, host):
    assert (
        subprocess.run(["ip", "route", "show"], capture_output=True, text=True, check=True).stdout.count("10.77.") == 0
    )
    links = subprocess.run(["ip", "link", "show"], capture_output=True, text=True, check=True).stdout
    assert " br0:" not in links
    own = fleet.controller("ls", "/nix/store").stdout
    assert not Path("/nix/store").exists() or set(own.split()) != {path.name for path in Path("/nix/store").iterdir()}


def test_a_killed_product_is_killed_by_its_own_process_id(fleet):
    process = fleet.spawn("check", fleet.inventory())
    name = Path(f"/proc/{process.pid}/cmdline")
    wait_until(lambda: b"nixkube_deploy" in name.read_bytes(), "the product", 10)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    process.communicate()


BED = """
import sys, time
from pathlib import Path
from tests.real.bed.fleet import real_fleet
with real_fleet(Path(sys.argv[1]), tier=int(sys.argv[2]), hosts=2) as fleet:
    first = [host.init for host in fleet.hosts.values()]
    product = fleet.spawn("exec", fleet.inventory(), "--", "sleep", "100")
    print(fleet.keeper.pid, product.pid, fleet.groups, *first, flush=True)
    sys.stdin.readline()
    if sys.argv[3] == "wait":
        time.sleep(100)  # Killed before that is over.
    product.kill()
    product.communicate()
"""


@pytest.mark.parametrize("tier", [1, 2])
@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_nothing_is_left_when_whoever_made_a_bed(tier, how, tmp_path):
    needs.require(tier)
    mounts = Path("/proc/self/mountinfo").read_text()
    argv = [sys.executable, "-c", BED, str(tmp_path / "bed"), str(tier), "wait" if how == "is killed" else "end"]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}
    )
    keeper, product, group, *first = process.stdout.readline().split()
    with ExitStack() as stack:
        # Held open, their numbers are not given to somebody else meanwhile.
        held = [stack.enter_context(Path(f"/proc/{pid}/ns/pid").open("rb")) for pid in first]
        spaces = {str(Path(f"/proc/self/fd/{file.fileno()}").readlink()) for file in held}
        if how == "is killed":
            process.kill()
        process.stdin.close()
        process.wait(60)
        process.stdout.close()

        def left() -> list[str]:
            return [f"{pid} {line}" for pid, space, line in processes() if space in spaces or pid in (keeper, product)]

        wait_until(lambda: not left(), f"nothing of {left()}", 15)
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not list(Path("/run/netns").glob("*bed*")) if Path("/run/netns").exists() else True
    wait_until(lambda: not control_groups(group), "the end of its control groups", 10)
    assert list((tmp_path / "bed" / "run").iterdir()) == []


def processes():
    """Process id, pid namespace and name of all that live."""
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                state = (each / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    yield each.name, str((each / "ns" / "pid").readlink()), (each / "comm").read_text().strip()
            except OSError:
                continue


def control_groups(name: str) -> list[str]:
    """Where control groups of this name are."""
    found = subprocess.run(
        ["find", "/sys/fs/cgroup", "-maxdepth", "2", "-name", name], capture_output=True, text=True, check=False
    )
    return found.stdout.split()


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(needs, "SSHD", Path("/nowhere"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "sshd (package openssh-server)" in needs.missing(1)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"real hosts of tier 1: missing .*openssh-server"):
        needs.require(1)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI runs as root but lacks"):
        needs.require(1)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="needs root"):
        needs.require(1)
