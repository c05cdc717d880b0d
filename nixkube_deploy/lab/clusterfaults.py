"""Faults of the cluster as the simulated API server and its nodes show them.

What holds for as long as a fault is set follows the plan (``apply``); what strikes single requests asks the plan for
each (``answer``). It deliberately knows no machine: faults of hosts and kubelets are with these.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from nixkube_deploy.lab.faults import FLEET, FaultPlan
from nixkube_deploy.lab.kube.faults import EVICTIONS, flow_control, webhook_fails
from nixkube_deploy.lab.kube.http import Request, Response
from nixkube_deploy.lab.kube.server import KubeServer
from nixkube_deploy.lab.kube.state import KubeState


@dataclass(slots=True, kw_only=True)
class ClusterFaults:
    """The plan's hold on one cluster. ``nodes`` is host to Node name."""

    plan: FaultPlan
    state: KubeState
    server: KubeServer | None
    nodes: Mapping[str, str]

    def apply(self) -> None:
        """Let what is set take hold, and what is not let go."""
        for host, node in self.nodes.items():
            if self.plan.peek(host, "pdb-blocks"):
                self.state.block_drain(node)
            else:
                self.state.unblock_drain(node)
            self.state.refuse_node(node, refused=self.plan.peek(host, "node-missing") is not None)
            self.state.hold_pods(node, held=self.plan.peek(host, "pods-never-ready") is not None)
            self.state.keep_pods(node, kept=self.plan.peek(host, "pods-stuck") is not None)
            self.state.cut_off(node, cut=self.plan.peek(host, "lease-frozen") is not None)
        if self.server is not None:
            self.server.faults.asked = self.answer

    def strike(self) -> None:
        """The API goes away when the first node is cordoned: in the middle of a rollout, not before it."""
        for kind in ("api-down", "api-silent"):
            fault = self.plan.peek(FLEET, kind)
            if fault is None or self.server is None or self.server.is_down or self.server.is_silent:
                continue
            if not any(node.unschedulable for node in self.state.summary()):
                continue
            if fault.remaining is None:
                fault.remaining = 1
            self.plan.take(FLEET, kind)
            if kind == "api-down":
                self.server.take_down(fault.seconds)
            else:
                self.server.fall_silent(fault.seconds)

    def answer(self, request: Request) -> Response | None:
        """What one request gets instead of the server's own answer."""
        evicts = request.method == "POST" and re.search(EVICTIONS, request.path) is not None
        if evicts and self.plan.take(FLEET, "eviction-fails"):
            return webhook_fails().response()
        if evicts and self.plan.take(FLEET, "eviction-throttled"):
            return flow_control().response()
        if self.plan.take(FLEET, "api-throttled"):
            return flow_control().response()
        return None
