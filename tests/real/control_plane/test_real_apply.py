"""``deploy apply`` as a person types it: hosts of the lab over SSH, their Nodes in the real control plane.

The inventory's kubeconfig is the one of ``docs/rbac.yaml``. A courier takes what each machine's kubelet says of itself
(boot, kernel, version, or nothing) to the Node that kwok keeps for it; the lab's own API is never asked by the product.
"""

import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText
from nixkube_deploy.lab.control import ask
from nixkube_deploy.model.cluster import OWNER_ANNOTATION, TO_COME_TAINT
from tests.lab.fault_fleet import BEHIND
from tests.lab.rig import ROOT, Rig, a_lab
from tests.real.control_plane.kubelets import Kubelets
from tests.real.control_plane.plane import Plane, wait_until
from tests.real.control_plane.scene import is_ready

CHANGES = {"w1": "live", "w2": "node", "w3": "reboot"}
SPACE = "shop"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/nixkube-deploy"
LOOKS = 0.1

INVENTORY = """\
cluster: {name: real, distribution: k3s, kubeconfig: KUBECONFIG}
flake: ./flake
defaults:
  ssh: {user: root, connect_timeout: 5s}
  privilege: none
strategy:
  canary: 1
  max_unavailable: 1
  soak: 0s
  drain: {timeout: 60s}
  reboot_timeout: 30s
gates:
  kubelet: {ready_for: 1s, timeout: 60s}
groups:
  workers: {role: worker}
hosts:
  w1: {address: 10.9.0.1, groups: [workers]}
  w2: {address: 10.9.0.2, groups: [workers]}
  w3: {address: 10.9.0.3, groups: [workers]}
"""


def write_fleet(folder: Path) -> Path:
    flake = folder / "flake"
    (flake / "roles").mkdir(parents=True)
    for name in ("flake.nix", "common.json"):
        (flake / name).write_text((ROOT / "flakes" / "lab" / name).read_text())
    rules = [{"hosts": host, "with": BEHIND[change]} for host, change in CHANGES.items()]
    (flake / "before.json").write_text(json.dumps({"rules": rules}))
    (flake / "roles" / "worker.json").write_text("{}")
    inventory = folder / "real.yaml"
    inventory.write_text(INVENTORY)
    return inventory


@dataclass
class Beside(ABC):
    """A thread that does the same thing again and again until the block ends; what it died of is raised there."""

    every: float
    ended: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._thread.join(30)
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        while not self.ended.wait(self.every):
            try:
                self.step()
            except Exception as error:  # noqa: BLE001 (raised again by whoever waits)
                self.error = error
                return

    @abstractmethod
    def step(self) -> None: ...


@dataclass
class Courier(Beside):
    """From the lab's machines to the Nodes."""

    rig: Rig = field(kw_only=True)
    plane: Plane = field(kw_only=True)
    kubelets: Kubelets = field(kw_only=True)
    posted: dict[str, Any] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)

    def step(self) -> None:
        pulse = next(iter(ask(self.rig.directory, {"op": "pulse"})))["hosts"]
        said = {name: node["status"]["nodeInfo"] for name, node in self.rig.nodes().items()}
        for name, host in pulse.items():
            if not host["serves"]:
                if name not in self.silent:
                    self.kubelets.freeze(name)
                self.silent.add(name)
                continue
            if self.posted.get(name) != said[name]:
                self.plane.admin.patch(f"/api/v1/nodes/{name}/status", {"status": {"nodeInfo": said[name]}})
                self.posted[name] = said[name]
            if name in self.silent:
                self.kubelets.thaw(name)
                self.silent.discard(name)


