"""The simulated cluster as a pure state machine: nodes, workloads, pods, budgets, persistence."""

import json
import time

import pytest

from nixkube_deploy.lab.kube import KubeState, Timing, seed
from nixkube_deploy.lab.kube.objects import is_ready, is_terminating, ready_status
from nixkube_deploy.lab.kube.pods import CSI_DRIVER
from nixkube_deploy.lab.kube.store import Object, merged

START = 1_700_000_000.0
TIMING = Timing(pod_start=0.3, grace_scale=1 / 60, node_grace=4.0, node_period=0.4, toleration=20.0)


class Drive:
    """A cluster with a hand on its clock: every kubelet that runs beats once a second."""

    def __init__(self, *nodes: str) -> None:
        self.state = KubeState(now=START, timing=TIMING)
        self.beating = set(nodes)
        for name in nodes:
            self.state.register_node(name, machine_id=f"m-{name}", boot_id=f"b-{name}", addresses=["10.0.0.1"])
        self.state.seed(nodes)

    def run(self, seconds: float) -> None:
        for step in range(round(seconds * 10)):
            if step % 10 == 0:
                for name in self.beating:
                    self.state.heartbeat(name, ready=True)
            self.state.tick(self.state.now + 0.1)

    def node(self, name: str) -> Object:
        found = self.state.find("Node", name)
        assert found is not None
        return found

    def pods(self, app: str) -> list[Object]:
        return [p for p in self.state.store.all("pods") if p["metadata"]["labels"]["app"] == app]

    def on(self, node: str) -> set[str]:
        return {p["metadata"]["labels"]["app"] for p in self.state.store.pods_on(node)}


@pytest.fixture
def drive() -> Drive:
    drive = Drive("w1", "w2", "w3")
    drive.run(3)
    return drive


def test_a_seeded_cluster_settles_with_every_pod_ready(drive: Drive) -> None:
    assert all(is_ready(p) for p in drive.state.store.all("pods"))
    assert len(drive.pods("cni")) == 3
    assert {p["spec"]["nodeName"] for p in drive.pods("web")} == {"w1", "w2", "w3"}
    assert [p["metadata"]["name"] for p in drive.pods("db")] == ["db-0", "db-1", "db-2"]


def test_a_node_stays_ready_after_its_kubelet_died_and_turns_unknown_after_the_grace_period(drive: Drive) -> None:
    drive.beating.discard("w1")
    drive.state.kubelet_stopped("w1")
    drive.run(3)
    assert ready_status(drive.node("w1")) == "True"
    drive.run(3)
    assert ready_status(drive.node("w1")) == "Unknown"
    keys = {(t["key"], t["effect"]) for t in drive.node("w1")["spec"]["taints"]}
    assert keys == {("node.kubernetes.io/unreachable", "NoSchedule"), ("node.kubernetes.io/unreachable", "NoExecute")}
    assert not any(is_ready(p) for p in drive.state.store.pods_on("w1"))


def test_a_heartbeat_brings_an_unknown_node_and_its_pods_back(drive: Drive) -> None:
    drive.beating.discard("w1")
    drive.state.kubelet_stopped("w1")
    drive.run(6)
    drive.beating.add("w1")
    drive.run(2)
    assert is_ready(drive.node("w1"))
    assert drive.node("w1")["spec"]["taints"] == []
    assert all(is_ready(p) for p in drive.state.store.pods_on("w1"))


def test_pods_leave_an_unreachable_node_only_after_their_toleration_and_daemons_never(drive: Drive) -> None:
    drive.beating.discard("w1")
    drive.state.kubelet_stopped("w1")
    drive.run(15)
    assert not any("deletionTimestamp" in p["metadata"] for p in drive.state.store.pods_on("w1"))
    drive.run(15)
    leaving = {
        p["metadata"]["labels"]["app"] for p in drive.state.store.pods_on("w1") if "deletionTimestamp" in p["metadata"]
    }
    assert "web" in leaving
    assert not leaving & {"cni", "csi-node", "log-agent"}


def test_terminating_pods_wait_for_a_kubelet(drive: Drive) -> None:
    drive.beating.discard("w1")
    drive.state.kubelet_stopped("w1")
    pod = next(p for p in drive.pods("web") if p["spec"]["nodeName"] == "w1")
    drive.state.pods.terminate(pod, None)
    drive.run(3)
    assert drive.state.find("Pod", pod["metadata"]["name"], "default") is not None
    drive.beating.add("w1")
    drive.run(1)
    assert drive.state.find("Pod", pod["metadata"]["name"], "default") is None


