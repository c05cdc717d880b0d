"""Nodes without machines: one kwok process a node, so that each kubelet can die, freeze and come back by itself.

It deliberately runs nothing: what kwok's nodes and pods do is in ``stages.yaml``.
"""

import signal
from pathlib import Path

from tests.real.control_plane.plane import Object, Plane, Program, wait_until

STAGES = Path(__file__).resolve().parent / "stages.yaml"
LEASE = 4
"""Seconds a node's Lease lasts; it is renewed four times as often."""
KERNEL = "6.12.8"


class Kubelets:
    """The nodes of a control plane."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._config = plane.config_of("kwok", "system:masters")
        self._processes: dict[str, Program] = {}

    def add(self, name: str, version: str = "", **said: str) -> None:
        """A new node, and its kubelet; ``said`` is what it says of its machine beyond the usual."""
        info = {
            "machineID": f"m-{name}",
            "bootID": f"b-{name}",
            "kernelVersion": KERNEL,
            "kubeletVersion": version,
            "systemUUID": f"m-{name}",
            "osImage": "NixOS",
            "operatingSystem": "linux",
            "architecture": "amd64",
            "containerRuntimeVersion": "containerd://2.0.5",
            "kubeProxyVersion": version,
            **said,
        }
        amount = {"cpu": "4", "memory": "8Gi", "pods": "110"}
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        addresses = [{"type": "Hostname", "address": name}]
        status: Object = {"nodeInfo": info, "capacity": amount, "allocatable": amount, "addresses": addresses}
        self._plane.admin.create({"kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status})
        self.start(name)

    def start(self, name: str) -> None:
        """The kubelet begins, or begins again."""
        arguments = (
            f"--kubeconfig={self._config}",
            f"--config={STAGES}",
            f"--manage-single-node={name}",
            f"--node-lease-duration-seconds={LEASE}",
        )
        self._processes[name] = self._plane.launch(f"kwok-{name}", "kwok", *arguments)

    def kill(self, name: str) -> None:
        """It is gone, as when its machine is."""
        self._processes.pop(name).stop()

    def forget(self, name: str) -> None:
        """It is gone if it was there at all."""
        if name in self._processes:
            self.kill(name)

    def freeze(self, name: str) -> None:
        """It hangs, with every connection still open."""
        process = self._processes[name].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        process = self._processes[name].process
        assert process is not None
        process.send_signal(signal.SIGCONT)

    def boots(self, name: str, boot_id: str) -> None:
        """Have the kubelet that starts next report another boot."""
        self._plane.admin.patch(f"/api/v1/nodes/{name}/status", {"status": {"nodeInfo": {"bootID": boot_id}}})

    def ready(self, name: str) -> str:
        """The Ready condition's status, as the API has it."""
        node = self._plane.admin.ask("GET", f"/api/v1/nodes/{name}")
        conditions = node["status"].get("conditions", [])
        return next((str(c["status"]) for c in conditions if c["type"] == "Ready"), "")

    def await_ready(self, *names: str) -> None:
        """Ready, and without the taints of the node controller."""

        def calm(name: str) -> bool:
            node = self._plane.admin.ask("GET", f"/api/v1/nodes/{name}")
            return self.ready(name) == "True" and not any(
                taint["key"].startswith("node.kubernetes.io/not-ready")
                or taint["key"].startswith("node.kubernetes.io/unreachable")
                for taint in node["spec"].get("taints", [])
            )

        wait_until(f"{', '.join(names)} are Ready", lambda: all(map(calm, names)), 90)
