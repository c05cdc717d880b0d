"""How long things take in the lab's cluster, in one value.

The defaults are a real cluster's, shortened so that a rehearsal takes seconds; ``REAL`` keeps the real ones.
It deliberately holds no clock.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds, unless said otherwise."""

    pod_start: float = 0.2
    """From being bound to Ready."""
    grace_scale: float = 1 / 200
    """A pod that gets 30 s to terminate takes this share of it."""
    node_grace: float = 4.0
    """A Lease that was not renewed for so long makes its node Unknown (``node-monitor-grace-period``)."""
    node_period: float = 0.4
    """How often Leases are looked at (``node-monitor-period``)."""
    toleration: float = 24.0
    """How long pods stay on an unreachable node (``tolerationSeconds``)."""
    status_period: float = 300.0
    """How often a kubelet posts an unchanged status."""


SHORT = Timing()
"""For rehearsals and tests."""

REAL = Timing(pod_start=5.0, grace_scale=1 / 10, node_grace=50.0, node_period=5.0, toleration=300.0)
"""As Kubernetes 1.32 does it by default."""
