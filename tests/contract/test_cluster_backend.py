"""The Cluster port kept by its fake and by the lab's API server alike, and the protocols over real HTTP."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import pytest
import yaml

from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText
from nixkube_deploy.lab.kube import ADMIN, Accounts, KubeServer, KubeState, Timing
from nixkube_deploy.model.action import OpenGate
from nixkube_deploy.model.cluster import OWNER_ANNOTATION, TO_COME_TAINT, DisruptionBudget, Lease, Node, Pod
from nixkube_deploy.model.error import Locked, TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import HostName, RunId
from nixkube_deploy.model.strategy import DrainOptions, Gates, KubeletGate
from nixkube_deploy.ports.cluster import Cluster, EvictionAnswer, LeaseConflict, NodePatch
from nixkube_deploy.protocols.disruption import cordon, drain, still_drained, uncordon
from nixkube_deploy.protocols.gate import GateWorld, open_gate
from nixkube_deploy.protocols.lease import LOCK_NAME, LOCK_NAMESPACE, hold_lease
from nixkube_deploy.protocols.marking import marked
from tests.builders import a_host
from tests.fakes.cluster import FakeCluster, LoopClock
from tests.fakes.shell import FakeShell

NODES = ("w1", "w2", "w3")
START = 1_700_000_000.0
RUN = RunId("run-1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def kubeconfig(url: str, token: str = "unused") -> KubeconfigText:
    config = {
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }
    return KubeconfigText(yaml.safe_dump(config))


@dataclass
class Lab:
    """The lab's cluster in fast motion: ten times as fast as the wall clock."""

    state: KubeState
    server: KubeServer
    url: str
    cluster: Cluster

    def tick(self, seconds: float = 0.2) -> None:
        for name in NODES:
            self.state.heartbeat(name, ready=True)
        self.state.tick(self.state.now + seconds)

    async def run(self) -> None:
        while True:
            self.tick()
            await anyio.sleep(0.02)


@asynccontextmanager
async def a_lab(token: str | None = None, patience: float = 10.0) -> AsyncIterator[Lab]:
    state = KubeState(now=START, timing=Timing(pod_start=0.3))
    for name in NODES:
        state.register_node(name, machine_id=f"m-{name}", boot_id=f"b-{name}", kernel_version="6.12.8")
    state.seed(NODES)
    accounts = None if token is None else Accounts(tokens={token: ADMIN})
    server = KubeServer(state, accounts=accounts)
    url = await server.start()
    async with open_cluster(kubeconfig(url, "right"), None, clock=LoopClock(), patience=patience) as cluster:
        lab = Lab(state, server, url, cluster)
        for _ in range(20):
            lab.tick()
        async with anyio.create_task_group() as group:
            group.start_soon(lab.run)
            yield lab
            group.cancel_scope.cancel()
    await server.close()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with a_lab() as lab:
        yield lab


# What every Cluster keeps.


