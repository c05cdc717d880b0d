"""The Kubernetes API behind ``ports.cluster``: lightkube reads kubeconfigs and opens the connection, we talk over it.

Only ``connect`` and ``kubeconfig`` are meant for the outside; importing them does not import lightkube.
"""
