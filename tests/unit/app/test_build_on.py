"""Where systems are built: on the controller, on their hosts, and what becomes of those that cannot."""

from dataclasses import dataclass, field, replace

import anyio
import pytest
from trio.testing import MockClock

from nixkube_deploy.app.lastseen import LastSeen
from nixkube_deploy.app.prepare import prepare
from nixkube_deploy.app.target import AT_ONCE
from nixkube_deploy.model.building import BuildOn
from nixkube_deploy.model.closure import Closure, Evaluated, FlakeState
from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.facts import SystemContents
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Activator, Fleet, Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.nix import Built, Evaluation
from nixkube_deploy.ports.shell import CommandResult
from nixkube_deploy.protocols import probe, script
from tests.builders import a_fleet, a_host, store_path
from tests.fakes.shell import FakeShell
from tests.unit.app.worlds import a_world


@dataclass
class Nix:
    """Evaluates and builds whatever it is asked for, and remembers where."""

    breaks: frozenset[str] = frozenset()
    takes: float = 0.0
    here: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    installs: set[str] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0

    async def evaluate(self, flake, hosts, on_line=None) -> Evaluation:
        found = {host.name: an_evaluated(host.name) for host in hosts}
        return Evaluation(flake=FlakeState(url=flake, revision="1"), hosts=found)

    async def build(self, flake, wanted, installs, on_line=None) -> Built:
        self.here += [one.host for one in wanted]
        self.installs |= installs
        contents = {one.host: SystemContents(path=one.out) for one in wanted}
        closures = {
            one.host: Closure(host=one.host, drv=one.drv, contents=contents[one.host], system=one.system)
            for one in wanted
        }
        return Built(closures=closures)

    async def build_on(self, host, one, on_line=None) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await anyio.sleep(self.takes)
        self.at_once -= 1
        self.there.append(host.name)
        if host.name in self.breaks:
            raise task_error(FailureKind.BUILD, f"{host.name} is ill")


def an_evaluated(name: str) -> Evaluated:
    out = store_path(f"nixos-system-{name}")
    return Evaluated(host=HostName(name), drv=f"{out}.drv", out=out, system="x86_64-linux")


def answering(running: dict[str, str] | None = None, bare: frozenset[str] = frozenset()) -> FakeShell:
    """Hosts that answer probes: what they run, and what a system in their store is made of."""

    def answer(host, command) -> CommandResult:
        current = (running or {}).get(host.name, store_path("nixos-system-old"))
        values = {"boot_id": "00000000-0000-4000-8000-000000000001", "machine": "x86_64", "os_id": "ID=nixos"}
        values |= {} if host.name in bare else {"current": current, "booted": current}
        values |= {"system": an_evaluated(host.name).out, "system.kernel_params": f"of {host.name}"}
        said = "".join(f"\n@{name}\n{value}\n" for name, value in values.items())
        return CommandResult(exit_code=0, stdout=f"{said}\n@{script.END}\n")

    return FakeShell().answers("sh", "-c", with_=answer)


def hosts(*some: Host) -> Fleet:
    return replace(a_fleet("workers: w0"), hosts={host.name: host for host in some})


def a_target_fleet(*names: str, **settings) -> Fleet:
    return hosts(*(a_host(name, build_on=BuildOn.TARGET, **settings) for name in names))


async def prepared(fleet: Fleet, nix: Nix, shell: FakeShell):
    said: list[str] = []
    found = await prepare(a_world(fleet, shell, evaluator=nix, store=nix), said.append)
    return found, said


async def test_each_host_is_built_where_the_inventory_says():
    nix = Nix()
    fleet = hosts(a_host("w1"), a_host("w2", build_on=BuildOn.TARGET), a_host("w3"))
    found, said = await prepared(fleet, nix, answering())
    assert nix.here == ["w1", "w3"]
    assert nix.there == ["w2"]
    assert list(found.closures) == ["w1", "w2", "w3"]
    assert found.closures[HostName("w2")].contents.kernel_params == "of w2"
    assert "built 3 of 3 closures" in said


