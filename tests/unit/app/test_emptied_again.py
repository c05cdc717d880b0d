"""A host that fails after its Node was given back (its soak) is emptied again before it is taken back."""

from typing import Any, cast

from nixkube_deploy.app.hostlocks import HostLocks
from nixkube_deploy.app.nodes import NodeDirectory
from nixkube_deploy.app.perform import Performer
from nixkube_deploy.model.action import DrainNode, RollBack, WayBack
from nixkube_deploy.model.cluster import DisruptionBudget, Node, Pod
from nixkube_deploy.model.names import HostName, NodeName, RunId, TaskId
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.model.task import Task
from nixkube_deploy.ports.perform import Attempt
from tests.builders import a_fleet, store_path
from tests.fakes.cluster import FakeCluster
from tests.fakes.nixos import BOOT_1, NixosHost
from tests.unit.app.worlds import a_world

OLD, NEW, W1 = store_path("old"), store_path("new"), HostName("w1")
RUN = RunId("20261122T204931Z-3fa9")
WAY = RollBack(host=W1, way_back=WayBack(system=OLD, booted=OLD, generation=1, boot_id=BOOT_1), reboot=False)


async def taken_back(cluster: FakeCluster, *, drains: bool = True) -> tuple[NixosHost, list[str]]:
    host, said = NixosHost(OLD, current=NEW, profile=NEW), list[str]()
    shell = host.shell().answers("flock")
    world = a_world(a_fleet("w1"), shell, cluster)
    drained = DrainNode(host=W1, options=DrainOptions(timeout=5.0))
    async with HostLocks(shell, RUN) as locks:
        performer = Performer(
            world=world,
            run=RUN,
            nodes=NodeDirectory(world, {W1: NodeName("w1")}),
            locks=locks,
            gate_world=cast("Any", None),
            switches={},
            drains={W1: drained} if drains else {},
        )
        attempt = Attempt(number=1, resumed=False, report=said.append)
        await performer(Task(id=TaskId("w1/rollback"), action=WAY), attempt)
    return host, said


def a_cluster(*budgets: DisruptionBudget) -> FakeCluster:
    pod = Pod(namespace="web", name="a", uid="u1", node="w1", owner_kind="ReplicaSet")
    return FakeCluster([Node(name="w1", ready="True")], [pod], budgets)


async def test_pods_that_came_back_leave_before_the_host_is_taken_back():
    cluster = a_cluster()
    host, said = await taken_back(cluster)
    assert cluster.nodes_by_name["w1"].unschedulable
    assert await cluster.pods("w1") == ()
    assert "draining again, before it is taken back" in said
    assert host.current == OLD


async def test_a_drain_that_fails_is_told_and_does_not_keep_the_host_where_it_is():
    cluster = a_cluster(DisruptionBudget(namespace="web", name="web"))
    host, said = await taken_back(cluster)
    assert any(line.startswith("not drained before it is taken back: ") for line in said)
    assert host.current == OLD


async def test_a_host_that_was_never_drained_is_not_drained_now():
    cluster = a_cluster()
    host, _ = await taken_back(cluster, drains=False)
    assert not cluster.nodes_by_name["w1"].unschedulable
    assert host.current == OLD
