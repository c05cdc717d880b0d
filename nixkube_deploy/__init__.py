"""nixkube-deploy: take a fleet of NixOS Kubernetes nodes from what they are to what their flake says."""

__version__ = "0.1.0"
