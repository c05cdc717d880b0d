"""Hosts that build their own systems, on real ones: derivations travel, what they make does not.

The bed's hosts share the controller's architecture; that it could be another one makes no difference to what is done.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.bed import needs
from tests.real.bed.fleet import RealFleet, real_fleet

pytestmark = pytest.mark.timeout(170)

BUILDER = "File exists"
"""What the builder says of a path that is to be both a file and a folder."""

KEPT = "/nix/var/nix/gcroots/nixkube-deploy/built"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[RealFleet]:
    needs.require(tier=1)
    with real_fleet(tmp_path_factory.mktemp("target") / "b", tier=1, hosts=3) as fleet:
        yield fleet


@pytest.fixture
def there(fleet) -> Path:
    return fleet.inventory("there", defaults={"build_on": "target"})


def here(fleet: RealFleet, path: str) -> bool:
    """Whether the controller's store holds a path."""
    return fleet.controller("nix-store", "--check-validity", path, check=False).returncode == 0


def current(fleet: RealFleet) -> dict[str, str]:
    return {name: host.current for name, host in fleet.hosts.items()}


def test_a_build_that_fails_shows_its_log_and_touches_nobody(fleet, there):
    before = current(fleet)
    fleet.configure("n2", files={"both": "a file", "both/and": "a folder"})
    done = fleet.deploy("apply", there, "--yes")
    fleet.configure("n2", files=None)
    said = done.stdout + done.stderr
    assert done.returncode == 3, said
    assert "n2's system was not built on n2: " in said
    assert BUILDER in said
    assert "on n2: nix log /nix/store/" in said
    drv = said.partition("on n2: nix log ")[2].split()[0]
    assert BUILDER in fleet.on("n2", f"nix --extra-experimental-features nix-command log {drv}")
    assert current(fleet) == before
    assert {name: host.generation for name, host in fleet.hosts.items()} == dict.fromkeys(fleet.hosts, 1)


def test_each_host_builds_its_own_and_the_controller_never_holds_it(fleet, there):
    wanted = {name: fleet.toplevel(name) for name in fleet.hosts}
    done = fleet.deploy("apply", there, "--yes", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["outcome"] == "converged"
    assert current(fleet) == wanted
    assert not any(here(fleet, path) for path in wanted.values())
    assert all(host.run(f"readlink {KEPT}") == wanted[name] for name, host in fleet.hosts.items())
    assert "n2: built " in done.stderr


def test_again_there_is_nothing_to_do(fleet, there):
    done = fleet.deploy("apply", there, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert {host["state"] for host in json.loads(done.stdout)["hosts"]} == {"unchanged"}
    assert "built 1 derivation" not in done.stderr


def test_what_was_built_is_kept_until_it_is_activated(fleet, there):
    """A plan builds, because it tells what the change will be; garbage is collected before the apply."""
    fleet.configure("n1", packages={"kept": "1.0"})
    wanted = fleet.toplevel("n1")
    plan = fleet.directory / "kept.json"
    done = fleet.deploy("plan", there, "--on", "n1", "-o", plan)
    assert done.returncode == 0, done.stderr
    fleet.on("n1", "nix-collect-garbage")
    assert fleet.hosts["n1"].has(wanted)
    done = fleet.deploy("apply", plan, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet.hosts["n1"].current == wanted
    assert not here(fleet, wanted)


def test_the_command_line_moves_one_run_there_and_a_saved_plan_remembers_what_was_built(fleet):
    inventory = fleet.inventory("here")
    fleet.configure("n1", packages={"moved": "1.0"})
    wanted = fleet.toplevel("n1")
    plan = fleet.directory / "moved.json"
    done = fleet.deploy("plan", inventory, "--on", "n1", "--build-on", "target", "-o", plan)
    assert done.returncode == 0, done.stderr
    done = fleet.deploy("apply", plan, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet.hosts["n1"].current == wanted
    assert not here(fleet, wanted)


def test_a_user_who_becomes_root_by_sudo_can_build_too(fleet):
    needs.require(tier=1, sudo=True)
    inventory = fleet.inventory("deploy", hosts=["n3"], user="deploy", defaults={"build_on": "target"})
    fleet.configure("n3", packages={"sudo-built": "1.0"})
    wanted = fleet.toplevel("n3")
    done = fleet.deploy("apply", inventory, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet.hosts["n3"].current == wanted
    assert not here(fleet, wanted)


def test_a_host_without_a_link_does_not_sink_the_others(fleet, there):
    fleet.configure("n2", packages={"alone": "1.0"})
    fleet.configure("n3", packages={"alone": "1.0"})
    wanted, before = fleet.toplevel("n2"), current(fleet)
    fleet.hosts["n3"].cut()
    try:
        done = fleet.deploy("apply", there, "--yes", "--skip-unreachable", "--max-failures", "1")
    finally:
        fleet.hosts["n3"].mend()
    assert done.returncode == 4, done.stdout + done.stderr
    assert fleet.hosts["n2"].current == wanted
    assert fleet.hosts["n3"].current == before["n3"]
