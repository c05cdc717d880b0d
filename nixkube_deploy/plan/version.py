"""Kubernetes versions, where they are known: what must not be overtaken, and what has no way back.

Most often they are not known before the switch; then nothing is claimed, and the plan says so as a risk.
"""

import re
from collections.abc import Iterable

from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.names import HostName
from nixkube_deploy.plan.prepared import Prepared

Minor = tuple[int, int]
"""``(1, 31)`` of ``v1.31.4+k3s1``."""


def minor(version: str) -> Minor | None:
    """The minor version, None when the text is none."""
    match = re.match(r"v?(\d+)\.(\d+)\b", version)
    return (int(match[1]), int(match[2])) if match else None


def running(facts: HostFacts) -> Minor | None:
    """What the host's kubelet says it is, else what its system holds."""
    told = minor(facts.node.kubelet_version) if facts.node is not None else None
    return told or (minor(facts.current.kubernetes) if facts.current is not None else None)


def crossing(facts: HostFacts, closure: Closure) -> str:
    """``1.31 -> 1.32`` when the change is known to cross a minor version, else empty."""
    old, new = running(facts), minor(closure.contents.kubernetes)
    return f"{said(old)} -> {said(new)}" if old is not None and new is not None and old != new else ""


def said(version: Minor) -> str:
    """``1.31``."""
    return f"{version[0]}.{version[1]}"


def overtakers(prepared: Prepared, control: frozenset[HostName], workers: Iterable[HostName]) -> frozenset[HostName]:
    """Workers whose new kubelet would be newer than an API server running now."""
    serving = [v for name in control if name in prepared.facts if (v := running(prepared.facts[name])) is not None]
    oldest = min(serving, default=None)
    if oldest is None:
        return frozenset()
    wanted = {n: minor(prepared.closures[n].contents.kubernetes) for n in workers if n in prepared.closures}
    return frozenset(name for name, version in wanted.items() if version is not None and version > oldest)
