"""The inventories that people read first."""

from pathlib import Path

import pytest

from nixkube_deploy.inventory.load import load_fleet
from nixkube_deploy.inventory.select import select
from nixkube_deploy.model.strategy import Limit, Mode

INVENTORIES = Path(__file__).parents[3] / "inventories"


def test_the_homelab_has_three_nodes_and_one_pi() -> None:
    fleet = load_fleet(INVENTORIES / "homelab.yaml").fleet

    assert len(fleet.hosts) == 3
    assert select("system=aarch64-linux", fleet) == {"pi1"}
    assert fleet.groups["workers"].members == ("nuc1", "pi1")


def test_the_lab_has_twelve_hosts_in_three_zones() -> None:
    fleet = load_fleet(INVENTORIES / "lab.yaml").fleet

    assert list(fleet.hosts) == ["cp1", "cp2", "cp3", *(f"w{n}" for n in range(1, 10))]
    assert [len(select(f"zone={zone}", fleet)) for zone in "abc"] == [4, 4, 4]
    assert (fleet.strategy.canary, fleet.strategy.max_unavailable) == (1, Limit(25, percent=True))
    assert fleet.strategy.mode is Mode.ROLLING
    assert fleet.flake == str(INVENTORIES.parent / "flakes" / "lab")


def test_the_fleet_has_a_hundred_hosts() -> None:
    fleet = load_fleet(INVENTORIES / "fleet.yaml").fleet

    assert len(fleet.hosts) == 100
    assert len(select("role=control-plane", fleet)) == 3
    assert len({host.labels["zone"] for host in fleet.hosts.values()}) == 3


@pytest.mark.parametrize("path", sorted(INVENTORIES.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_names_the_schema_that_stands_beside_it(path: Path) -> None:
    first = path.read_text().splitlines()[0]

    assert first == "# yaml-language-server: $schema=inventory.schema.json"
    assert (path.parent / first.partition("=")[2]).is_file()
