"""What comes right before a switch, and what becomes of one that turns out to need a reboot."""

from typing import Any, cast

import pytest
from trio.testing import MockClock

from nixkube_deploy.app.hostlocks import HostLocks
from nixkube_deploy.app.nodes import NodeDirectory
from nixkube_deploy.app.perform import Performer
from nixkube_deploy.model.action import ConfirmActivation, DrainNode, SwitchConfiguration, SwitchMode, WayBack
from nixkube_deploy.model.cluster import Node, Pod
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Activator
from nixkube_deploy.model.names import HostName, NodeName, RunId, TaskId
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.model.task import Task
from nixkube_deploy.ports.perform import Attempt, Done
from nixkube_deploy.protocols.activation import NativeActivator
from tests.builders import a_fleet, store_path
from tests.fakes.clock import LoopClock
from tests.fakes.cluster import FakeCluster
from tests.fakes.nixos import BOOT_1, BOOT_2, Switch
from tests.fakes.systemd_boot import SystemdBootHost
from tests.unit.app.worlds import a_world

OLD, NEW, W1 = store_path("nixos-system-w1-old"), store_path("nixos-system-w1-new"), HostName("w1")
RUN = RunId("20261122T204931Z-3fa9")
OLD_ENTRY, NEW_ENTRY = "nixos-generation-41.conf", "nixos-generation-42.conf"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def a_switch(**fields: Any) -> SwitchConfiguration:
    back = WayBack(system=OLD, booted=OLD, generation=41, boot_id=BOOT_1)
    return SwitchConfiguration(
        host=W1,
        closure=NEW,
        activator=Activator.NATIVE,
        way_back=back,
        **{"mode": SwitchMode.SWITCH, "fallback": (OLD,)} | fields,
    )


def a_host(code: int = 100) -> SystemdBootHost:
    """Its switch installs the boot loader, and ends so."""
    host = SystemdBootHost(OLD, entries={OLD_ENTRY: OLD})
    host.install(OLD_ENTRY)

    def prepared() -> None:
        host.entries[NEW_ENTRY], host.loader = NEW, NEW
        host.install(NEW_ENTRY)

    host.switches = [Switch(code=code, at_end=prepared)]
    return host


def a_cluster(*pods: Pod) -> FakeCluster:
    return FakeCluster([Node(name="w1", ready="True", unschedulable=True)], pods)


class Rig:
    """One host, one Node, and a performer for both; another one of these is another controller."""

    def __init__(self, host: SystemdBootHost, cluster: FakeCluster, *, resumed: bool = False) -> None:
        self.host, self.cluster, self.resumed, self.said = host, cluster, resumed, list[str]()
        self.failure: Failure | None = None

    async def do(self, *actions: SwitchConfiguration | ConfirmActivation, number: int = 1) -> list[Done]:
        shell = self.host.shell().answers("flock")
        activators = {Activator.NATIVE: NativeActivator(shell, LoopClock())}
        world = a_world(a_fleet("w1"), shell, self.cluster, activators=activators)
        async with HostLocks(shell, RUN) as locks:
            performer = Performer(
                world=world,
                run=RUN,
                nodes=NodeDirectory(world, {W1: NodeName("w1")}),
                locks=locks,
                gate_world=cast("Any", None),
                switches={W1: a_switch()},
                drains={W1: DrainNode(host=W1, options=DrainOptions(timeout=5.0))},
                resumed=self.resumed,
            )
            attempt = Attempt(number=number, resumed=False, report=self.said.append)
            try:
                return [await performer(Task(id=TaskId("w1/step"), action=action), attempt) for action in actions]
            except TaskError as error:
                self.failure = error.failure
                return []


CONFIRM = ConfirmActivation(host=W1, closure=NEW)
POD = Pod(namespace="web", name="a", uid="u1", node="w1", owner_kind="ReplicaSet")


async def test_pods_that_came_back_since_the_drain_leave_before_the_switch() -> None:
    rig = Rig(a_host(code=0), a_cluster(POD))

    await rig.do(a_switch())

    assert "draining again: pod web/a is on Node w1 came back" in rig.said
    assert await rig.cluster.pods("w1") == ()
    assert rig.host.current == NEW


@pytest.mark.parametrize(("number", "mode"), [(2, SwitchMode.SWITCH), (1, SwitchMode.BOOT)])
async def test_nobody_is_asked_about_pods_where_the_change_is_under_way_or_disturbs_nobody(
    number: int, mode: SwitchMode
) -> None:
    rig = Rig(a_host(code=0), a_cluster(POD))

    await rig.do(a_switch(mode=mode), number=number)

    assert await rig.cluster.pods("w1") == (POD,)


async def test_a_reboot_that_a_switch_turned_out_to_need_boots_the_new_entry_once() -> None:
    rig = Rig(a_host(), a_cluster())

    (done,) = await rig.do(a_switch())

    assert (rig.host.booted, rig.host.boot_id) == (NEW, BOOT_2)
    assert (rig.host.default, rig.host.one_shot) == (OLD_ENTRY, ""), "a power cycle before the gate boots the old one"
    assert f"boot loader: {NEW_ENTRY} for the next boot only, {OLD_ENTRY} stays the default" in done.detail


async def test_the_new_entry_is_the_default_once_the_change_is_confirmed() -> None:
    rig = Rig(a_host(), a_cluster())

    _, done = await rig.do(a_switch(), CONFIRM)

    assert (rig.host.default, rig.host.record) == (NEW_ENTRY, None)
    assert done.detail == f"{NEW_ENTRY} is the default now"


async def test_a_controller_that_takes_up_the_run_promotes_the_entry_too() -> None:
    host, cluster = a_host(), a_cluster()
    await Rig(host, cluster).do(a_switch())

    await Rig(host, cluster, resumed=True).do(CONFIRM)

    assert (host.default, host.record) == (NEW_ENTRY, None)


async def test_a_kernel_that_panics_in_a_reboot_nobody_planned_is_reported_as_that() -> None:
    rig = Rig(a_host(), a_cluster())
    rig.host.broken = frozenset({NEW})

    await rig.do(a_switch())

    assert rig.failure is not None
    assert rig.failure.kind is FailureKind.FELL_BACK
    assert rig.failure.message == (
        f"the new entry {NEW_ENTRY} did not boot on w1; the old one, {OLD_ENTRY}, did, by itself"
    )


async def test_without_systemd_boot_it_is_a_plain_boot() -> None:
    rig = Rig(a_host(), a_cluster())

    (done,) = await rig.do(a_switch(fallback=()))

    assert rig.host.booted == NEW
    assert rig.host.default == NEW_ENTRY
    assert done.detail.endswith("rebooted")
