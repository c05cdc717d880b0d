"""The activation protocol on real systemd: every mode, the timer, what is cut in the middle, and every exit code.

Through the command line, on one or two hosts. The wider matrix of faults is in ``test_faults*``.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.bed import needs
from tests.real.bed.fleet import RealFleet, real_fleet
from tests.real.bed.host import RealHost, wait_until

pytestmark = pytest.mark.timeout(170)

TIER = 2
SHORT = {"strategy": {"activation_timeout": "4s", "confirm_timeout": "2s"}, "gates": {"kubelet": {"timeout": "3s"}}}
"""A host goes back 6 s after it last heard from us."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[RealFleet]:
    needs.require(TIER)
    with real_fleet(tmp_path_factory.mktemp("activation") / "b", tier=TIER, hosts=2) as fleet:
        done = fleet.deploy("apply", fleet.inventory(), "--yes")
        assert done.returncode == 0, done.stderr
        yield fleet


@pytest.fixture
def n1(fleet) -> RealHost:
    return fleet.hosts["n1"]


@pytest.fixture
def only_n1(fleet) -> Path:
    return fleet.inventory("one", hosts=["n1"])


VERSIONS = iter(range(1, 1000))


def change(fleet: RealFleet, host: str = "n1", **settings: Any) -> str:
    """Make the flake want something new of a host; the path of that."""
    fleet.configure(host, activation=None)  # Objects merge.
    fleet.configure(host, packages={"changed": f"1.{next(VERSIONS)}"}, **settings)
    return fleet.toplevel(host)


def ours(host: RealHost) -> str:
    """Units of ours that its systemd still knows."""
    return host.run("systemctl list-units --all --plain --no-legend 'nixkube-deploy-*'")


def status_of(fleet: RealFleet, inventory: Path, host: str = "n1") -> dict[str, Any]:
    done = fleet.deploy("status", inventory, "--json")
    return next(row for row in json.loads(done.stdout) if row["host"] == host)


def loader_default(host: RealHost) -> str:
    """The system that its boot loader starts."""
    entry = host.run("sed -n 's/^default //p' /boot/loader/loader.conf")
    return host.run(f"sed -n 's|.*init=\\(.*\\)/init$|\\1|p' /boot/loader/entries/{entry}")


# --- modes -----------------------------------------------------------------------------------------------------------


def test_a_switch_is_confirmed_over_a_second_connection_and_leaves_nothing_behind(fleet, n1, only_n1):
    wanted, generation, connections = change(fleet), n1.generation, n1.sshd_connections
    done = fleet.deploy("apply", only_n1, "--yes")
    assert done.returncode == 0, done.stderr
    assert n1.current == n1.profile == loader_default(n1) == wanted
    assert n1.generation == generation + 1
    assert ours(n1) == ""
    assert n1.sshd_connections >= connections + 2
    way_back = json.loads(n1.run("cat /var/lib/nixkube-deploy/way-back.json"))
    assert (way_back["generation"], way_back["mode"]) == (generation, "switch")
    assert n1.run("stat -c %a /var/lib/nixkube-deploy") == "700"


def test_a_dry_run_tells_what_the_host_would_do_and_changes_nothing(fleet, n1, only_n1):
    before = n1.current
    change(fleet, units={"dry.service": "1.0"})
    done = fleet.deploy("apply", only_n1, "--mode", "dry-activate")
    assert done.returncode == 0, done.stderr
    assert "would start the following units: dry.service" in done.stdout
    assert (n1.current, n1.profile, ours(n1)) == (before, before, "")


def test_a_trial_ends_with_the_next_boot(fleet, n1, only_n1):
    before, generation, wanted = n1.current, n1.generation, change(fleet)
    done = fleet.deploy("apply", only_n1, "--yes", "--mode", "test")
    assert done.returncode == 0, done.stderr
    assert (n1.current, n1.profile, n1.generation, ours(n1)) == (wanted, before, generation, "")
    assert status_of(fleet, only_n1)["on_trial"]
    n1.reboot()
    assert (n1.booted, n1.current) == (before, before)


