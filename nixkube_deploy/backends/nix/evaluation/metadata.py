"""``nix flake metadata --json``: which flake this is, and what exactly is evaluated. It runs nothing."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nixkube_deploy.backends.nix.evaluation.attributes import local_tree
from nixkube_deploy.model.closure import FlakeState


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedFlake:
    """A flake as it was when it was looked at."""

    reference: str
    """As the inventory names it."""
    locked: str
    """What is evaluated: the reference with its content pinned, where Nix can pin it."""
    pinned: bool
    """Whether ``locked`` is that very content; an uncommitted tree cannot be pinned, and may change under our hands."""
    source: str
    """Its path in the store."""
    state: FlakeState
    local: bool
    """Whether it is a Git working tree on this machine."""
    identity: str
    """A hash of its content and of every input's, overridden ones included."""


def flake_state(flake: str, data: Any) -> FlakeState | None:
    """The flake's state; None when the data does not describe one.

    A clean Git tree is known by its commit. Anything else by its content's hash: a dirty tree's ``dirtyRevision``
    stays the same while its files change, and a plain directory has no revision at all.
    """
    if not isinstance(data, Mapping):
        return None
    locked = _table(data, "locked")
    commit = data.get("revision") or locked.get("rev")
    content = locked.get("narHash") or data.get("fingerprint") or data.get("path") or data.get("dirtyRevision")
    revision = commit or content
    if not isinstance(revision, str):
        return None
    url = data.get("resolvedUrl") or data.get("url") or flake
    return FlakeState(url=str(url), revision=revision, dirty=not commit and locked.get("type") == "git")


def locked_flake(flake: str, data: Any) -> LockedFlake | None:
    """What is to be evaluated; None when the data does not describe a flake."""
    state = flake_state(flake, data)
    if state is None:
        return None
    content = {"locked": _table(data, "locked"), "locks": _table(data, "locks")}
    url = data.get("url")
    pinned = isinstance(url, str) and ("narHash=" in url or "rev=" in url)
    return LockedFlake(
        reference=flake,
        locked=url if isinstance(url, str) and pinned else flake,
        pinned=pinned,
        source=str(data.get("path") or ""),
        state=state,
        local=local_tree(content["locked"]),
        identity=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    )


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}
