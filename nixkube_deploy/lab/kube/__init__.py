"""The lab's Kubernetes API server: a simulated cluster (``KubeState``) and its HTTP face (``KubeServer``)."""

from nixkube_deploy.lab.kube.faults import KubeFaults, Scripted, flow_control, webhook_fails
from nixkube_deploy.lab.kube.server import KubeServer
from nixkube_deploy.lab.kube.state import KubeState, NodeSummary
from nixkube_deploy.lab.kube.timing import REAL, SHORT, Timing
from nixkube_deploy.lab.kube.users import ADMIN, Accounts, User, service_account

__all__ = [
    "ADMIN",
    "REAL",
    "SHORT",
    "Accounts",
    "KubeFaults",
    "KubeServer",
    "KubeState",
    "NodeSummary",
    "Scripted",
    "Timing",
    "User",
    "flow_control",
    "service_account",
    "webhook_fails",
]