@dataclass
class Onlooker(Beside):
    """What the real API says while the product works."""

    plane: Plane = field(kw_only=True)
    cordoned: list[set[str]] = field(default_factory=list)
    owners: dict[str, set[str]] = field(default_factory=dict)
    marked: set[str] = field(default_factory=set)
    holders: set[str] = field(default_factory=set)
    fewest: int = 99
    emptied: set[str] = field(default_factory=set)
    """Nodes that were seen cordoned, and without a pod of the shop."""

    def step(self) -> None:
        nodes = {n: self.plane.admin.ask("GET", f"/api/v1/nodes/{n}") for n in CHANGES}
        self.cordoned.append({name for name, node in nodes.items() if node["spec"].get("unschedulable")})
        for name, node in nodes.items():
            owner = node["metadata"].get("annotations", {}).get(OWNER_ANNOTATION)
            assert owner or name not in self.cordoned[-1], f"{name} is cordoned, and nobody owns that"
            self.owners.setdefault(name, set()).update([owner] if owner else [])
            taints = {taint["key"] for taint in node["spec"].get("taints", [])}
            self.marked |= {name} if TO_COME_TAINT in taints else set()
        lease = self.plane.admin.find(LEASE)
        self.holders |= {lease["spec"]["holderIdentity"]} if lease and lease["spec"].get("holderIdentity") else set()
        pods = shop(self.plane)
        self.fewest = min(self.fewest, sum(is_ready(p) and "deletionTimestamp" not in p["metadata"] for p in pods))
        self.emptied |= self.cordoned[-1] - {pod["spec"].get("nodeName") for pod in pods}


def shop(plane: Plane) -> list[dict[str, Any]]:
    """The pods that the budget protects."""
    found = plane.admin.items(f"/api/v1/namespaces/{SPACE}/pods")
    return [pod for pod in found if pod["metadata"]["labels"]["app"] == "web"]


