"""Faults of the cluster, set by their specs on a whole lab, as a client of its API sees them."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx2
import pytest

from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText, inline_files, referenced_files
from nixkube_deploy.lab.kube.objects import is_ready, ready_status
from nixkube_deploy.lab.shell import Streams, TextInput
from nixkube_deploy.lab.world import World
from nixkube_deploy.model.cluster import Pod
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import Distribution
from nixkube_deploy.ports.cluster import Cluster, EvictionAnswer, NodePatch
from tests.builders import a_fleet
from tests.fakes.cluster import LoopClock
from tests.lab.lab_worlds import a_world


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def world(tmp_path) -> AsyncIterator[World]:
    async with a_world(tmp_path / "lab") as world:
        await until(lambda: all(map(is_ready, [*world.kube.store.all("nodes"), *world.kube.store.all("pods")])))
        yield world


@pytest.fixture
async def cluster(world: World) -> AsyncIterator[Cluster]:
    config = KubeconfigText(world.kubeconfig())
    async with open_cluster(config, None, clock=LoopClock(), patience=1.0) as cluster:
        yield cluster


async def until(holds: Callable[[], object], seconds: float = 15) -> None:
    with anyio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110 (the lab moves in real time; it has no event to wait for)
            await anyio.sleep(0.02)


async def a_pod(cluster: Cluster, node: str = "w1") -> Pod:
    return next(pod for pod in await cluster.pods(node) if pod.labels["app"] == "web")


def node(world: World, name: str = "w1"):
    return world.kube.find("Node", name)


async def test_the_api_takes_nobody_without_a_certificate_of_the_lab(world: World):
    async with httpx2.AsyncClient(trust_env=False, verify=world.access.authority.trust()) as session:
        assert (await session.get(f"{world.kube_url}/api/v1/nodes")).status_code == 401


async def test_evictions_fail_so_often_and_then_go_through(world: World, cluster: Cluster):
    world.add_fault("fleet:eviction-fails*1")
    world.add_fault("fleet:eviction-throttled*1")
    pod = await a_pod(cluster)
    assert (await cluster.evict(pod, -1)).answer is EvictionAnswer.FAILED
    assert (await cluster.evict(pod, -1)).answer is EvictionAnswer.THROTTLED
    assert (await cluster.evict(pod, -1)).answer is EvictionAnswer.ACCEPTED


async def test_an_eviction_that_fails_is_an_answer_with_the_words_of_the_api(world: World, cluster: Cluster):
    world.add_fault("fleet:eviction-fails")
    answered = await cluster.evict(await a_pod(cluster), -1)
    assert answered.answer is EvictionAnswer.FAILED
    assert "failed calling webhook" in answered.message


async def test_throttled_requests_are_asked_again(world: World, cluster: Cluster):
    world.add_fault("fleet:api-throttled")
    with pytest.raises(TaskError, match="Too many requests"):
        await cluster.nodes()
    await world.clear_faults(None, "api-throttled")
    assert len(await cluster.nodes()) == 3


@pytest.mark.parametrize("spec", ["fleet:api-down=2", "fleet:api-silent=2"])
async def test_the_api_is_away_for_a_while_once_a_node_is_cordoned(world: World, cluster: Cluster, spec: str):
    world.add_fault(spec)
    await cluster.nodes()
    await cluster.patch_node("w2", NodePatch(unschedulable=True))
    await until(lambda: world.server.is_down or world.server.is_silent)
    with pytest.raises(TaskError, match="did not answer"):
        await cluster.nodes()
    await until(lambda: not (world.server.is_down or world.server.is_silent))
    assert len(await cluster.nodes()) == 3


async def test_a_node_without_heartbeats_turns_unknown_and_back(world: World):
    world.add_fault("w1:lease-frozen")
    await until(lambda: ready_status(node(world)) == "Unknown")
    taints = {f"{t['key']}:{t['effect']}" for t in node(world)["spec"]["taints"]}
    unreachable = "node.kubernetes.io/unreachable"
    assert taints == {f"{unreachable}:NoSchedule", f"{unreachable}:NoExecute"}
    await world.clear_faults("w1", None)
    await until(lambda: is_ready(node(world)) and not node(world)["spec"]["taints"])


async def test_a_node_object_is_missing_until_that_is_cleared(world: World, cluster: Cluster):
    world.add_fault("w1:node-missing")
    assert await cluster.node("w1") is None
    await anyio.sleep(0.5)
    assert await cluster.node("w1") is None
    await world.clear_faults("w1", None)
    await until(lambda: node(world) is not None and is_ready(node(world)))


async def test_a_node_comes_back_under_another_address(world: World, cluster: Cluster):
    before = await cluster.node("w1")
    world.add_fault("w1:other-address=10.99.0.7")
    await run_on(world, "w1", "systemctl reboot")
    await until(lambda: world.kube.find("Node", "w1")["status"]["addresses"][0]["address"] == "10.99.0.7")
    after = await cluster.node("w1")
    assert after.addresses != before.addresses
    assert after.machine_id == before.machine_id


async def test_pods_of_a_node_never_end(world: World, cluster: Cluster):
    world.add_fault("w1:pods-stuck")
    pod = await a_pod(cluster)
    await cluster.delete_pod(pod, 1)
    await anyio.sleep(0.5)
    left = await cluster.pod(pod.namespace, pod.name)
    assert left is not None
    assert left.deleting_since is not None
    await world.clear_faults("w1", None)
    await until(lambda: world.kube.find("Pod", pod.name, pod.namespace) is None)


async def test_pods_that_start_on_a_node_never_become_ready(world: World, cluster: Cluster):
    for spec in ("cp1:pods-never-ready", "w1:pods-never-ready", "w2:pods-never-ready"):
        world.add_fault(spec)
    await cluster.delete_pod(await a_pod(cluster), 0)

    def ready_webs() -> int:
        return sum(is_ready(p) for p in world.kube.store.all("pods") if p["metadata"]["labels"]["app"] == "web")

    await anyio.sleep(0.8)
    assert ready_webs() == 2
    await world.clear_faults(None, None)
    await until(lambda: ready_webs() == 3)


async def run_on(world: World, host: str, command: str) -> tuple[int, str]:
    out: list[str] = []
    streams = Streams(stdin=TextInput(""), out=out.append, err=out.append)
    code = await world.hosts[host].execute("root", command, streams)
    return code, "".join(out)


async def test_etcd_tells_of_a_learner_and_of_alarms(tmp_path):
    async with a_world(tmp_path / "lab", "cp1 cp2 cp3 | w1") as world:
        await until(lambda: len(world.kube.store.all("nodes")) == 4)
        health = "curl -sS http://127.0.0.1:2381/health"
        assert await run_on(world, "cp1", health) == (0, '{"health":"true","reason":""}')
        world.add_fault("cp2:etcd-learner")
        assert "learner" in (await run_on(world, "cp2", health))[1]
        assert (await run_on(world, "cp1", health))[1] == '{"health":"true","reason":""}'
        members = (await run_on(world, "cp1", "etcdctl member list"))[1].splitlines()
        assert [line.rpartition(", ")[2] for line in members] == ["false", "true", "false"]
        assert (await run_on(world, "cp1", "etcdctl endpoint health --cluster"))[0] == 1
        await world.clear_faults(None, None)
        world.add_fault("cp3:etcd-alarm=NOSPACE")
        assert (await run_on(world, "cp1", health))[1] == '{"health":"false","reason":"ALARM NOSPACE"}'
        assert "alarm:NOSPACE" in (await run_on(world, "cp1", "etcdctl alarm list"))[1]


def gateway(path: str, body: str = "{}", port: int = 2382) -> str:
    tls = "--cacert /ca --cert /crt --key /key"
    return f"curl -sS {tls} --data '{body}' -w '\\n%{{exitcode}} %{{http_code}}' https://127.0.0.1:{port}{path}"


async def test_etcds_gateway_knows_its_members_and_lets_another_one_lead(tmp_path):
    async with a_world(tmp_path / "lab", "cp1 cp2 cp3 | w1") as world:
        await until(lambda: len(world.kube.store.all("nodes")) == 4)

        async def ask(host: str, path: str, body: str = "{}") -> dict[str, Any]:
            _, said = await run_on(world, host, gateway(path, body))
            return json.loads(said.splitlines()[0])

        listed = (await ask("cp2", "/v3/cluster/member/list"))["members"]
        assert [member["name"] for member in listed] == ["cp1", "cp2", "cp3"]
        assert not [member for member in listed if "isLearner" in member]
        before = await ask("cp1", "/v3/maintenance/status")
        assert before["leader"] == before["header"]["member_id"] == listed[0]["ID"]
        move = json.dumps({"targetID": listed[2]["ID"]})
        assert "not leader" in (await ask("cp2", "/v3/maintenance/transfer-leadership", move))["error"]
        assert "error" not in await ask("cp1", "/v3/maintenance/transfer-leadership", move)
        assert (await ask("cp1", "/v3/maintenance/status"))["leader"] == listed[2]["ID"]
        world.add_fault("cp3:etcd-member-down")
        assert (await ask("cp1", "/v3/maintenance/status"))["leader"] == listed[0]["ID"]
        assert (await run_on(world, "cp3", gateway("/health")))[1].endswith("7 000")
        assert (await run_on(world, "cp1", gateway("/health", port=2379)))[1].endswith("7 000")
        world.add_fault("cp1:etcd-alarm=NOSPACE")
        raised = (await ask("cp2", "/v3/maintenance/alarm"))["alarms"]
        assert raised == [{"memberID": listed[0]["ID"], "alarm": "NOSPACE"}]
        world.add_fault("cp2:etcd-member-down")
        assert "leader" not in await ask("cp1", "/v3/maintenance/status"), "two of three are gone"
        assert "timed out" in (await ask("cp1", "/v3/cluster/member/list"))["error"]


async def test_the_api_is_away_while_its_only_control_plane_host_reboots(world: World, cluster: Cluster):
    await cluster.nodes()
    await run_on(world, "cp1", "systemctl reboot")
    await until(lambda: world.server.is_down)
    await until(lambda: not world.server.is_down and is_ready(node(world, "cp1")))
    assert len(await cluster.nodes()) == 3


async def test_a_kubeconfig_that_points_to_files_leads_into_the_cluster(tmp_path):
    """As ``services.kubernetes`` leaves it on its control-plane hosts."""
    fleet = a_fleet("cp1 | w1", distribution=Distribution.KUBERNETES)
    async with a_world(tmp_path / "lab", fleet=fleet) as world:
        path = Distribution.KUBERNETES.admin_kubeconfig
        _, text = await run_on(world, "cp1", f"cat {path}")
        files = referenced_files(text)
        assert len(files) == 3
        contents = {file: (await run_on(world, "cp1", f"cat {file}"))[1] for file in files}
        config = KubeconfigText(inline_files(text, contents))
        async with open_cluster(config, None, clock=LoopClock(), patience=2.0) as cluster:
            assert {found.name for found in await cluster.nodes()} == {"cp1", "w1"}
