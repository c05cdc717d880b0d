"""What a reboot waits for: pods on its own Node, alerts anywhere; and what it says when they do not end."""

import json
from dataclasses import dataclass, field
from urllib.parse import quote

import anyio
import pytest
from trio.testing import MockClock

from nixkube_deploy.model.action import AwaitBlockers
from nixkube_deploy.model.cluster import Node, Pod
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.strategy import AlertBlocker, PodBlocker, RebootBlockers
from nixkube_deploy.ports.web import Answer
from nixkube_deploy.protocols.blockers import await_blockers
from nixkube_deploy.protocols.gate import GateWorld
from tests.builders import a_host
from tests.fakes.cluster import FakeCluster, LoopClock
from tests.fakes.shell import FakeShell

PROMETHEUS = "http://prometheus.example:9090"
QUERY = 'ALERTS{alertstate="firing"}'
ASKED = f"{PROMETHEUS}/api/v1/query?query={quote(QUERY, safe='')}"
BACKUP = PodBlocker(selector="job=backup")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@dataclass
class Alerts:
    """A Prometheus with so many series for every query."""

    firing: int = 0
    broken: str = ""
    asked: list[str] = field(default_factory=list)

    async def get(self, url: str, timeout: float) -> Answer:
        self.asked.append(url)
        result = [{"metric": {}, "value": [0, "1"]}] * self.firing
        body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})
        return Answer(error=self.broken) if self.broken else Answer(status=200, body=body)


def a_pod(name: str, namespace: str = "default", node: str = "n1", **fields: object) -> Pod:
    return Pod(namespace=namespace, name=name, uid=name, node=node, **{"labels": {"job": "backup"}, **fields})


@dataclass
class Bench:
    pods: tuple[Pod, ...] = ()
    alerts: Alerts = field(default_factory=Alerts)
    node: str | None = "n1"
    has_cluster: bool = True
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster = FakeCluster([Node(name="n1"), Node(name="n2")], self.pods)

    async def wait(self, *pods: PodBlocker, alerts: bool = False, timeout: float = 60.0, node: bool = True) -> str:
        world = GateWorld(
            shell=FakeShell(),
            cluster=self.cluster if self.has_cluster else None,
            web=self.alerts,
            clock=LoopClock(),
            node_of=lambda _host: self.node,
            hosts={},
            resolve=lambda _selector: frozenset(),
        )
        asked = (AlertBlocker(url=PROMETHEUS),) if alerts else ()
        blockers = RebootBlockers(pods=pods, prometheus=asked, timeout=timeout)
        action = AwaitBlockers(host="w1", blockers=blockers, expect_node=node)
        return await await_blockers(world, a_host("w1"), action, self.said.append)

    async def failure(self, *pods: PodBlocker, **options: object) -> Failure:
        with pytest.raises(TaskError) as caught:
            await self.wait(*pods, **options)
        return caught.value.failure


async def test_nothing_to_wait_for_is_no_wait():
    bench = Bench(pods=(a_pod("other", labels={"job": "web"}),))
    assert await bench.wait(BACKUP, alerts=True) == ""
    assert bench.said == []
    assert bench.alerts.asked == [ASKED]


@pytest.mark.parametrize(
    "pod",
    [
        a_pod("elsewhere", node="n2"),
        a_pod("finished", phase="Succeeded"),
        a_pod("another", labels={"job": "web"}),
        a_pod("in-another-namespace", namespace="staging"),
    ],
    ids=lambda pod: pod.name,
)
async def test_pods_that_do_not_block(pod):
    assert await Bench(pods=(pod,)).wait(PodBlocker(selector="job=backup", namespace="default")) == ""


async def test_a_pod_is_waited_for_until_it_ends():
    bench = Bench(pods=(a_pod("nightly"),))
    async with anyio.create_task_group() as group:

        async def end() -> None:
            await anyio.sleep(12)
            await bench.cluster.delete_pod(a_pod("nightly"), 0)

        group.start_soon(end)
        told = await bench.wait(BACKUP)
    assert told == "waited 15 s for default/nightly (job=backup)"
    assert bench.said == ["not rebooted yet: default/nightly (job=backup)"]


async def test_what_does_not_end_fails_with_its_name_and_the_host_untouched():
    pods = tuple(a_pod(f"nightly-{number}") for number in range(5))
    failure = await Bench(pods=pods).failure(BACKUP)
    named = "default/nightly-0, default/nightly-1, default/nightly-2 and 2 more (job=backup)"
    assert failure.message == f"w1 may not reboot: {named}"
    assert (failure.kind, failure.seen, failure.did) == (FailureKind.GATE, named, "left the host untouched")
    assert "within 60 s" in failure.expected


async def test_a_short_patience_is_used_up_to_its_end():
    bench = Bench(pods=(a_pod("nightly"),))
    began = anyio.current_time()
    assert "within 2 s" in (await bench.failure(BACKUP, timeout=2.0)).expected
    assert anyio.current_time() - began == pytest.approx(2.0)


async def test_alerts_block_every_host_and_are_told_with_the_query():
    bench = Bench(alerts=Alerts(firing=2), has_cluster=False)
    failure = await bench.failure(BACKUP, alerts=True)
    assert failure.seen == '2 series of prometheus ALERTS{alertstate="firing"}'
    assert len(bench.alerts.asked) > 5


async def test_a_prometheus_that_does_not_answer_blocks():
    failure = await Bench(alerts=Alerts(broken="connection refused")).failure(alerts=True)
    assert failure.seen.startswith("connection refused of prometheus")


async def test_pods_that_cannot_be_listed_block():
    bench = Bench(pods=(a_pod("nightly"),))
    bench.cluster.fails("pods", *[task_error(FailureKind.CLUSTER, "no answer")] * 50)
    assert (await bench.failure(BACKUP)).seen == "its pods cannot be listed: no answer"


async def test_a_node_that_is_not_known_blocks():
    assert "its Node is not known" in (await Bench(node=None).failure(BACKUP)).seen


async def test_a_plain_host_has_no_pods():
    assert await Bench(pods=(a_pod("nightly"),), node=None).wait(BACKUP, node=False) == ""