@pytest.fixture(params=["fake", "lab"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    if request.param == "lab":
        async with a_lab() as lab:
            yield lab.cluster
        return
    labels = {"app": "web"}
    pods = [Pod(namespace="default", name=f"web-{n}", uid=n, node="w1", labels=labels, owner_kind="X") for n in "abc"]
    budget = DisruptionBudget(namespace="default", name="web", match_labels=labels, disruptions_allowed=1)
    yield FakeCluster([Node(name=name) for name in NODES], pods, [budget], termination=0.1, replacement=5)


async def web_pods(cluster: Cluster) -> list[Pod]:
    found = [pod for node in NODES for pod in await cluster.pods(node)]
    return [pod for pod in found if pod.labels.get("app") == "web"]


async def test_a_patch_under_an_old_version_is_a_conflict(cluster: Cluster) -> None:
    node = await cluster.node("w1")
    assert node is not None
    patched = await cluster.patch_node("w1", NodePatch(unschedulable=True, annotations=(("a/b", "c"),)))

    assert patched.unschedulable
    assert patched.annotations["a/b"] == "c"
    with pytest.raises(LeaseConflict):
        await cluster.patch_node("w1", NodePatch(unschedulable=False, resource_version=node.resource_version))
    gone = await cluster.patch_node("w1", NodePatch(annotations=(("a/b", None),)))
    assert "a/b" not in gone.annotations
    assert gone.unschedulable


async def test_a_patch_of_nothing_is_a_failure(cluster: Cluster) -> None:
    assert await cluster.node("w9") is None
    with pytest.raises(TaskError):
        await cluster.patch_node("w9", NodePatch(unschedulable=True))


async def test_evictions_are_counted_against_the_budget(cluster: Cluster) -> None:
    first, second, _ = await web_pods(cluster)

    assert (await cluster.evict(first, -1)).answer is EvictionAnswer.ACCEPTED
    refused = await cluster.evict(second, -1)
    assert refused.answer is EvictionAnswer.BUDGET
    assert "web" in refused.message
    with anyio.fail_after(5):
        while await cluster.pod(first.namespace, first.name) is not None:  # noqa: ASYNC110
            await anyio.sleep(0.02)
    assert (await cluster.evict(first, -1)).answer is EvictionAnswer.GONE


async def test_a_namesake_is_never_evicted(cluster: Cluster) -> None:
    pod, *_ = await web_pods(cluster)

    answer = await cluster.evict(replace(pod, uid="somebody-else"), -1)

    assert answer.answer is EvictionAnswer.THROTTLED
    assert len(await web_pods(cluster)) == 3


async def test_a_lease_belongs_to_whoever_wrote_last(cluster: Cluster) -> None:
    mine = Lease(namespace="kube-system", name="lock", holder="me", duration=30)
    first = await cluster.put_lease(mine)

    with pytest.raises(LeaseConflict):
        await cluster.put_lease(mine)
    await anyio.sleep(0.01)
    second = await cluster.put_lease(first)
    assert second.renew_time != first.renew_time
    assert (second.holder, second.duration) == ("me", 30)
    with pytest.raises(LeaseConflict):
        await cluster.put_lease(first)
    with pytest.raises(LeaseConflict):
        await cluster.delete_lease(first)

    await cluster.delete_lease(second)
    await cluster.delete_lease(second)
    assert await cluster.lease("kube-system", "lock") is None
    third = await cluster.put_lease(second)
    assert third.resource_version != second.resource_version


# The lab's API server through our client.


async def test_the_labs_objects_are_understood(lab: Lab) -> None:
    nodes = {node.name: node for node in await lab.cluster.nodes()}
    assert nodes.keys() == set(NODES)
    node = nodes["w1"]
    assert (node.ready, node.machine_id, node.boot_id, node.kernel_version) == ("True", "m-w1", "b-w1", "6.12.8")

    pods = {pod.labels["app"]: pod for name in NODES for pod in await lab.cluster.pods(name)}
    assert pods["cni"].owner_kind == "DaemonSet"
    assert pods["cni"].priority_class == "system-node-critical"
    assert pods["web"].owner_kind == "ReplicaSet"
    assert pods["web"].has_emptydir
    assert all(pod.ready and pod.uid for pod in pods.values())

    assert await lab.cluster.daemonset_exists("kube-system", "cni")
    assert not await lab.cluster.daemonset_exists("kube-system", "nosuch")
    (budget,) = await lab.cluster.budgets()
    assert budget.selects(pods["web"])
    assert await lab.cluster.csi_drivers("w1")
    assert await lab.cluster.node_healthz("w1") == "ok"


async def test_a_node_lease_moves(lab: Lab) -> None:
    before = await lab.cluster.lease("kube-node-lease", "w1")
    await anyio.sleep(0.1)
    after = await lab.cluster.lease("kube-node-lease", "w1")

    assert before is not None
    assert after is not None
    assert before.renew_time != after.renew_time


async def test_long_lists_come_in_pages(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nixkube_deploy.backends.kubernetes.cluster.PAGE", 2)

    assert [node.name for node in await lab.cluster.nodes()] == list(NODES)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda lab: setattr(lab.server.faults, "throttled", 2) or setattr(lab.server.faults, "retry_after", 0),
        lambda lab: setattr(lab.server.faults, "server_errors", 3),
        lambda lab: lab.server.take_down(5.0),
        lambda lab: lab.server.drop_connections(),
    ],
)
async def test_short_faults_are_not_seen(lab: Lab, break_it: Callable[[Lab], object]) -> None:
    await lab.cluster.nodes()
    break_it(lab)

    assert len(await lab.cluster.nodes()) == 3


async def test_a_token_that_is_not_accepted_is_final() -> None:
    async with a_lab(token="right") as lab:
        assert len(await lab.cluster.nodes()) == 3
        async with open_cluster(kubeconfig(lab.url, "wrong"), None, clock=LoopClock()) as stranger:
            with pytest.raises(TaskError, match="does not accept our credentials"):
                await stranger.nodes()


# Protocols over real HTTP.


async def drained(lab: Lab, said: list[str] | None = None, **options: object) -> int:
    report = (said if said is not None else []).append
    return await drain(lab.cluster, LoopClock(), "w1", DrainOptions(**options), RUN, report)  # type: ignore[arg-type]


async def test_a_node_is_taken_out_and_given_back(lab: Lab) -> None:
    assert await cordon(lab.cluster, "w1", RUN)
    assert await drained(lab, timeout=20) > 0
    left = await lab.cluster.pods("w1")
    assert {pod.owner_kind for pod in left} == {"DaemonSet"}
    assert await still_drained(lab.cluster, LoopClock(), "w1", DrainOptions()) == ()
    assert len(await web_pods(lab.cluster)) == 3

    assert await uncordon(lab.cluster, "w1", RUN)
    node = await lab.cluster.node("w1")
    assert node is not None
    assert not node.unschedulable
    assert OWNER_ANNOTATION not in node.annotations


async def test_evicted_pods_go_where_no_drain_is_to_come(lab: Lab) -> None:
    before = {pod.name for pod in await lab.cluster.pods("w2")}

    async with marked(lab.cluster, frozenset({"w1", "w2"}), RUN, lambda _: None):
        found = lab.state.find("Node", "w2")
        assert found is not None
        ours = {"key": TO_COME_TAINT, "value": RUN, "effect": "PreferNoSchedule"}
        assert found["spec"]["taints"] == [ours]
        assert await drained(lab, timeout=20) > 0
        with anyio.fail_after(5):
            while len(await web_pods(lab.cluster)) < 3:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        assert {pod.name for pod in await lab.cluster.pods("w2")} <= before
        await uncordon(lab.cluster, "w1", RUN)
        node = await lab.cluster.node("w1")
        assert node is not None
        assert (node.marked_by, node.unschedulable) == (None, False)

    assert [node.marked_by for node in await lab.cluster.nodes()] == [None, None, None]


async def test_a_drain_outlives_an_api_that_goes_away(lab: Lab) -> None:
    async with anyio.create_task_group() as group:

        async def outage() -> None:
            await anyio.sleep(0.1)
            lab.server.take_down(10.0)

        group.start_soon(outage)
        assert await drained(lab, timeout=30) > 0

    assert await still_drained(lab.cluster, LoopClock(), "w1", DrainOptions()) == ()


async def test_a_blocked_drain_names_pod_and_budget(lab: Lab) -> None:
    lab.state.block_drain("w1")
    await anyio.sleep(0.2)

    with pytest.raises(TaskError) as caught:
        await drained(lab, timeout=2)

    failure = caught.value.failure
    assert failure.kind is FailureKind.DRAIN
    assert "default/stubborn-w1" in failure.message
    assert failure.next == "kubectl -n default describe pdb stubborn-w1"


async def test_the_clusters_lock_is_held_by_one(lab: Lab) -> None:
    async with hold_lease(lab.cluster, LoopClock(), LOCK_NAME, "ann@ci:run-1", ttl=1):
        found = await lab.cluster.lease(LOCK_NAMESPACE, LOCK_NAME)
        assert found is not None
        assert found.holder == "ann@ci:run-1"
        with pytest.raises(Locked, match="ann@ci:run-1"):
            async with hold_lease(lab.cluster, LoopClock(), LOCK_NAME, "bob@ci:run-2", ttl=1):
                raise AssertionError
    assert await lab.cluster.lease(LOCK_NAMESPACE, LOCK_NAME) is None


async def test_the_gate_opens_on_a_lab_node(lab: Lab) -> None:
    shell = FakeShell().answers("sh", stdout="@boot\nb-w1\n@kernel\n6.12.8\n@machine\nm-w1\n@kubelet\nok")
    world = GateWorld(
        shell=shell,
        cluster=lab.cluster,
        web=None,  # type: ignore[arg-type]
        clock=LoopClock(),
        node_of=lambda _: "w1",
        hosts={},
        resolve=lambda _: frozenset(),
    )
    gates = Gates(kubelet=KubeletGate(ready_for=0.2, timeout=20))
    action = OpenGate(host=HostName("w1"), gates=gates, rebooted_from="b-before")

    assert "healthy after" in await open_gate(world, a_host("w1"), action, lambda _: None)
