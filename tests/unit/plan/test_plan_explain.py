"""Plans as people read them. ``UPDATE_GOLDEN=1`` rewrites the expected texts; read the difference before committing."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Activator, BootstrapSettings
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.model.strategy import HostPolicy, Limit, Mode, OnFailure, RebootPolicy, Strategy, Window
from nixkube_deploy.plan.explain import describe, dot, mermaid
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.reboot import reboot
from nixkube_deploy.plan.rollback import Earlier, rollback
from nixkube_deploy.plan.rollout import rollout
from tests.builders import a_failure, a_flake, a_fleet, a_system, closures_for, facts_for, store_path, with_hosts

GOLDEN = Path(__file__).parents[2] / "golden" / "plan"


def converged() -> Plan:
    fleet = a_fleet("cp1 cp2 cp3 | w1..w9")
    prepared = Prepared(flake=a_flake(), facts=facts_for(fleet), closures=closures_for(fleet))
    return rollout(fleet, prepared, Choices())


def twelve_hosts() -> Plan:
    """Every class, every kind of host that is left alone."""
    fleet = a_fleet("cp1 cp2 cp3 | w1..w9 | pi: pi1 pi2", strategy=Strategy(spread="zone"), zones="a b c")
    fleet = with_hosts(fleet, "w3", activation=Activator.DEPLOY_RS)
    fleet = with_hosts(fleet, "w4", policy=HostPolicy(reboot=RebootPolicy.NEVER), labels={})
    facts = facts_for(fleet, bare="pi1 pi2", unready="w6", leftover="w7")
    del facts["w8"]
    facts["cp3"] = replace(facts["cp3"], loader="grub")
    facts["w5"] = replace(facts["w5"], booted=a_system("w5", kernel="6.12.1"))
    facts["w9"] = replace(facts["w9"], system="aarch64-linux")
    closures = closures_for(fleet, changed="cp1..cp3=reboot w1 w2 w3=live w4=reboot")
    unreachable = Failure(
        kind=FailureKind.UNREACHABLE,
        message="w8 does not answer",
        expected="SSH on w8.lan:22",
        evidence=("ssh: connect to host w8.lan port 22: No route to host",),
        next="ping w8.lan",
    )
    prepared = Prepared(flake=a_flake(), facts=facts, closures=closures, problems={"w8": unreachable})
    return rollout(fleet, prepared, Choices())


def hundred_hosts() -> Plan:
    window = Window(days=frozenset({5, 6}), start=120, end=360, tz="Europe/Zurich")
    strategy = Strategy(
        mode=Mode.WAVES, max_unavailable=Limit(10, percent=True), windows=(window,), on_failure=OnFailure.HALT
    )
    fleet = a_fleet("cp1 cp2 cp3 | w01..w90 | storage: s1..s7", strategy=strategy)
    facts = facts_for(fleet)
    closures = closures_for(fleet, changed="cp1..cp3=node-restart w01..w60=reboot w61..w80=live s1..s7")
    problems = {}
    for name in ("w85", "w86", "s7"):
        del facts[name]
        problems[name] = a_failure(f"{name} does not answer")
    return rollout(fleet, Prepared(flake=a_flake(), facts=facts, closures=closures, problems=problems), Choices())


def bootstrap() -> Plan:
    settings = BootstrapSettings(disks=("/dev/disk/by-id/nvme-A",), expect_serial="SN-cp1")
    fleet = with_hosts(a_fleet("cp1 | w1 w2 w3"), "cp1 w1", bootstrap=settings)
    fleet = with_hosts(fleet, "w2 w3", bootstrap=BootstrapSettings(disks=("/dev/sda",)))
    closures = closures_for(fleet, changed="cp1=install w1=install w2=install w3=install")
    prepared = Prepared(flake=a_flake(), facts=facts_for(fleet, bare="cp1 w1 w2 w3"), closures=closures)
    return rollout(fleet, prepared, Choices(bootstrap=True))


def back_to_before() -> Plan:
    fleet = a_fleet("cp1 | w1 w2 w3")
    targets = {name: store_path(f"nixos-system-{name}-25.05") for name in ("cp1", "w1", "w2")}
    earlier = {host: Earlier(system=path) for host, path in targets.items()}
    return rollback(fleet, Prepared(flake=a_flake(), facts=facts_for(fleet)), earlier, Choices())


def rolling_reboot() -> Plan:
    fleet = a_fleet("cp1 cp2 cp3 | w1..w5")
    facts = facts_for(fleet)
    for name in ("cp1", "cp2", "w1", "w2", "w3"):
        facts[name] = replace(facts[name], booted=a_system(name, kernel="6.12.1"))
    prepared = Prepared(flake=replace(a_flake(), dirty=True), facts=facts)
    return reboot(fleet, prepared, frozenset({"cp1", "cp2", "w1", "w2", "w3"}), Choices())


SCENES: list[Callable[[], Plan]] = [converged, twelve_hosts, hundred_hosts, bootstrap, back_to_before, rolling_reboot]


@pytest.mark.parametrize(("form", "suffix"), [(describe, "txt"), (mermaid, "mmd"), (dot, "dot")])
@pytest.mark.parametrize("scene", SCENES)
def test_a_plan_reads_as_it_should(scene, form, suffix):
    text, path = form(scene()), GOLDEN / f"{scene.__name__.replace('_', '-')}.{suffix}"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("scene", SCENES)
def test_a_plan_has_no_colour_and_fits_a_screen(scene):
    text = describe(scene())
    assert "\x1b" not in text
    assert len(text.splitlines()) <= 90
    assert text.endswith("\n")


@pytest.mark.parametrize("scene", SCENES)
def test_every_host_is_named_once_in_words(scene):
    plan = scene()
    blocks = describe(plan).split("\n\n")
    named = [block.partition(":")[0] for block in blocks]
    counted = sum(int(n) for n in re.findall(r"\d+(?= (?:re|no|li|un|in|sk|ca))", blocks[0].splitlines()[2]))
    assert counted == len(plan.hosts), named


def test_names_with_quotes_do_not_break_the_diagrams():
    fleet = a_fleet('a"b c<d>&')
    prepared = Prepared(flake=a_flake(), facts=facts_for(fleet), closures=closures_for(fleet, changed='a"b c<d>&'))
    plan = rollout(fleet, prepared, Choices())
    assert "a#quot;b" in mermaid(plan)
    assert "c&lt;d&gt;&amp;" in mermaid(plan)
    assert 'label="a\\"b' in dot(plan)


def test_a_long_list_of_names_without_order_is_wrapped_but_commands_are_not():
    trees = ("amber", "birch", "cedar", "dune", "elm", "fern", "grove", "heath", "iris", "juniper")
    names = " ".join(f"{tree}-node" for tree in trees)
    fleet = a_fleet(names)
    prepared = Prepared(flake=a_flake(), facts=facts_for(fleet, bare=names), closures=closures_for(fleet))
    text = describe(rollout(fleet, prepared, Choices()))
    block = text[text.index("skipped:") :]
    assert block.startswith("skipped: amber-node, birch-node,")
    assert block.splitlines()[1].startswith("        ")
    assert f"--on {names.replace(' ', ',')}" in text
