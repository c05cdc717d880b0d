"""``deploy plan --diff`` on real hosts: packages, sizes and what must travel, held against what nix itself says."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.real.bed import needs
from tests.real.bed.fleet import HostOptions, RealFleet, real_fleet

pytestmark = pytest.mark.timeout(170)

MIB = 1024**2


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[RealFleet]:
    needs.require(tier=1)
    kinds = {"n2": HostOptions(daemon=True), "n3": HostOptions(boot="1m")}
    with real_fleet(tmp_path_factory.mktemp("plandiff") / "b", tier=1, hosts=3, per_host=kinds) as fleet:
        yield fleet


def planned(fleet: RealFleet, *hosts: str, **options: Any) -> dict[str, Any]:
    done = fleet.deploy("plan", fleet.inventory("plan", hosts=hosts, **options), "--diff", "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def rows(plain: dict[str, Any], host: str) -> dict[str, dict[str, Any]]:
    (changes,) = [each["changes"] for each in plain["differences"] if host in each["hosts"]]
    return {row["name"]: row for row in changes["packages"]}


def lacks(fleet: RealFleet, host: str, system: str) -> tuple[int, int]:
    """How many paths of a closure a host lacks, and their size: by asking about each path on its own."""
    paths = fleet.controller("nix-store", "--query", "--requisites", system).stdout.split()
    sizes = fleet.controller("nix-store", "--query", "--size", *paths).stdout.split()
    missing = [int(size) for path, size in zip(paths, sizes, strict=True) if not fleet.hosts[host].has(path)]
    return len(missing), sum(missing)


def test_what_a_host_runs_is_asked_of_it_where_this_machine_never_had_it(fleet):
    plain = planned(fleet, "n1", "n2")
    assert rows(plain, "n1")["htop"]["fate"] == "added"
    for host in plain["hosts"]:
        sizes = host["sizes"]
        assert sizes["unknown"] == ""
        assert 0 < sizes["before"] < sizes["after"]
        assert (sizes["paths"], sizes["travels"]) == lacks(fleet, host["host"], host["target"])


def test_after_an_apply_the_difference_is_what_nix_says_it_is(fleet):
    done = fleet.deploy("apply", fleet.inventory("plan", hosts=["n1", "n2"]), "--yes")
    assert done.returncode == 0, done.stderr
    fleet.configure(packages={"htop": "3.9.1", "added": "1.0"}, sizes={"added": 3 * MIB, "htop": MIB})
    plain = planned(fleet, "n1", "n2")
    made = rows(plain, "n1")
    assert (made["htop"]["fate"], made["htop"]["new"]) == ("changed", ["3.9.1"])
    assert made["added"]["delta"] >= 3 * MIB
    assert [each["hosts"] for each in plain["differences"]] == [["n1", "n2"]]
    (host,) = [each for each in plain["hosts"] if each["host"] == "n1"]
    said = fleet.controller("nix", "store", "diff-closures", host["current"], host["target"]).stdout
    said = re.sub(r"\x1b\[[0-9;]*m", "", said)
    named = {line.partition(":")[0] for line in said.splitlines() if "→" in line}
    assert {name for name, row in made.items() if row["fate"] != "rebuilt"} == named
    assert (host["sizes"]["paths"], host["sizes"]["travels"]) == lacks(fleet, "n1", host["target"])


def test_nobody_needs_to_be_root_to_say_what_is_missing(fleet):
    """Where a nix-daemon runs, that is, as on every NixOS; elsewhere a gap is left, and the reason said."""
    (host,) = planned(fleet, "n2", user="deploy")["hosts"]
    assert host["sizes"]["paths"] == lacks(fleet, "n2", host["target"])[0] > 0
    (host,) = planned(fleet, "n1", user="deploy")["hosts"]
    assert host["sizes"]["paths"] is None
    assert re.search(r"n1 cannot say .* \(error: .* (denied|not permitted)\)$", host["sizes"]["unknown"])


def test_what_was_said_to_travel_is_there_after_the_apply(fleet):
    before = planned(fleet, "n1")["hosts"][0]
    assert before["sizes"]["paths"] > 0
    done = fleet.deploy("apply", fleet.inventory("plan", hosts=["n1"]), "--yes")
    assert done.returncode == 0, done.stderr
    assert lacks(fleet, "n1", before["target"]) == (0, 0)
    after = planned(fleet, "n1")
    assert after["differences"] == []
    assert after["hosts"][0]["sizes"]["paths"] == 0


@pytest.mark.parametrize(
    ("settings", "kind", "reason"),
    [
        ({"files": {"motd": "x\n"}}, "live", "no kernel, systemd or node unit changes"),
        ({"dbus": "1.17"}, "live", "no kernel, systemd or node unit changes"),
        ({"initInterface": "systemd 9"}, "reboot", "init interface: systemd 2 -> systemd 9"),
        ({"kernelParams": ["quiet"]}, "reboot", "kernel parameters: "),
        ({"systemd": "258"}, "reboot", "systemd: "),
    ],
)
def test_a_real_systems_parts_decide_its_class(fleet, settings, kind, reason):
    before = (fleet.flake / "hosts/n2.json").read_text()
    fleet.configure("n2", **settings)
    try:
        (host,) = planned(fleet, "n2")["hosts"]
    finally:
        (fleet.flake / "hosts/n2.json").write_text(before)
    assert host["change"]["kind"] == kind
    assert any(each.startswith(reason) for each in host["change"]["reasons"])


def test_a_boot_partition_without_room_is_found_before_anything_is_touched(fleet):
    before = fleet.hosts["n3"].current
    fleet.configure("n3", kernel="6.13.1", sizes={"kernel": 2 * MIB, "initrd": 3 * MIB})
    done = fleet.deploy("apply", fleet.inventory("full", hosts=["n3"]), "--yes")
    assert done.returncode == 3, done.stderr
    assert re.search(r"/boot of n3 has \d+ KiB free, and the new system needs 5\.0 MiB there", done.stderr)
    assert "nix-collect-garbage --delete-older-than 14d" in done.stderr
    assert fleet.hosts["n3"].current == before
