"""The nixos-rebuild activator against real hosts, with a script that does what nixos-rebuild-ng does for these options.

The real program needs a real NixOS closure of itself; that it takes these options is held by golden invocations.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.bed import needs
from tests.real.bed.fleet import RealFleet, real_fleet
from tests.real.bed.host import RealHost

pytestmark = pytest.mark.timeout(170)

STAND_IN = """\
#!/bin/sh
# VERB --store-path P --target-host H [--sudo] --no-reexec: the steps of nixos-rebuild-ng, over real ssh.
set -eu
verb=$1 sudo= reexec=yes
shift
while [ $# -gt 0 ]; do
  case $1 in
  --store-path) path=$2 && shift ;;
  --target-host) host=$2 && shift ;;
  --sudo) sudo="sudo -n" ;;
  --no-reexec) reexec=no ;;
  *) echo "nixos-rebuild: error: unrecognized arguments: $1" >&2 && exit 2 ;;
  esac
  shift
done
[ $reexec = no ] || { echo "would build itself from the flake first" >&2 && exit 2; }
remote() { ssh $NIX_SSHOPTS "$host" -- "$@"; }
nix-copy-closure --to "$host" "$path"
remote test -f "$path/nixos-version"
case $verb in switch | boot) remote $sudo nix-env -p /nix/var/nix/profiles/system --set "$path" ;; esac
remote test -d /run/systemd/system
exec ssh $NIX_SSHOPTS "$host" -- $sudo systemd-run -E NIXOS_INSTALL_BOOTLOADER=0 --collect --no-ask-password --pipe \
  --quiet --service-type=exec --unit=nixos-rebuild-switch-to-configuration "$path/bin/switch-to-configuration" "$verb"
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[RealFleet]:
    needs.require(2)
    with real_fleet(tmp_path_factory.mktemp("rebuild") / "b", tier=2, hosts=1) as fleet:
        program = fleet.directory / "nixos-rebuild"
        program.write_text(STAND_IN)
        program.chmod(0o755)
        fleet.environment["NIXKUBE_NIXOS_REBUILD"] = str(program)
        yield fleet


@pytest.fixture
def n1(fleet) -> RealHost:
    return fleet.hosts["n1"]


@pytest.fixture
def inventory(fleet) -> Path:
    return fleet.inventory("rebuild", defaults={"activation": "nixos-rebuild"})


def change(fleet: RealFleet, version: str, **settings: object) -> str:
    fleet.configure("n1", activation=None)
    fleet.configure("n1", packages={"changed": version}, **settings)
    return fleet.toplevel("n1")


def test_its_limits_are_in_the_plan_and_a_switch_goes_well(fleet, n1, inventory):
    wanted = change(fleet, "1")
    plan = fleet.deploy("plan", inventory).stdout
    assert "risk: nixos-rebuild arms nothing on the host" in plan
    assert "risk: nixos-rebuild's unit cannot be joined again" in plan
    done = fleet.deploy("apply", inventory, "--yes")
    assert done.returncode == 0, done.stderr
    assert n1.current == n1.profile == wanted


def test_a_trial_and_a_next_boot_leave_what_they_should(fleet, n1, inventory):
    before, tried = n1.current, change(fleet, "2")
    done = fleet.deploy("apply", inventory, "--yes", "--mode", "test")
    assert done.returncode == 0, done.stderr
    assert (n1.current, n1.profile) == (tried, before)
    wanted = change(fleet, "3")
    done = fleet.deploy("apply", inventory, "--yes", "--mode", "boot")
    assert done.returncode == 0, done.stderr
    assert (n1.current, n1.profile) == (tried, wanted)
    assert fleet.deploy("apply", inventory, "--yes").returncode == 0
    assert n1.current == wanted


def test_what_its_switch_ends_with_comes_through_and_the_host_is_taken_back(fleet, n1, inventory):
    before = n1.current
    change(fleet, "4", activation={"exit": 2})
    done = fleet.deploy("apply", inventory, "--yes")
    assert done.returncode == 5, done.stderr
    assert "exit code 2" in done.stderr
    assert (n1.current, n1.profile) == (before, before)
