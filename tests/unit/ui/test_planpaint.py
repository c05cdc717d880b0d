"""Colours of a plan: never other words, and the same class always in the same one."""

from pathlib import Path

import pytest

from nixkube_deploy.ui.planpaint import painted

GOLDEN = Path(__file__).parents[2] / "golden" / "plan"


@pytest.mark.parametrize("name", ["twelve-hosts.txt", "bootstrap.txt", "packages.txt", "rolling-reboot.txt"])
def test_colours_change_no_word(name):
    for line in (GOLDEN / name).read_text().splitlines():
        assert painted(line).plain == line


@pytest.mark.parametrize(
    ("line", "part", "style"),
    [
        ("reboot: w1, w2", "reboot", "bold red"),
        ("cannot be planned: w9", "cannot be planned", "bold red"),
        ("Packages", "Packages", "bold"),
        ("    risk: wipes /dev/sda", "    risk: wipes /dev/sda", "yellow"),
        ("    linux  6.12.7 -> 6.12.8  +2.0 MiB", "+2.0 MiB", "yellow"),
        ("    nano   removed 8.2       -3.0 MiB", "-3.0 MiB", "green"),
        ("    nano   removed 8.2       -3.0 MiB", "removed", "red"),
        ("  w1: closure still 4 MiB; will travel: 1 path, 72 B", "will travel: 1 path, 72 B", "bold"),
    ],
)
def test_what_matters_has_its_colour(line, part, style):
    assert (part, style) in [(line[span.start : span.end], span.style) for span in painted(line).spans]
