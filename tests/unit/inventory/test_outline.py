"""The names in an inventory, whatever state it is in."""

import pytest

from nixkube_deploy.inventory.outline import Outline, outline

FLEET = """\
defaults: {labels: {site: home}}
groups:
  workers: {labels: {zone: no}}
hosts:
  w1: {groups: [workers, fast]}
  w2:
  "7": {labels: {rack: 1}}
"""


def test_hosts_with_their_groups_groups_and_labels_are_named(tmp_path):
    (tmp_path / "fleet.yaml").write_text(FLEET)
    assert outline(tmp_path / "fleet.yaml") == Outline(
        hosts={"w1": "workers fast", "w2": "", "7": ""},
        groups=("workers",),
        labels=("rack=1", "site=home", "zone=no"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "hosts: [",
        "#!/bin/sh\necho\n",
        "- " * 50_000,
        "[" * 50_000,
        "hosts: 1",
        "hosts: {a: 1, a: 2}",
        "a: \x00",
    ],
)
def test_what_is_no_inventory_names_nothing(text, tmp_path):
    (tmp_path / "fleet.yaml").write_text(text)
    assert outline(tmp_path / "fleet.yaml") in (None, Outline(hosts={}))


def test_what_cannot_be_read_names_nothing(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"hosts: {\xff: 1}")
    for path in (tmp_path, tmp_path / "none", tmp_path / "latin.yaml"):
        assert outline(path) is None
