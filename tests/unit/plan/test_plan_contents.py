"""What changes inside closures, as people read it. ``UPDATE_GOLDEN=1`` rewrites the expected text."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from nixkube_deploy.model.graph_codec import plan_from_plain, plan_to_plain
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.model.packages import ClosureSizes, HostDifference
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.explain import describe
from nixkube_deploy.plan.packages import host_difference
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.rollout import rollout
from tests.builders import a_flake, a_fleet, closures_for, facts_for, store_path

GOLDEN = Path(__file__).parents[2] / "golden" / "plan" / "packages.txt"
MIB = 1024**2

BEFORE = """
glibc-2.40-66=30 bash-5.2p37=2 linux-6.12.7=14 linux-6.12.7-modules=110 initrd-linux-6.12.7=25 openssl-3.0.14=6
openssl-3.0.14-bin=1 openssl-1.1.1w=5 python3-3.12.8=90 nano-8.2=3 k3s-1.31.4=71 etc=0.01 system-path=0.01
a-package-with-a-very-long-name-indeed-1=1 unit-k3s.service=0.002 keeps-1=40
"""
AFTER = """
glibc-2.40-66=30.5 bash-5.3=2.1 linux-6.12.8=14 linux-6.12.8-modules=112 initrd-linux-6.12.8=25 openssl-3.0.15=6
openssl-3.0.15-bin=1 python3-3.12.8=90 python3-3.13.1=95 micro-2.0.14=4 k3s-1.31.5=72 etc=0.01 system-path=0.01
a-package-with-a-very-long-name-indeed-2=1 unit-k3s.service=0.002 unit-new.service=0.002 keeps-1=40
"""
REBUILT = " ".join(f"lib{letter}-1=1" for letter in "abcdefghijklmnop")


def closure(text: str, salt: str = "") -> dict[StorePath, int]:
    """``name=MiB`` for each path; what keeps its name keeps its path only if it is called so."""
    paths = (word.rpartition("=") for word in text.split())
    return {store_path(n, "" if n.startswith("keeps") else salt): int(float(mib) * MIB) for n, _, mib in paths}


def a_difference(old: str, new: str, **unknown: str) -> HostDifference:
    before, after = closure(old, "old"), closure(new, "new")
    missing = [path for path in after if path not in before] if not unknown else None
    return host_difference(before, after, missing, **unknown)


def scene() -> Plan:
    fleet = a_fleet("cp1 | w1..w7")
    alike = a_difference(f"{BEFORE} {REBUILT}", f"{AFTER} {REBUILT}")
    more = a_difference(f"{BEFORE} {REBUILT} keeps-2=900", f"{AFTER} {REBUILT} keeps-2=900")
    differences = {
        "cp1": a_difference("k3s-1.31.4=71 keeps-1=40", "k3s-1.31.5=72 keeps-1=40"),
        "w1": alike,
        "w2": alike,
        "w3": alike,
        "w4": more,
        "w5": a_difference(
            "htop-3=1 keeps-1=40", "htop-4=1 keeps-1=40", unknown="what must travel is not known: w5 does not answer"
        ),
        "w6": HostDifference(sizes=ClosureSizes(unknown="sizes are not known: nix cannot say")),
        "w7": host_difference(closure("keeps-1=40"), closure("keeps-1=40"), ()),
    }
    facts, closures = facts_for(fleet), closures_for(fleet, changed="w1..w4=reboot cp1 w5=live w6=live")
    named = {HostName(name): difference for name, difference in differences.items()}
    return rollout(fleet, Prepared(flake=a_flake(), facts=facts, closures=closures, differences=named), Choices())


def test_packages_read_as_they_should():
    text = describe(scene())
    shown = text[text.index("Packages") : text.index("Budgets")]
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(shown)
    assert shown == GOLDEN.read_text()


def test_a_plan_that_looked_into_nothing_says_nothing_of_packages():
    fleet = a_fleet("w1")
    prepared = Prepared(flake=a_flake(), facts=facts_for(fleet), closures=closures_for(fleet, changed="w1"))
    plan = rollout(fleet, prepared, Choices())
    assert "Packages" not in describe(plan)
    assert plan.differences == ()
    assert plan.hosts[0].sizes is None


def test_hosts_that_change_alike_are_one_table_in_the_data_too():
    plan = scene()
    assert [shared.hosts for shared in plan.differences] == [("cp1",), ("w1", "w2", "w3", "w4"), ("w5",)]
    assert plan_from_plain(plan_to_plain(plan)) == plan


def test_a_plan_of_before_closures_were_looked_into_can_be_read():
    plain = plan_to_plain(scene())
    del plain["differences"]
    for host in plain["hosts"]:
        del host["sizes"]
    assert plan_from_plain(plain).differences == ()


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        (ClosureSizes(after=40 * MIB), "w1: closure 40 MiB"),
        (ClosureSizes(before=10 * MIB, after=40 * MIB, paths=0, travels=0), "(+30 MiB); nothing must travel"),
        (None, "w1:"),
    ],
)
def test_what_is_known_of_a_closure_is_said(sizes, shown):
    fleet = a_fleet("w1")
    difference = a_difference("htop-3=1 tool-1=1 tool-2=1 lib-1=1", "htop-4=1 tool-2=1 lib-1=1 lib-2=1")
    facts, closures = facts_for(fleet), closures_for(fleet, changed="w1=live")
    prepared = Prepared(flake=a_flake(), facts=facts, closures=closures, differences={HostName("w1"): difference})
    plan = rollout(fleet, prepared, Choices())
    text = describe(replace(plan, hosts=tuple(replace(host, sizes=sizes) for host in plan.hosts)))
    assert shown in text
    assert "no longer 1" in text
    assert "also 2" in text