def test_a_deleted_pod_lives_for_its_scaled_grace_and_is_replaced_elsewhere(drive: Drive) -> None:
    drive.state.set_cordon("w1", unschedulable=True)
    pod = next(p for p in drive.pods("web") if p["spec"]["nodeName"] == "w1")
    drive.state.pods.terminate(pod, 30)
    drive.run(0.3)
    assert drive.state.find("Pod", pod["metadata"]["name"], "default") is not None
    drive.run(1)
    assert drive.state.find("Pod", pod["metadata"]["name"], "default") is None
    assert len(drive.pods("web")) == 3
    assert all(is_ready(p) for p in drive.pods("web"))
    assert "web" not in drive.on("w1")


def test_pods_are_pending_while_no_node_takes_them_and_say_why(drive: Drive) -> None:
    for name in ("w1", "w2", "w3"):
        drive.state.set_cordon(name, unschedulable=True)
    pod = drive.pods("web")[0]
    drive.state.pods.terminate(pod, 0)
    drive.run(1)
    (pending,) = [p for p in drive.pods("web") if "nodeName" not in p["spec"]]
    assert pending["status"]["phase"] == "Pending"
    assert pending["status"]["conditions"][0]["message"] == "0/3 nodes are available: 3 node(s) were unschedulable."
    drive.state.set_cordon("w2", unschedulable=False)
    drive.run(1)
    assert all(is_ready(p) for p in drive.pods("web"))


def test_a_statefulset_pod_returns_under_its_own_name_with_a_new_uid(drive: Drive) -> None:
    old = next(p for p in drive.pods("db") if p["metadata"]["name"] == "db-1")
    drive.state.pods.terminate(old, None)
    drive.run(2)
    new = drive.state.find("Pod", "db-1", "default")
    assert new is not None
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert is_ready(new)


def test_a_cordon_puts_the_unschedulable_taint_and_daemons_still_run_there(drive: Drive) -> None:
    drive.state.set_cordon("w1", unschedulable=True)
    drive.run(0.2)
    assert [t["key"] for t in drive.node("w1")["spec"]["taints"]] == ["node.kubernetes.io/unschedulable"]
    daemon = next(p for p in drive.pods("cni") if p["spec"]["nodeName"] == "w1")
    drive.state.pods.terminate(daemon, 0)
    drive.run(1)
    assert "cni" in drive.on("w1")


def test_a_new_boot_restarts_pods_and_registers_csi_drivers_again_once_they_run(drive: Drive) -> None:
    drive.state.heartbeat("w1", ready=True, boot_id="b-2", kernel_version="6.12.9")
    assert not any(is_ready(p) for p in drive.state.store.pods_on("w1"))
    assert drive.state.find("CSINode", "w1")["spec"]["drivers"] == []
    drive.run(1)
    assert all(is_ready(p) for p in drive.state.store.pods_on("w1"))
    assert [d["name"] for d in drive.state.find("CSINode", "w1")["spec"]["drivers"]] == [CSI_DRIVER]
    info = drive.node("w1")["status"]["nodeInfo"]
    assert (info["bootID"], info["kernelVersion"]) == ("b-2", "6.12.9")
    assert any(e["reason"] == "Rebooted" for e in drive.state.store.all("events"))


def test_a_kubelet_restart_leaves_its_pods_alone(drive: Drive) -> None:
    before = {p["metadata"]["resourceVersion"] for p in drive.state.store.pods_on("w1")}
    drive.state.kubelet_stopped("w1")
    drive.run(0.5)
    assert {p["metadata"]["resourceVersion"] for p in drive.state.store.pods_on("w1")} == before


def test_a_frozen_lease_ages_while_the_kubelet_says_it_is_fine(drive: Drive) -> None:
    drive.state.freeze_lease("w1")
    renewed = drive.state.find("Lease", "w1", "kube-node-lease")["spec"]["renewTime"]
    drive.run(2)
    assert drive.state.find("Lease", "w1", "kube-node-lease")["spec"]["renewTime"] == renewed
    assert is_ready(drive.node("w1"))
    drive.run(4)
    assert ready_status(drive.node("w1")) == "Unknown"
    drive.state.freeze_lease("w1", frozen=False)
    drive.run(1)
    assert is_ready(drive.node("w1"))


def test_a_node_that_says_it_is_not_ready_is_tainted_and_gets_no_pods(drive: Drive) -> None:
    drive.beating.discard("w1")
    drive.state.heartbeat("w1", ready=False, reason="container runtime is down")
    drive.run(0.2)
    condition = next(c for c in drive.node("w1")["status"]["conditions"] if c["type"] == "Ready")
    assert (condition["status"], condition["message"]) == ("False", "container runtime is down")
    assert {t["key"] for t in drive.node("w1")["spec"]["taints"]} == {"node.kubernetes.io/not-ready"}


def test_held_pods_never_become_ready_until_they_are_let_go(drive: Drive) -> None:
    drive.state.hold_pods("w1")
    drive.state.heartbeat("w1", ready=True, boot_id="b-2")
    drive.run(3)
    assert not any(is_ready(p) for p in drive.state.store.pods_on("w1"))
    drive.state.hold_pods("w1", held=False)
    drive.run(1)
    assert all(is_ready(p) for p in drive.state.store.pods_on("w1"))