def test_a_next_boot_is_pending_until_a_real_reboot_brings_it(fleet, n1, only_n1):
    before, boot_id, wanted = n1.current, n1.boot_id, change(fleet)
    done = fleet.deploy("apply", only_n1, "--yes", "--mode", "boot")
    assert done.returncode == 0, done.stderr
    assert (n1.current, n1.profile, loader_default(n1), n1.boot_id) == (before, wanted, wanted, boot_id)
    assert status_of(fleet, only_n1)["reboot_pending"]
    done = fleet.deploy("reboot", only_n1, "--yes")
    assert done.returncode == 0, done.stderr
    assert (n1.booted, n1.current) == (wanted, wanted)
    assert n1.boot_id != boot_id
    assert not status_of(fleet, only_n1)["reboot_pending"]


def test_a_specialisation_runs_while_the_loader_starts_its_toplevel(fleet, n1):
    toplevel = change(fleet, specialisation={"quiet": {"packages": {"quiet": "1.0"}}})
    inventory = fleet.inventory("quiet", hosts=["n1"], per_host={"n1": {"specialisation": "quiet"}})
    done = fleet.deploy("apply", inventory, "--yes")
    assert done.returncode == 0, done.stderr
    inner = n1.run(f"readlink -f {toplevel}/specialisation/quiet")
    assert inner != toplevel
    assert (n1.current, n1.profile, loader_default(n1)) == (inner, toplevel, toplevel)
    again = fleet.deploy("apply", inventory, "--yes")
    assert "Nothing to do" in again.stderr + again.stdout
    wrong = fleet.inventory("wrong", hosts=["n1"], per_host={"n1": {"specialisation": "loud"}})
    done = fleet.deploy("apply", wrong, "--yes")
    assert done.returncode == 3
    assert "the system of n1 has no specialisation loud" in done.stderr
    assert "specialisations: quiet" in done.stderr


def test_a_rollback_to_a_generation_keeps_its_number(fleet, n1, only_n1):
    fleet.configure("n1", specialisation=None)
    change(fleet)
    assert fleet.deploy("apply", only_n1, "--yes").returncode == 0
    known = n1.generations
    wanted = max(known) - 1
    done = fleet.deploy("rollback", only_n1, "--yes", "--to-generation", str(wanted))
    assert done.returncode == 0, done.stderr
    assert (n1.generation, n1.generations) == (wanted, known)
    assert n1.current == n1.profile == loader_default(n1) == known[wanted]
    done = fleet.deploy("rollback", only_n1, "--yes", "--to-generation", "99")
    assert done.returncode == 3
    assert f"generations {', '.join(map(str, sorted(known)))}" in done.stderr


# --- cut in the middle -----------------------------------------------------------------------------------------------


def test_a_switch_whose_connection_was_cut_is_joined_again_and_happens_once(fleet, n1, only_n1):
    wanted = change(fleet, activation={"run": "echo switched >>/run/switches; sleep 3"})
    n1.run("rm -f /run/switches")
    with fleet.spawn("apply", only_n1, "--yes") as running:
        wait_until(lambda: n1.run("cat /run/switches", check=False) == "switched", "the switch")
        n1.run("pkill -f '^sshd(-session)?: root@notty'")
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0, out + err
    assert (n1.current, n1.run("cat /run/switches"), ours(n1)) == (wanted, "switched", "")


def test_the_timer_takes_a_host_back_when_its_controller_is_dead(fleet, n1):
    before, generation, wanted = n1.current, n1.generation, change(fleet)
    gates = {**SHORT["gates"], "command": [{"run": "false"}]}
    inventory = fleet.inventory("short", hosts=["n1"], strategy=SHORT["strategy"], gates=gates)
    with fleet.spawn("apply", inventory, "--yes") as running:
        wait_until(lambda: n1.current == wanted, "the switch")
        running.kill()
    killed = time.monotonic()
    assert "nixkube-deploy-deadman-" in ours(n1)
    wait_until(lambda: n1.current == before, "the way back", 20)
    assert time.monotonic() - killed < 10
    wait_until(lambda: n1.generation == generation, "the old generation", 5)
    wait_until(lambda: loader_default(n1) == before, "the old default", 5)
    done = fleet.deploy("apply", fleet.inventory("one", hosts=["n1"]), "--yes", "--fresh")
    assert done.returncode == 0, done.stderr


