"""The real kubectl against the lab's API server: what a person types must work as on a cluster."""

import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from subprocess import PIPE

import anyio
import pytest

from nixkube_deploy.lab.kube import KubeServer, KubeState, Timing

KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")

NODES = ("cp1", "w1", "w2", "w3")
TIMING = Timing(pod_start=0.1, grace_scale=1 / 150, node_grace=60.0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Ran:
    code: int
    out: str
    err: str

    def rows(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()[1:]]


@dataclass
class Lab:
    state: KubeState
    server: KubeServer
    url: str
    home: Path

    async def kubectl(self, *arguments: str) -> Ran:
        environment = {"HOME": str(self.home), "KUBECACHEDIR": str(self.home / "cache"), "PATH": "/usr/bin:/bin"}
        command = [str(KUBECTL), "--server", self.url, "--request-timeout=20s", *arguments]
        done = await anyio.run_process(command, env=environment, check=False, stdout=PIPE, stderr=PIPE)
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def epoch() -> float:
    return datetime.now(UTC).timestamp()  # noqa: TID251 (the lab runs in real time here)


async def turn(state: KubeState) -> None:
    while True:
        state.tick(epoch())
        for name in NODES:
            state.heartbeat(name, ready=True)
        await anyio.sleep(0.05)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    state = KubeState(now=epoch(), timing=TIMING)
    for index, name in enumerate(NODES):
        role = {"node-role.kubernetes.io/control-plane": "true"} if name == "cp1" else {}
        state.register_node(
            name,
            machine_id=f"m{index}",
            boot_id=f"b{index}",
            addresses=[f"10.0.0.{index}"],
            kernel_version="6.12.8",
            labels=role,
        )
    state.seed(NODES)
    server = KubeServer(state)
    url = await server.start()
    async with anyio.create_task_group() as group:
        group.start_soon(turn, state)
        await until(lambda: all(p["status"]["phase"] == "Running" for p in state.store.all("pods")) and db_is_up(state))
        yield Lab(state, server, url, tmp_path)
        await server.close()
        group.cancel_scope.cancel()


async def test_get_nodes_prints_the_columns_people_know(lab: Lab) -> None:
    ran = await lab.kubectl("get", "nodes")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].split() == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert [row[:3] for row in ran.rows()] == [
        ["cp1", "Ready", "control-plane"],
        ["w1", "Ready", "<none>"],
        ["w2", "Ready", "<none>"],
        ["w3", "Ready", "<none>"],
    ]
    wide = await lab.kubectl("get", "nodes", "-o", "wide")
    assert "6.12.8" in wide.out


async def test_get_pods_of_all_namespaces_shows_them_running(lab: Lab) -> None:
    ran = await lab.kubectl("get", "pods", "-A")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].split() == ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert {row[3] for row in ran.rows()} == {"Running"}
    assert len(ran.rows()) == lab.state.store.count("pods")


async def test_cordon_and_uncordon_change_the_node(lab: Lab) -> None:
    assert (await lab.kubectl("cordon", "w1")).out == "node/w1 cordoned\n"
    assert "Ready,SchedulingDisabled" in (await lab.kubectl("get", "node", "w1")).out
    assert (await lab.kubectl("cordon", "w1")).out == "node/w1 already cordoned\n"
    assert (await lab.kubectl("uncordon", "w1")).out == "node/w1 uncordoned\n"
    assert "unschedulable" not in lab.state.find("Node", "w1")["spec"]