def workloads(plane: Plane) -> None:
    """Three pods, one a node, of which two must always be there; an agent on each node that a gate waits for."""
    term = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(CHANGES)}
    required = {"nodeSelectorTerms": [{"matchExpressions": [term]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    base = {"containers": [{"name": "c", "image": "pause"}], "terminationGracePeriodSeconds": 1, "affinity": affinity}
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    spread |= {"labelSelector": {"matchLabels": {"app": "web"}}}
    critical = {"priorityClassName": "system-node-critical", "tolerations": [{"operator": "Exists"}]}
    plane.admin.create({"kind": "Namespace", "metadata": {"name": SPACE}})
    for kind, app, scale, more in (
        ("Deployment", "web", {"replicas": 3}, {"topologySpreadConstraints": [spread]}),
        ("DaemonSet", "agent", {}, critical),
    ):
        spec = {**scale, "selector": {"matchLabels": {"app": app}}}
        spec["template"] = {"metadata": {"labels": {"app": app}}, "spec": {**base, **more}}
        plane.admin.create({"kind": kind, "metadata": {"name": app, "namespace": SPACE}, "spec": spec})
    protect(plane, "web", minAvailable=2)
    wait_until("a pod of the shop runs on each node", lambda: on_each(plane))
    wait_until("the budget is counted", lambda: budget(plane, "web").get("disruptionsAllowed") == 1)


def protect(plane: Plane, name: str, **limits: int) -> None:
    spec = {"selector": {"matchLabels": {"app": "web"}}, **limits}
    plane.admin.create({"kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": SPACE}, "spec": spec})


def budget(plane: Plane, name: str) -> dict[str, Any]:
    path = f"/apis/policy/v1/namespaces/{SPACE}/poddisruptionbudgets/{name}"
    return plane.admin.ask("GET", path).get("status", {})


def on_each(plane: Plane) -> bool:
    return {pod["spec"].get("nodeName") for pod in shop(plane) if is_ready(pod)} == set(CHANGES)


@contextmanager
def a_fleet(folder: Path, plane: Plane, kubelets: Kubelets, kubeconfig: KubeconfigText) -> Iterator[Rig]:
    """Three machines of a lab with Nodes and pods in the real cluster."""
    rights = folder / "product.kubeconfig"
    rights.touch(mode=0o600)
    rights.write_text(str(kubeconfig.text))
    with a_lab(folder, write_fleet(folder), "--real-time") as rig:
        inventory = rig.inventory.read_text()
        twins = str(rig.directory / "kubeconfig")
        assert inventory.count(twins) == 1, inventory
        rig.inventory.write_text(inventory.replace(twins, str(rights)))
        rig.environment["KUBECONFIG"] = os.devnull
        try:
            for name, node in rig.nodes().items():
                kubelets.add(name, **node["status"]["nodeInfo"])
            kubelets.await_ready(*CHANGES)
            workloads(plane)
            with Courier(0.2, rig=rig, plane=plane, kubelets=kubelets):
                yield rig
        finally:
            for name in CHANGES:
                kubelets.forget(name)
                plane.admin.delete(f"/api/v1/nodes/{name}")
            plane.admin.delete(f"/api/v1/namespaces/{SPACE}")


@pytest.fixture(scope="module")
def rig(
    tmp_path_factory: pytest.TempPathFactory, plane: Plane, kubelets: Kubelets, kubeconfig: KubeconfigText
) -> Iterator[Rig]:
    with a_fleet(tmp_path_factory.mktemp("apply"), plane, kubelets, kubeconfig) as rig:
        yield rig


def test_a_host_whose_pods_can_never_leave_is_refused_before_anything_is_touched(rig: Rig, plane: Plane) -> None:
    protect(plane, "twice", minAvailable=0)
    try:
        wait_until("the second budget is counted", lambda: budget(plane, "twice").get("expectedPods") == 3)
        done = rig.deploy("apply", rig.inventory, "--yes")
    finally:
        plane.admin.delete(f"/apis/policy/v1/namespaces/{SPACE}/poddisruptionbudgets/twice")

    assert done.returncode == 3, done.stderr
    assert "is covered by 2 PodDisruptionBudgets (shop/twice, shop/web)" in " ".join(done.stderr.split())
    assert plane.admin.find(LEASE) is None


def test_a_rollout_cordons_drains_reboots_gates_and_gives_back(rig: Rig, plane: Plane) -> None:
    before, boots = shop(plane), {n: m["boot_id"] for n, m in rig.machines().items()}

    with Onlooker(LOOKS, plane=plane) as seen:
        done = rig.deploy("apply", rig.inventory, "--yes", timeout=200)

    assert done.returncode == 0, done.stderr
    run = json.loads(rig.deploy("show", "--json").stdout)["run"]
    assert len(seen.cordoned) > 30, "nobody looked"
    # Cordon and ownership, one at a time; the live change disturbs nobody.
    assert set().union(*seen.cordoned) == {"w2", "w3"}
    assert max(map(len, seen.cordoned)) == 1
    assert seen.owners == {"w1": set(), "w2": {run}, "w3": {run}}
    # The drain: each was empty while it was cordoned, and the budget held at every look.
    assert seen.emptied == {"w2", "w3"}
    assert seen.fewest >= 2
    left = {pod["metadata"]["uid"] for pod in before if pod["spec"]["nodeName"] in {"w2", "w3"}}
    assert not left & {pod["metadata"]["uid"] for pod in shop(plane)}
    # The cluster's lock, by this run and only as long as it took.
    assert {holder.rpartition(":")[2] for holder in seen.holders} == {run}
    lease = plane.admin.find(LEASE)
    assert lease is None or not lease["spec"].get("holderIdentity")
    # The reboot, as the host and the API tell it; the gate opened behind that.
    after = {name: machine["boot_id"] for name, machine in rig.machines().items()}
    assert {name for name in CHANGES if after[name] != boots[name]} == {"w3"}
    node = plane.admin.ask("GET", "/api/v1/nodes/w3")
    assert node["status"]["nodeInfo"]["bootID"] == after["w3"]
    for name in CHANGES:
        node = plane.admin.ask("GET", f"/api/v1/nodes/{name}")
        assert not node["spec"].get("unschedulable"), name
        assert OWNER_ANNOTATION not in node["metadata"].get("annotations", {}), name
        assert TO_COME_TAINT not in {taint["key"] for taint in node["spec"].get("taints", [])}, name
    assert not any(node["spec"].get("unschedulable") for node in rig.nodes().values()), "the lab's API was never asked"
    assert seen.marked <= {"w2", "w3"}
    assert seen.marked, "evicted pods were to avoid the node still to come"


def test_a_second_apply_has_nothing_to_do_and_a_reboot_keeps_a_foreign_cordon(rig: Rig, plane: Plane) -> None:
    again = rig.deploy("apply", rig.inventory, "--yes")
    assert again.returncode == 0, again.stderr
    wait_until("w2's Node is calm", lambda: not plane.admin.ask("GET", "/api/v1/nodes/w2")["spec"].get("taints"))
    plane.admin.patch("/api/v1/nodes/w2", {"spec": {"unschedulable": True}})

    done = rig.deploy("reboot", rig.inventory, "--all", "--on", "w2", "--yes", timeout=200)

    assert done.returncode == 0, done.stderr
    node = plane.admin.ask("GET", "/api/v1/nodes/w2")
    assert node["spec"].get("unschedulable"), "it was cordoned before"
    assert OWNER_ANNOTATION not in node["metadata"].get("annotations", {})
    assert "stays cordoned, as it was before the run" in done.stderr
