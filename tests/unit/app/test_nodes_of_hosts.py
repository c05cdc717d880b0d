"""Hosts and their Nodes: one request however large the fleet, and patience with a cluster that is coming up."""

import pytest
from trio.testing import MockClock

from nixkube_deploy.app.nodes import NodeDirectory
from nixkube_deploy.app.survey import add_drivers, survey
from nixkube_deploy.model.cluster import Node
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from tests.builders import a_fleet
from tests.fakes.cluster import FakeCluster
from tests.fakes.shell import FakeShell
from tests.unit.app.worlds import a_world

MACHINE = "0123456789abcdef0123456789abcdef"
PROBED = f"""
@machine_id
{MACHINE}
@boot_id
6f1d1c1e-0000-4000-8000-000000000001
@machine
x86_64
@end
"""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def a_refusal() -> TaskError:
    return task_error(FailureKind.CLUSTER, "the API server is starting", transient=True)


async def test_a_survey_asks_the_cluster_once_for_all_hosts():
    cluster = FakeCluster([Node(name="n1", machine_id=MACHINE, ready="True")])
    cluster.fails("csi_drivers", a_refusal())
    found = await survey(
        a_world(a_fleet("w1"), FakeShell().answers("sh", stdout=PROBED), cluster), [*a_fleet("w1").hosts.values()]
    )
    assert found.cluster_problem is None
    assert [facts.node.name for facts in found.facts.values() if facts.node] == ["n1"]


@pytest.mark.parametrize("answers", [True, False])
async def test_the_storage_drivers_of_each_node_are_recorded_where_the_api_tells_them(answers):
    cluster = FakeCluster([Node(name="n1", machine_id=MACHINE, ready="True")])
    cluster.drivers = {"n1": frozenset({"rbd"})}
    fleet = a_fleet("w1")
    world = a_world(fleet, FakeShell().answers("sh", stdout=PROBED), cluster)
    found = await survey(world, [*fleet.hosts.values()])
    if not answers:
        cluster.fails("csi_drivers", a_refusal())
    await add_drivers(world, found)
    node = found.facts["w1"].node
    assert node is not None
    assert node.csi_drivers == (frozenset({"rbd"}) if answers else frozenset())
    assert found.without_drivers == ({} if answers else {"w1": a_refusal().failure})


async def test_without_a_cluster_nobody_is_asked_for_storage_drivers():
    fleet = a_fleet("w1")
    world = a_world(fleet, FakeShell().answers("sh", stdout=PROBED), None)
    found = await survey(world, [*fleet.hosts.values()])
    before = dict(found.facts)
    await add_drivers(world, found)
    assert found.facts == before


async def test_a_node_that_registers_is_waited_for_though_host_and_cluster_answer_badly_meanwhile():
    cluster = FakeCluster([Node(name="n1", machine_id=MACHINE)])
    cluster.fails("nodes", a_refusal(), a_refusal())
    shell = FakeShell().loses("sh", times=2).answers("sh", stdout=PROBED)
    fleet = a_fleet("w1")
    nodes = NodeDirectory(a_world(fleet, shell, cluster))
    await nodes.wait_for(fleet.hosts["w1"], timeout=60)
    assert nodes.known("w1") == "n1"


async def test_waiting_for_a_node_that_never_registers_ends_without_a_verdict():
    fleet = a_fleet("w1")
    nodes = NodeDirectory(a_world(fleet, FakeShell().answers("sh", stdout=PROBED), FakeCluster()))
    await nodes.wait_for(fleet.hosts["w1"], timeout=60)
    assert nodes.known("w1") is None
    with pytest.raises(TaskError, match="no Node of the cluster is w1"):
        await nodes.find(fleet.hosts["w1"])
