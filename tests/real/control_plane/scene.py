"""What one test has of the control plane: two nodes and a namespace of its own, and the product's client.

The product comes with the service account and the rights of ``docs/rbac.yaml`` and no others. Tests share nothing but
the control plane, so none waits for what another left behind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText
from nixkube_deploy.model.names import RunId
from nixkube_deploy.ports.cluster import Cluster
from tests.real.control_plane.kubelets import Kubelets
from tests.real.control_plane.plane import Admin, Object, Plane, wait_until
from tests.real.control_plane.programs import version

RIGHTS = Path(__file__).resolve().parents[3] / "docs" / "rbac.yaml"
ACCOUNT = "/api/v1/namespaces/kube-system/serviceaccounts/nixkube-deploy"
RUN = RunId("run-1")
_numbers = count(1)


def admit_product(plane: Plane) -> KubeconfigText:
    """Apply ``docs/rbac.yaml`` and be given a token, as the file says."""
    for manifest in yaml.safe_load_all(RIGHTS.read_text()):
        plane.admin.create(manifest)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
    answer = plane.admin.ask("POST", f"{ACCOUNT}/token", asked)
    return KubeconfigText(plane.kubeconfig({"token": answer["status"]["token"]}))


@dataclass
class Scene:
    """Nodes ``a`` and ``b``: pods start on ``a``, and go to ``b`` when they have to."""

    plane: Plane
    kubelets: Kubelets
    space: str
    a: str
    b: str
    cluster: Cluster = field(init=False)
    """The product's, with the product's rights; the fixture opens it."""

    @property
    def admin(self) -> Admin:
        return self.plane.admin

    def add(self, app: str, kind: str = "Deployment", replicas: int = 1, **pod: Any) -> None:
        """A workload on the two nodes; ``pod`` adds to its pods' spec."""
        scale = {} if kind == "DaemonSet" else {"replicas": replicas}
        more = {"serviceName": app, "podManagementPolicy": "Parallel"} if kind == "StatefulSet" else {}
        labels = {"app": app, **pod.pop("labels", {})}
        spec = {**scale, **more, "selector": {"matchLabels": {"app": app}}}
        spec["template"] = {"metadata": {"labels": labels}, "spec": {**self._spec(), **pod}}
        self.admin.create({"kind": kind, "metadata": {"name": app, "namespace": self.space}, "spec": spec})

    def add_pod(self, name: str, **spec: Any) -> None:
        """A pod of nobody's, on the first node."""
        meta = {"name": name, "namespace": self.space, "labels": {"app": name}}
        self.admin.create({"kind": "Pod", "metadata": meta, "spec": {**self._spec(), "nodeName": self.a, **spec}})

    def _spec(self) -> Object:
        term = {"key": "kubernetes.io/hostname", "operator": "In", "values": [self.a, self.b]}
        required = {"nodeSelectorTerms": [{"matchExpressions": [term]}]}
        return {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        }

    def protect(self, app: str, name: str = "", **limits: Any) -> None:
        """A disruption budget; the test goes on once the disruption controller has counted."""
        name = name or app
        spec = {"selector": {"matchLabels": {"app": app}}, **limits}
        meta = {"name": name, "namespace": self.space}
        self.admin.create({"kind": "PodDisruptionBudget", "metadata": meta, "spec": spec})

        def counted() -> bool:
            status = self.budget(name).get("status", {})
            return status.get("expectedPods", 0) > 0 and status.get("observedGeneration") is not None

        wait_until(f"budget {name} is counted", counted)

    def budget(self, name: str) -> Object:
        return self.admin.ask("GET", f"/apis/policy/v1/namespaces/{self.space}/poddisruptionbudgets/{name}")

    def pods(self, app: str = "") -> list[Object]:
        """The pods of the namespace; those of one app."""
        found = self.admin.items(f"/api/v1/namespaces/{self.space}/pods")
        return [pod for pod in found if app in {"", pod["metadata"]["labels"]["app"]}]

    def on(self, node: str) -> list[str]:
        """The apps of the pods on a node, one for each pod."""
        return sorted(p["metadata"]["labels"]["app"] for p in self.pods() if p["spec"].get("nodeName") == node)

    @contextmanager
    def only_first(self) -> Iterator[None]:
        """What is added in the block starts on the first node, and runs when it ends."""
        self.cordoned(self.b, value=True)
        wait_until("the scheduler sees the cordon", lambda: self.node(self.b)["spec"].get("taints"))
        yield
        self.settle()
        self.cordoned(self.b, value=False)
        wait_until("the scheduler sees no cordon", lambda: not self.node(self.b)["spec"].get("taints"))

    def settle(self) -> None:
        """Until every pod that is to be runs, but for those that never start."""

        def runs(pod: Object) -> bool:
            return is_ready(pod) or pod["metadata"]["labels"].get("kubelet") == "unready"

        def settled() -> bool:
            pods = self.pods()
            return self._complete(len(pods)) and all(p["spec"].get("nodeName") and runs(p) for p in pods)

        wait_until(f"the pods of {self.space} run", settled)

    def _complete(self, found: int) -> bool:
        wanted = 0
        for kind in ("deployments", "statefulsets"):
            owners = self.admin.items(f"/apis/apps/v1/namespaces/{self.space}/{kind}")
            wanted += sum(owner["spec"]["replicas"] for owner in owners)
        return found >= max(wanted, 1)

    def cordoned(self, node: str, *, value: bool) -> None:
        """Cordon or uncordon, as an operator does."""
        self.admin.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": value or None}})

    def node(self, name: str) -> Object:
        return self.admin.ask("GET", f"/api/v1/nodes/{name}")

    def clear(self) -> None:
        """Let nothing of it cost anything more; nobody waits for it to be gone."""
        for node in (self.a, self.b):
            self.kubelets.forget(node)
            self.admin.delete(f"/api/v1/nodes/{node}")
        self.admin.delete(f"/api/v1/namespaces/{self.space}")


def is_ready(pod: Object) -> bool:
    """Whether its Ready condition says so."""
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@contextmanager
def a_scene(plane: Plane, kubelets: Kubelets) -> Iterator[Scene]:
    """For one test."""
    number = next(_numbers)
    scene = Scene(plane, kubelets, f"space-{number}", f"n{number}-a", f"n{number}-b")
    plane.admin.create({"kind": "Namespace", "metadata": {"name": scene.space}})
    try:
        for node in (scene.a, scene.b):
            kubelets.add(node, version())
        kubelets.await_ready(scene.a, scene.b)
        yield scene
    finally:
        scene.clear()