async def test_what_hosts_are_known_to_need_is_built_before_they_answer_and_the_rest_afterwards(tmp_path):
    nix = Nix()
    fleet = hosts(a_host("w1"), a_host("w2"), a_host("w3"), a_host("w4", build_on=BuildOn.TARGET))
    seen = LastSeen(tmp_path, fleet.source)
    seen.note({HostName(name): store_path("nixos-system-older") for name in ("w1", "w4")})
    seen.note({HostName("w2"): an_evaluated("w2").out})
    world = a_world(fleet, answering(), evaluator=nix, store=nix, last_seen=seen)
    found = await prepare(world)
    assert nix.here == ["w1", "w2", "w3"]
    assert nix.there == ["w4"]
    assert list(found.closures) == ["w1", "w2", "w3", "w4"]
    assert seen.read()[HostName("w1")] == store_path("nixos-system-old")


async def test_what_was_built_for_a_host_that_does_not_answer_is_no_part_of_the_plan(tmp_path):
    nix, fleet = Nix(), hosts(a_host("w1"), a_host("w2"))
    seen = LastSeen(tmp_path, fleet.source)
    seen.note({HostName(name): store_path("nixos-system-older") for name in ("w1", "w2")})
    shell = answering()
    shell.unreachable("w1")
    found = await prepare(a_world(fleet, shell, evaluator=nix, store=nix, last_seen=seen))
    assert list(found.closures) == ["w2"]
    assert found.problems[HostName("w1")].kind is FailureKind.UNREACHABLE
    assert sorted(nix.here) == ["w1", "w2"]


async def test_a_machine_that_was_wiped_since_is_built_anew_with_what_an_installation_needs(tmp_path):
    nix, fleet = Nix(), hosts(a_host("w1"))
    seen = LastSeen(tmp_path, fleet.source)
    seen.note({HostName("w1"): store_path("nixos-system-older")})
    await prepare(a_world(fleet, answering(bare=frozenset({"w1"})), evaluator=nix, store=nix, last_seen=seen))
    assert nix.here == ["w1", "w1"]
    assert nix.installs == {"w1"}


async def test_a_host_that_runs_its_system_already_is_not_asked_again():
    nix = Nix()
    out = an_evaluated("w1").out
    found, _ = await prepared(a_target_fleet("w1"), nix, answering(running={"w1": out}))
    assert nix.there == []
    assert found.closures[HostName("w1")].out == out


async def test_a_host_that_fails_does_not_sink_the_others():
    nix = Nix(breaks=frozenset({"w2"}))
    shell = answering()
    shell.unreachable("w3")
    found, _ = await prepared(a_target_fleet("w1", "w2", "w3"), nix, shell)
    assert list(found.closures) == ["w1"]
    assert {name: problem.kind for name, problem in found.problems.items()} == {
        "w2": FailureKind.BUILD,
        "w3": FailureKind.UNREACHABLE,
    }


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual time"])
async def test_hosts_build_side_by_side_but_not_all_at_once():
    nix = Nix(takes=60.0)
    await prepared(a_target_fleet(*(f"w{i}" for i in range(20))), nix, answering())
    assert nix.most_at_once == AT_ONCE


async def test_a_host_that_is_to_be_installed_has_nothing_to_build_on():
    found, _ = await prepared(a_target_fleet("w1"), Nix(), answering(bare=frozenset({"w1"})))
    problem = found.problems[HostName("w1")]
    assert problem.kind is FailureKind.PREFLIGHT
    assert "does not run NixOS yet" in problem.message
    assert "--build-on controller" in problem.next


@pytest.mark.parametrize("activation", [Activator.NIXOS_REBUILD, Activator.DEPLOY_RS])
async def test_activators_that_copy_by_themselves_are_refused(activation):
    nix = Nix()
    found, _ = await prepared(a_target_fleet("w1", activation=activation), nix, answering())
    assert nix.there == []
    problem = found.problems[HostName("w1")]
    assert problem.kind is FailureKind.PREFLIGHT
    assert activation.value in problem.message


async def test_a_path_that_no_store_can_hold_is_not_asked_about():
    shell = answering()
    fleet = a_target_fleet("w1")
    host = fleet.hosts[HostName("w1")]
    evil = replace(an_evaluated("w1"), out="/nix/store/x; reboot").out
    with pytest.raises(Exception, match="has no system at"):
        await probe.system_contents(shell, host, evil, fleet.cluster.distribution)
    assert not any("reboot" in line for line in shell.lines())
