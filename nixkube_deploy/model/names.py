"""Named ids, so that a host cannot be passed where a task is meant. Made only where they are parsed."""

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
