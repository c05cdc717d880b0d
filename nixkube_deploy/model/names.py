"""Named ids, so that a host cannot be passed where a task is meant. Made only where they are parsed."""

from collections.abc import Iterable
from typing import NewType

HostName = NewType("HostName", str)
"""A host's key in the inventory."""

GroupName = NewType("GroupName", str)
"""A group's key in the inventory."""

NodeName = NewType("NodeName", str)
"""A Kubernetes Node's ``metadata.name``; never assumed to equal the host's name."""

TaskId = NewType("TaskId", str)
"""A task's id within one graph, written ``host/step``."""

RunId = NewType("RunId", str)
"""One run: UTC time plus four random hex digits, ``20261122T204931Z-3fa9``."""

StorePath = NewType("StorePath", str)
"""An absolute path in the Nix store, ``/nix/store/<32 chars>-<name>``."""


def name_some(names: Iterable[str], shown: int = 3) -> str:
    """``w1, w2, w3 and 4 more``: as many names as a sentence bears, sorted."""
    ordered = sorted(names)
    return ", ".join(ordered[:shown]) + (f" and {len(ordered) - shown} more" if len(ordered) > shown else "")
