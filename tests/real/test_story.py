"""A fleet's life, told through the command line only: bring-up, a change, the same again, and back.

What the product says is held against what each host itself says; no step looks at the product's own state.
"""

import json
import re

import pytest

from tests.real.bed import needs
from tests.real.bed.fleet import RealFleet, real_fleet

FIRST = {"kernel": "6.12.7"}
"""What hosts run before the bring-up: an older kernel, so that the bring-up ends in a reboot."""


def deploy(fleet: RealFleet, *arguments, code: int = 0) -> str:
    done = fleet.deploy(*arguments)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def plan(fleet: RealFleet, inventory, *options: str, code: int = 2) -> dict[str, str]:
    """Host to the class of its change."""
    told = json.loads(deploy(fleet, "plan", inventory, "--json", "--detailed-exitcode", *options, code=code))
    return {host["host"]: host["change"]["kind"] for host in told["hosts"]}


def stands(fleet: RealFleet, systems: dict[str, str], generation: int) -> None:
    """Every host runs this, will boot this, and counts it as this generation; nix-env and the links agree."""
    profile = "/nix/var/nix/profiles/system"
    look = f"""
    readlink -f /run/current-system; readlink -f {profile}; readlink -f {profile}-{generation}-link
    nix-env -p {profile} --list-generations | grep current
    cat /boot/loader/loader.conf; systemctl is-system-running --wait
    systemctl list-units --failed --plain --no-legend --no-pager
    systemctl list-units --all 'nixkube-deploy-*' --plain --no-legend --no-pager
    """
    for name, seen in fleet.everywhere(look).items():
        system = systems[name]
        expected = rf"({system}\n){{3}} *{generation} .*\(current\)\n"
        expected += rf"timeout 5\ndefault nixos-generation-{generation}.conf\nrunning"
        assert re.fullmatch(expected, seen), f"{name}:\n{seen}"


@pytest.mark.parametrize(("tier", "hosts"), [(1, 10), (2, 3)], ids=["tier 1, 10 hosts", "tier 2, 3 hosts"])
def test_bring_up_change_nothing_to_do_and_back(tier, hosts, tmp_path):
    needs.require(tier)
    with real_fleet(tmp_path / "bed", tier=tier, hosts=hosts, initial=FIRST) as fleet:
        everyone = list(fleet.hosts)
        inventory = fleet.inventory()
        boots = {name: host.boot_id for name, host in fleet.hosts.items()}
        first = {name: host.current for name, host in fleet.hosts.items()}

        # Bring-up, from a store that holds nothing but what the host runs.
        assert plan(fleet, inventory) == dict.fromkeys(everyone, "reboot")
        stands(fleet, first, 1)
        deploy(fleet, "apply", inventory, "--yes")
        installed = fleet.toplevels()
        stands(fleet, installed, 2)
        assert all(host.booted == installed[name] for name, host in fleet.hosts.items())
        assert all(host.boot_id != boots[name] for name, host in fleet.hosts.items())
        boots = {name: host.boot_id for name, host in fleet.hosts.items()}
        assert len(set(installed.values())) == hosts

        # One file of the flake changes.
        fleet.configure(packages={"htop": "3.5.0"}, sizes={"htop": 300_000})
        changed = fleet.toplevels()
        told = deploy(fleet, "plan", inventory, "--diff")
        assert re.search(r"^ +htop +3\.4\.1 -> 3\.5\.0 +\+29\d KiB$", told, re.MULTILINE), told
        assert plan(fleet, inventory) == dict.fromkeys(everyone, "live")
        stands(fleet, installed, 2)
        deploy(fleet, "apply", inventory, "--yes")
        stands(fleet, changed, 3)
        assert fleet.everywhere("/run/current-system/sw/bin/htop") == dict.fromkeys(everyone, "htop 3.5.0")

        # The same again.
        assert plan(fleet, inventory, code=0) == dict.fromkeys(everyone, "unchanged")
        report = json.loads(deploy(fleet, "apply", inventory, "--yes", "--json"))
        assert {host["state"] for host in report["hosts"]} == {"unchanged"}
        stands(fleet, changed, 3)

        # Back to what each host ran before the change, under the number it had.
        deploy(fleet, "rollback", inventory, "--yes")
        stands(fleet, installed, 2)
        for name, host in fleet.hosts.items():
            assert host.generations == {1: first[name], 2: installed[name], 3: changed[name]}
            assert host.boot_id == boots[name], "neither the change nor the way back rebooted anything"
        one = fleet.hosts["n1"]
        one.reboot()
        assert one.booted == one.current == installed["n1"]
