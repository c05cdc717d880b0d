"""What ``--diff`` asks: the store once for all, each host at most once, and nobody when nothing can come of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from nixkube_deploy.app.compare import differences
from nixkube_deploy.model.building import BuildOn
from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.model.packages import HostDifference, StoredPath
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.ports.closures import HostStore
from tests.builders import a_failure, a_flake, a_fleet, closures_for, facts_for, store_path
from tests.fakes.shell import FakeShell
from tests.unit.app.worlds import a_world

GLIBC, OLD, NEW = store_path("glibc-2.40"), store_path("k3s-1.31.4"), store_path("k3s-1.31.5")


@dataclass
class FakeClosures:
    """Stores in memory. ``here`` is what the controller has, ``there`` what each host has."""

    here: dict[StorePath, StoredPath] = field(default_factory=dict)
    there: dict[str, dict[StorePath, int]] = field(default_factory=dict)
    broken: Collection[str] = ()
    asked_here: list[frozenset[StorePath]] = field(default_factory=list)
    asked_there: list[tuple[str, frozenset[StorePath], StorePath | None]] = field(default_factory=list)

    async def stored(self, systems: Collection[StorePath]) -> Mapping[StorePath, StoredPath]:
        self.asked_here.append(frozenset(systems))
        if frozenset(self.broken) & frozenset(systems):
            raise task_error(FailureKind.COMMAND, "path is not valid")
        return self.here

    async def on_host(self, host: Host, wanted: Collection[StorePath], running: StorePath | None = None) -> HostStore:
        self.asked_there.append((host.name, frozenset(wanted), running))
        if host.name in self.broken:
            raise task_error(FailureKind.COMMAND, f"{host.name} cannot say")
        has = self.there.get(host.name, {})
        return HostStore(missing=frozenset(wanted) - has.keys(), running=has if running in has else None)


class Scene:
    """Three workers of which two change; every old and new system is in the controller's store."""

    def __init__(self, changed: str = "w1 w2", *, bare: str = "") -> None:
        self.fleet = a_fleet("w1..w3")
        self.facts, self.targets = facts_for(self.fleet, bare=bare), closures_for(self.fleet, changed=changed)
        self.closures = FakeClosures()
        here = self.closures.here
        here |= {GLIBC: StoredPath(size=30), OLD: StoredPath(size=70), NEW: StoredPath(size=72)}
        for name in self.fleet.hosts:
            here[self.new(name)] = StoredPath(size=2, references=(NEW, GLIBC))
            if name not in bare.split():
                self.closures.there[name] = {self.old(name): 1, OLD: 70, GLIBC: 30}
                here[self.old(name)] = StoredPath(size=1, references=(OLD, GLIBC))
        self.said: list[str] = []
        self.problems: dict[HostName, object] = {}

    def old(self, name: str) -> StorePath:
        current = self.facts[HostName(name)].current
        assert current is not None
        return current.path

    def new(self, name: str) -> StorePath:
        return self.targets[HostName(name)].out

    async def differences(self) -> Mapping[HostName, HostDifference]:
        prepared = Prepared(flake=a_flake(), facts=self.facts, closures=self.targets, problems=self.problems)
        world = a_world(self.fleet, FakeShell(), closures=self.closures)
        return await differences(world, prepared, self.said.append)


async def test_the_store_is_asked_once_and_hosts_only_about_what_they_may_lack():
    scene = Scene()
    found = await scene.differences()
    assert len(scene.closures.asked_here) == 1
    assert sorted(scene.closures.asked_there) == [
        ("w1", {scene.new("w1"), NEW}, None),
        ("w2", {scene.new("w2"), NEW}, None),
    ]
    sizes = found["w1"].sizes
    assert (sizes.before, sizes.after, sizes.paths, sizes.travels) == (101, 104, 2, 74)
    assert [(row.name, row.old, row.new) for row in found["w1"].changes.packages] == [("k3s", ("1.31.4",), ("1.31.5",))]
    assert found["w1"].changes == found["w2"].changes
    assert (found["w3"].sizes.paths, found["w3"].changes.packages) == (0, ())
    assert scene.said == ["compared closures; asked 2 of 3 hosts what they lack"]


async def test_what_a_host_has_already_does_not_travel():
    scene = Scene("w1")
    scene.closures.there["w1"][NEW] = 72
    assert (await scene.differences())["w1"].sizes.paths == 1


async def test_a_running_system_that_is_not_here_is_asked_of_its_host_in_the_same_round_trip():
    scene = Scene("w1")
    del scene.closures.here[scene.old("w1")]
    found = await scene.differences()
    assert scene.closures.asked_there == [("w1", {scene.new("w1"), NEW, GLIBC}, scene.old("w1"))]
    sizes = found["w1"].sizes
    assert (sizes.before, sizes.after, sizes.paths) == (101, 104, 2)
    assert [row.name for row in found["w1"].changes.packages] == ["k3s"]


async def test_an_old_system_that_is_half_gone_here_hides_no_new_one():
    scene = Scene("w1")
    scene.closures.broken = {scene.old("w1")}
    await scene.differences()
    assert [scene.old("w1") in asked for asked in scene.closures.asked_here] == [True, False]


async def test_a_host_that_cannot_say_leaves_a_gap_and_nothing_else():
    scene = Scene()
    scene.closures.broken = ["w1"]
    found = await scene.differences()
    assert (found["w1"].sizes.after, found["w1"].sizes.paths) == (104, None)
    assert found["w1"].sizes.unknown == "what must travel is not known: w1 cannot say"
    assert found["w2"].sizes.paths == 2


async def test_a_store_that_cannot_say_leaves_gaps_for_all():
    scene = Scene("w1")
    scene.closures.broken = {scene.new("w1")}
    scene.closures.here.clear()
    found = await scene.differences()
    assert found["w1"].sizes.unknown == "sizes are not known: path is not valid"
    assert scene.closures.asked_there == []


async def test_everything_travels_to_a_machine_that_is_wiped_and_nobody_asks_it():
    scene = Scene("w1=install", bare="w1")
    sizes = (await scene.differences())["w1"].sizes
    assert (sizes.before, sizes.after, sizes.paths, sizes.travels) == (None, 104, 3, 104)
    assert scene.closures.asked_there == []


async def test_a_specialisation_is_compared_as_part_of_its_system():
    scene = Scene("w1")
    facts = scene.facts[HostName("w1")]
    system = store_path("nixos-system-w1-25.05")
    scene.closures.here[system] = StoredPath(size=5, references=(OLD, GLIBC, scene.old("w1")))
    scene.facts[HostName("w1")] = replace(facts, profile=system, specialisations=(scene.old("w1"),))
    assert (await scene.differences())["w1"].sizes.before == 106


async def test_hosts_with_problems_are_left_alone():
    scene = Scene()
    scene.problems = {HostName("w1"): a_failure()}
    assert set(await scene.differences()) == {"w2", "w3"}


async def test_what_a_host_builds_itself_does_not_travel():
    scene = Scene("w1")
    host = scene.fleet.hosts[HostName("w1")]
    scene.fleet = replace(
        scene.fleet, hosts={**scene.fleet.hosts, HostName("w1"): replace(host, build_on=BuildOn.TARGET)}
    )
    del scene.closures.here[scene.new("w1")]
    sizes = (await scene.differences())["w1"].sizes
    assert (sizes.paths, sizes.unknown) == (0, "built on the host itself")
    assert scene.closures.asked_there == []