def test_the_timer_counts_from_the_last_word_of_a_controller_that_waits(fleet, n1):
    """What keeps a host whose switch is slow from going back: systemd restarts a transient timer in place."""
    unit = "nixkube-deploy-deadman-probe"
    n1.run(f"systemd-run --quiet --unit={unit} --on-active=3s --timer-property=AccuracySec=100ms touch /run/fired")
    for _ in range(3):
        time.sleep(1.5)
        n1.run(f"systemctl try-restart {unit}.timer")
    assert n1.run("test -e /run/fired && echo yes", check=False) == ""
    wait_until(lambda: n1.run("test -e /run/fired && echo yes", check=False) == "yes", "the timer", 8)
    n1.run(f"systemctl try-restart {unit}.timer", check=False)
    n1.run("rm /run/fired")


# --- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "said"),
    [
        ({"check": 1}, "a pre-switch check or the boot loader failed"),
        ({"exit": 2}, "the activation script failed"),
    ],
)
def test_a_switch_that_fails_is_told_and_taken_back(fleet, n1, only_n1, activation, said):
    before, generation = n1.current, n1.generation
    change(fleet, activation=activation)
    done = fleet.deploy("apply", only_n1, "--yes")
    assert done.returncode == 5, done.stderr
    assert said in done.stderr + done.stdout
    assert (n1.current, n1.profile, n1.generation, ours(n1)) == (before, before, generation, "")


def test_units_that_fail_and_are_not_the_nodes_are_a_warning(fleet, n1, only_n1):
    bad = {"bad.service": {"Type": "oneshot", "ExecStart": "/bin/false"}}
    wanted = change(fleet, units={"bad.service": "1.0"}, services=bad)
    done = fleet.deploy("apply", only_n1, "--yes")
    assert done.returncode == 0, done.stderr
    assert "bad.service failed to start" in done.stderr + done.stdout
    assert n1.current == wanted
    fleet.configure("n1", units={"bad.service": None}, services=None)
    n1.run("systemctl reset-failed")


def test_an_init_that_changed_and_an_inhibitor_are_rebooted_into_or_refused(fleet, n1, only_n1):
    boot_id = n1.boot_id
    wanted = change(fleet, inhibitors="dbus-implementation : broker\n", initInterface="systemd 3")
    refused = fleet.deploy("apply", only_n1, "--yes", "--reboot", "never")
    assert refused.returncode == 3
    tried = fleet.deploy("apply", only_n1, "--yes", "--mode", "test")
    assert (tried.returncode, n1.boot_id) == (3, boot_id)
    done = fleet.deploy("apply", only_n1, "--yes")
    assert done.returncode == 0, done.stderr
    assert (n1.booted, n1.current) == (wanted, wanted)
    assert n1.boot_id != boot_id


# --- somebody else ---------------------------------------------------------------------------------------------------


def test_somebody_elses_activation_is_waited_for(fleet, n1, only_n1):
    wanted = change(fleet)
    began = time.monotonic()
    n1.run("systemd-run --quiet flock /run/nixos/switch-to-configuration.lock sleep 3")
    done = fleet.deploy("apply", only_n1, "--yes")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began > 2
    assert n1.current == wanted


def test_a_host_that_another_run_holds_is_refused_by_its_name_and_dies_with_its_connection(fleet, n1, only_n1):
    before = n1.current
    change(fleet)
    n1.run("echo 20260101T000000Z-beef >/run/nixkube-deploy.holder")
    n1.run("systemd-run --quiet --unit=holder flock /run/nixkube-deploy.lock sleep 60")
    wait_until(lambda: n1.run("flock -n /run/nixkube-deploy.lock true && echo free", check=False) == "", "the lock")
    done = fleet.deploy("apply", only_n1, "--yes")
    assert done.returncode == 6, done.stderr
    assert "n1 is being changed by run 20260101T000000Z-beef" in done.stderr + done.stdout
    assert n1.current == before
    n1.run("systemctl stop holder")
    with fleet.spawn("apply", only_n1, "--yes") as running:
        held = "test -e /run/nixkube-deploy.holder && ! flock -n /run/nixkube-deploy.lock true && echo held"
        wait_until(lambda: n1.run(held, check=False) == "held", "our lock")
        running.kill()
    wait_until(lambda: n1.run("flock -n /run/nixkube-deploy.lock true && echo free", check=False) == "free", "its end")
