"""The names in an inventory, read in a hurry: for a shell that completes them while they are being typed.

It does not ask whether the inventory is right, follows no setting to where it comes from, and runs no program.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nixkube_deploy.inventory.error import InventoryError
from nixkube_deploy.inventory.source import LARGEST, source_of_bytes
from nixkube_deploy.inventory.tree import Items, Node, Scalar, Table, compose


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What ``--on`` may name: hosts with their groups, groups, and labels as ``key=value``."""

    hosts: Mapping[str, str]
    groups: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def outline(path: Path) -> Outline | None:
    """What the file at ``path`` names; None where it is a program, too large, or nothing that can be read."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST:
            return None
        data = path.read_bytes()
        tree = None if data.startswith(b"#!") else compose(source_of_bytes(data, path.name, path.parent))
    except (OSError, InventoryError):
        return None
    top = _entries(tree)
    hosts, groups = _entries(top.get("hosts")), _entries(top.get("groups"))
    layers = (_entries(layer) for layer in (top.get("defaults"), *groups.values(), *hosts.values()))
    labels = [pair for layer in layers for pair in _entries(layer.get("labels")).items()]
    return Outline(
        hosts={name: _groups(settings) for name, settings in hosts.items()},
        groups=tuple(groups),
        labels=tuple(sorted({f"{key}={value.text}" for key, value in labels if isinstance(value, Scalar)})),
    )


def _entries(node: Node | None) -> dict[str, Node]:
    return {name: entry.value for name, entry in node.entries.items()} if isinstance(node, Table) else {}


def _groups(settings: Node) -> str:
    names = _entries(settings).get("groups")
    return " ".join(name.text for name in names.items if isinstance(name, Scalar)) if isinstance(names, Items) else ""