def test_a_budget_counts_ready_pods_and_what_may_go(drive: Drive) -> None:
    status = drive.state.find("PodDisruptionBudget", "web", "default")["status"]
    counts = {key: status[key] for key in ("currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed")}
    assert counts == {"currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3, "disruptionsAllowed": 1}
    drive.state.block_budgets()
    drive.run(0.1)
    assert drive.state.find("PodDisruptionBudget", "web", "default")["status"]["disruptionsAllowed"] == 0


def test_a_blocked_drain_is_a_pod_with_a_budget_that_can_be_taken_away_again(drive: Drive) -> None:
    drive.state.block_drain("w2")
    drive.run(1)
    assert "stubborn-w2" in drive.on("w2")
    assert drive.state.find("PodDisruptionBudget", "stubborn-w2", "default")["status"]["disruptionsAllowed"] == 0
    drive.state.unblock_drain("w2")
    drive.run(1)
    assert "stubborn-w2" not in drive.on("w2")


def test_a_deleted_node_takes_its_pods_along(drive: Drive) -> None:
    drive.beating.discard("w3")
    drive.state.store.remove(drive.node("w3"))
    drive.run(2)
    assert drive.state.store.pods_on("w3") == ()
    assert len(drive.pods("cni")) == 2
    assert len([p for p in drive.pods("web") if is_ready(p)]) == 3


def test_a_saved_cluster_goes_on_where_it_was(drive: Drive) -> None:
    drive.state.set_cordon("w1", unschedulable=True)
    pod = next(p for p in drive.pods("web") if p["spec"]["nodeName"] == "w1")
    drive.state.pods.terminate(pod, 30)
    saved = json.loads(json.dumps(drive.state.to_plain()))
    again = KubeState.from_plain(saved, now=START + 1000, timing=TIMING)
    drive.state = again
    drive.run(3)
    assert all(is_ready(n) for n in again.store.all("nodes"))
    assert drive.node("w1")["spec"]["unschedulable"] is True
    assert again.find("Pod", pod["metadata"]["name"], "default") is None
    assert len([p for p in drive.pods("web") if is_ready(p)]) == 3


def test_a_saved_cluster_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 99"):
        KubeState.from_plain({"version": 99}, now=START)


def test_the_same_history_mints_the_same_names() -> None:
    def names() -> set[str]:
        drive = Drive("w1", "w2")
        drive.run(1)
        return {p["metadata"]["name"] for p in drive.state.store.all("pods")}

    assert names() == names()


def test_a_large_cluster_ticks_in_a_moment() -> None:
    drive = Drive(*(f"n{i}" for i in range(100)))
    drive.run(3)
    assert drive.state.store.count("pods") >= 400
    begin = time.process_time()
    for _ in range(50):
        drive.state.tick(drive.state.now + 0.1)
    assert (time.process_time() - begin) / 50 < 0.002


def test_every_condition_of_a_silent_node_is_unknown_and_comes_back(drive: Drive) -> None:
    drive.beating.discard("w1")
    drive.state.kubelet_stopped("w1")
    drive.run(6)
    conditions = drive.node("w1")["status"]["conditions"]
    assert {c["type"]: c["status"] for c in conditions} == dict.fromkeys(
        ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready"), "Unknown"
    )
    drive.beating.add("w1")
    drive.run(2)
    assert [c["status"] for c in drive.node("w1")["status"]["conditions"]] == ["False", "False", "False", "True"]


def test_a_taint_that_is_not_tolerated_drives_pods_off_at_once_past_every_budget(drive: Drive) -> None:
    drive.state.block_budgets()
    taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
    node = drive.node("w1")
    drive.state.store.put(merged(node, spec={"taints": [taint]}))
    drive.state.tick(drive.state.now + 0.1)
    leaving = {p["metadata"]["labels"]["app"] for p in drive.state.store.pods_on("w1") if is_terminating(p)}
    assert "web" in leaving


@pytest.mark.parametrize(("seconds", "leaves"), [(75, True), (1000, False), (None, False)])
def test_a_pod_bears_a_node_that_is_not_ready_as_long_as_it_says(
    drive: Drive, seconds: int | None, *, leaves: bool
) -> None:
    toleration = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}
    limit = {} if seconds is None else {"tolerationSeconds": seconds}
    pod = {"nodeSelector": {"kubernetes.io/hostname": "w1"}, "tolerations": [{**toleration, **limit}]}
    drive.state.apply(seed.workload("Deployment", "own", "default", replicas=1, pod=pod))
    drive.run(1)
    drive.beating.discard("w1")
    for _ in range(10):
        drive.state.heartbeat("w1", ready=False, reason="cni plugin not initialized")
        drive.run(1)
    assert any(is_terminating(p) or not p["spec"].get("nodeName") for p in drive.pods("own")) == leaves
