"""The lab's Kubernetes API server: a simulated cluster (``KubeState``) and its HTTP face (``KubeServer``)."""

from nixkube_deploy.lab.kube.server import KubeFaults, KubeServer
from nixkube_deploy.lab.kube.state import KubeState, NodeSummary
from nixkube_deploy.lab.kube.timing import REAL, SHORT, Timing

__all__ = ["REAL", "SHORT", "KubeFaults", "KubeServer", "KubeState", "NodeSummary", "Timing"]
