"""The health gate against a real node controller: silent nodes, stale Ready, pods that are not back."""

import anyio
import pytest

from nixkube_deploy.app.clock import SystemClock
from nixkube_deploy.model.action import OpenGate
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.strategy import Gates, KubeletGate
from nixkube_deploy.protocols.gate import GateWorld, open_gate
from nixkube_deploy.protocols.nodes import gone_taints, node_facts
from tests.builders import a_host
from tests.fakes.shell import FakeShell
from tests.real.control_plane.kubelets import KERNEL
from tests.real.control_plane.plane import GRACE, wait_until
from tests.real.control_plane.scene import Scene, is_ready

CRITICAL = {"priorityClassName": "system-node-critical", "tolerations": [{"operator": "Exists"}]}


async def gate(
    scene: Scene, boot: str, rebooted_from: str | None = None, timeout: float = 40, said: list[str] | None = None
) -> str:
    """Open the gate of the first node, whose host is up in ``boot`` and whose kubelet answers there."""
    answer = f"@boot\n{boot}\n@kernel\n{KERNEL}\n@machine\nm-{scene.a}\n@kubelet\nok"
    world = GateWorld(
        shell=FakeShell().answers("sh", stdout=answer),
        cluster=scene.cluster,
        web=None,  # type: ignore[arg-type]
        clock=SystemClock(),
        node_of=lambda _: scene.a,
        hosts={},
        resolve=lambda _: frozenset(),
    )
    gates = Gates(kubelet=KubeletGate(ready_for=1, timeout=timeout))
    action = OpenGate(host=HostName("w1"), gates=gates, rebooted_from=rebooted_from)
    return await open_gate(world, a_host("w1"), action, (said if said is not None else []).append)


async def closed(scene: Scene, boot: str, timeout: float, rebooted_from: str | None = None) -> Failure:
    with pytest.raises(TaskError) as caught:
        await gate(scene, boot, rebooted_from, timeout)
    assert caught.value.failure.kind is FailureKind.GATE
    return caught.value.failure


async def test_the_gate_opens_on_a_node_whose_lease_moves(scene: Scene) -> None:
    scene.add("agent", "DaemonSet", **CRITICAL)
    scene.settle()

    assert "healthy after" in await gate(scene, f"b-{scene.a}")


async def test_a_node_that_is_still_ready_of_the_boot_before_keeps_the_gate_closed(scene: Scene) -> None:
    scene.kubelets.kill(scene.a)
    assert scene.kubelets.ready(scene.a) == "True"

    failure = await closed(scene, "b-new", GRACE / 2, rebooted_from=f"b-{scene.a}")

    assert failure.message.endswith(f"boot: b-{scene.a}")
    assert scene.kubelets.ready(scene.a) == "True", "it was stale Ready until the end"


async def test_a_reboot_is_seen_through_the_api_and_opens_the_gate(scene: Scene) -> None:
    scene.add("agent", "DaemonSet", **CRITICAL)
    scene.settle()
    scene.kubelets.kill(scene.a)
    said: list[str] = []

    async def come_back() -> None:
        await anyio.sleep(GRACE + 5)
        await anyio.to_thread.run_sync(scene.kubelets.boots, scene.a, "b-new")
        await anyio.to_thread.run_sync(scene.kubelets.start, scene.a)

    async with anyio.create_task_group() as group:
        group.start_soon(come_back)
        opened = await gate(scene, "b-new", f"b-{scene.a}", 90, said)

    assert "healthy after" in opened
    text = "\n".join(said)
    assert f"boot: b-{scene.a}" in text
    assert "Ready=Unknown" in text
    assert "node.kubernetes.io/unreachable" in text


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_silent_node_becomes_unknown_and_tainted_after_the_grace(scene: Scene, how: str) -> None:
    scene.add("agent", "DaemonSet", **CRITICAL)
    scene.settle()
    began = anyio.current_time()
    getattr(scene.kubelets, how)(scene.a)

    wait_until("the node is Unknown", lambda: scene.kubelets.ready(scene.a) == "Unknown", 60)
    assert anyio.current_time() - began >= GRACE - 2
    wait_until("it is tainted", lambda: len(scene.node(scene.a)["spec"].get("taints", [])) == 2)
    node = await scene.cluster.node(scene.a)
    assert node is not None
    assert set(gone_taints(node)) == {
        "node.kubernetes.io/unreachable:NoSchedule",
        "node.kubernetes.io/unreachable:NoExecute",
    }
    assert node.ready_reason == "NodeStatusUnknown"
    assert not node_facts(node).ready
    (pod,) = [pod for pod in scene.pods("agent") if pod["spec"]["nodeName"] == scene.a]
    assert not is_ready(pod), "the node controller says so of the pods of a silent node"

    failure = await closed(scene, f"b-{scene.a}", 4)
    assert "lease: renewed 0 of 2 times" in failure.message
    assert any("Ready=Unknown (NodeStatusUnknown" in line for line in failure.evidence), failure.evidence

    scene.kubelets.thaw(scene.a) if how == "freeze" else scene.kubelets.start(scene.a)
    scene.kubelets.await_ready(scene.a)


async def test_a_daemonset_pod_that_is_not_ready_keeps_the_gate_closed(scene: Scene) -> None:
    scene.add("agent", "DaemonSet", labels={"kubelet": "unready"}, **CRITICAL)
    wait_until("its pods are bound", lambda: len(scene.on(scene.a)) == 1)

    failure = await closed(scene, f"b-{scene.a}", 10)

    assert "daemonsets: not ready: " in failure.message
    assert f"{scene.space}/agent-" in failure.message


async def test_a_node_that_is_deleted_is_no_node_and_is_found_again(scene: Scene) -> None:
    scene.kubelets.kill(scene.a)
    scene.admin.delete(f"/api/v1/nodes/{scene.a}")

    failure = await closed(scene, f"b-{scene.a}", 3)

    assert "node: no Node is this host" in failure.message
    scene.kubelets.add(scene.a, "v1.36.3")
    assert "healthy after" in await gate(scene, f"b-{scene.a}", timeout=60)
