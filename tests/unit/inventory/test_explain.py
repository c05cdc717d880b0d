"""Each effective value and where it came from, as text: tests/golden/inventory/explain/HOST.txt."""

import os
from pathlib import Path

import pytest

from nixkube_deploy.inventory.explain import explain, settings
from nixkube_deploy.inventory.load import load_fleet
from nixkube_deploy.model.error import UsageError

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "inventory" / "explain"


@pytest.mark.parametrize(("inventory", "host"), [("homelab", "pi1"), ("homelab", "nuc1"), ("lab", "w1")])
def test_each_value_says_where_it_came_from(inventory: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", "/home/me")

    text = explain(load_fleet(Path(f"inventories/{inventory}.yaml")), host)

    expected = GOLDEN / f"{host}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(text)
    assert text == expected.read_text()


def test_a_value_names_what_it_overrode() -> None:
    text = """
cluster: {name: x}
flake: github:a/b
defaults:
  ssh: {port: 1}
groups:
  cp: {role: control-plane, ssh: {port: 2}}
hosts:
  h: {groups: [cp], ssh: {port: 3}, privilege_password: {env: PW}}
"""
    rows = {row.name: row for row in settings(load_fleet("x.yaml", text=text), "h")}

    assert rows["ssh.port"].value == "3"
    assert rows["ssh.port"].origin == "host, x.yaml:9; over 2 of group cp, x.yaml:7; over 1 of defaults, x.yaml:5"
    assert rows["privilege_password"].value == '{"env": "PW"}'
    assert rows["bootstrap"].value == "-"


def test_a_jump_that_was_dropped_says_why() -> None:
    text = """
cluster: {name: x}
flake: github:a/b
defaults: {ssh: {jump: h}}
groups: {cp: {role: control-plane}}
hosts:
  h: {groups: [cp]}
"""
    rows = {row.name: row for row in settings(load_fleet("x.yaml", text=text), "h")}

    assert rows["ssh.jump"].value == "-"
    assert rows["ssh.jump"].origin.startswith("the jump host itself, x.yaml:4; over h of defaults")


def test_an_unknown_host_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there is no host `pi9`"):
        explain(load_fleet(ROOT / "inventories" / "homelab.yaml"), "pi9")
