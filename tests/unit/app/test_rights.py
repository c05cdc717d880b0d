"""What ``deploy check`` says about the rights a user has in the Kubernetes API."""

import pytest

from nixkube_deploy.app.check import DELETE_PODS, rights
from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.strategy import DrainOptions, HostPolicy, Strategy
from nixkube_deploy.ports.cluster import MissingRight
from tests.builders import a_fleet
from tests.fakes.cluster import FakeCluster
from tests.fakes.shell import FakeShell
from tests.unit.app.worlds import a_world

OPTIONAL = MissingRight(right=DELETE_PODS, only_for="deletes pods instead of evicting them")


async def finding(cluster: FakeCluster, drain: DrainOptions = DrainOptions()):
    fleet = a_fleet("w1", strategy=Strategy(host=HostPolicy(drain=drain)))
    return await rights(a_world(fleet, FakeShell(), cluster), cluster)


async def test_a_missing_right_is_a_failure_that_names_the_manifest():
    cluster = FakeCluster()
    cluster.lacks = (MissingRight(right="patch nodes"), OPTIONAL)

    failure = (await finding(cluster)).failure

    assert failure is not None
    assert failure.message == "the Kubernetes API would refuse us to patch nodes"
    assert "docs/rbac.yaml" in failure.next


async def test_an_optional_right_is_missed_only_where_it_is_used():
    cluster = FakeCluster()
    cluster.lacks = (OPTIONAL,)

    assert (await finding(cluster)).failure is None
    assert "delete pods" in (await finding(cluster)).detail
    assert (await finding(cluster, DrainOptions(disable_eviction=True))).failure is not None


async def test_an_api_that_cannot_tell_is_a_failure_of_its_own():
    cluster = FakeCluster().fails("missing_rights", task_error(FailureKind.CLUSTER, "no answer"))

    found = await finding(cluster)

    assert found.failure is not None
    assert found.failure.message == "no answer"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