async def test_drain_moves_every_ordinary_pod_to_other_nodes(lab: Lab) -> None:
    ran = await lab.kubectl("drain", "w1", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=30s")
    assert ran.code == 0, ran.err
    assert "node/w1 drained" in ran.out
    left = {pod["metadata"]["ownerReferences"][0]["kind"] for pod in lab.state.store.pods_on("w1")}
    assert left == {"DaemonSet"}


async def test_drain_without_ignoring_daemonsets_is_refused_before_anything_is_evicted(lab: Lab) -> None:
    before = {pod["metadata"]["uid"] for pod in lab.state.store.pods_on("w1")}
    ran = await lab.kubectl("drain", "w1", "--timeout=10s")
    assert ran.code != 0
    assert "cannot delete DaemonSet-managed Pods" in ran.err
    assert {pod["metadata"]["uid"] for pod in lab.state.store.pods_on("w1")} == before


async def test_drain_is_held_up_by_a_budget_until_its_timeout(lab: Lab) -> None:
    lab.state.block_drain("w2")
    await until(lambda: any("stubborn" in p["metadata"]["name"] for p in ready_pods(lab, "w2")))
    ran = await lab.kubectl("drain", "w2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=2s")
    assert ran.code != 0
    assert "Cannot evict pod as it would violate the pod's disruption budget." in ran.err
    assert any("stubborn" in p["metadata"]["name"] for p in ready_pods(lab, "w2"))


async def test_describe_node_shows_conditions_pods_and_the_lease(lab: Lab) -> None:
    ran = await lab.kubectl("describe", "node", "w1")
    assert ran.code == 0, ran.err
    for text in ("Kernel Version:", "6.12.8", "HolderIdentity:", "KubeletReady", "Non-terminated Pods:", "log-agent-"):
        assert text in ran.out


async def test_wait_sees_a_node_become_ready(lab: Lab) -> None:
    async with anyio.create_task_group() as group:
        lab.state.store.put(
            {**lab.state.find("Node", "w3"), "status": {**lab.state.find("Node", "w3")["status"], "conditions": []}}
        )

        async def wait() -> None:
            ran = await lab.kubectl("wait", "--for=condition=Ready", "node/w3", "--timeout=20s")
            assert ran.out == "node/w3 condition met\n", ran.err

        group.start_soon(wait)


async def test_deleting_a_pod_waits_until_it_is_gone_and_the_controller_replaces_it(lab: Lab) -> None:
    name = next(p["metadata"]["name"] for p in lab.state.store.all("pods") if p["metadata"]["name"].startswith("web"))
    ran = await lab.kubectl("delete", "pod", name)
    assert ran.code == 0, ran.err
    assert lab.state.find("Pod", name, "default") is None
    webs = [p for p in lab.state.store.all("pods") if p["metadata"]["labels"]["app"] == "web"]
    assert len(webs) == 3


async def test_an_unknown_object_is_not_found(lab: Lab) -> None:
    ran = await lab.kubectl("get", "node", "nope")
    assert ran.code == 1
    assert 'Error from server (NotFound): nodes "nope" not found' in ran.err


async def test_get_reads_workloads_budgets_leases_and_events(lab: Lab) -> None:
    for kind in ("deploy", "ds", "sts", "rs", "pdb", "leases", "events", "pvc", "sc", "csinodes", "ns"):
        ran = await lab.kubectl("get", kind, "-A")
        assert ran.code == 0, (kind, ran.err)


async def test_labels_annotations_and_taints_can_be_set(lab: Lab) -> None:
    assert (await lab.kubectl("label", "node", "w1", "zone=a")).code == 0
    assert (await lab.kubectl("annotate", "node", "w1", "example.org/x=y")).code == 0
    assert (await lab.kubectl("taint", "node", "w1", "dedicated=db:NoSchedule")).code == 0
    node = lab.state.find("Node", "w1")
    assert node["metadata"]["labels"]["zone"] == "a"
    assert node["metadata"]["annotations"]["example.org/x"] == "y"
    assert {"key": "dedicated", "value": "db", "effect": "NoSchedule"} in node["spec"]["taints"]
    ran = await lab.kubectl("get", "nodes", "-l", "zone in (a,b)", "-o", "name")
    assert ran.out == "node/w1\n"


def ready_pods(lab: Lab, node: str) -> list[dict]:
    return [p for p in lab.state.store.pods_on(node) if p["status"]["phase"] == "Running"]


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not holds():  # noqa: ASYNC110 (the cluster moves in real time; it has no event to wait for)
            await anyio.sleep(0.02)


def db_is_up(state: KubeState) -> bool:
    db = state.find("StatefulSet", "db", "default")
    return db is not None and db["status"].get("readyReplicas") == 3
