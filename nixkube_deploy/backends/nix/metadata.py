"""``nix flake metadata --json`` to the one thing that matters: whether the flake is still the one that was reviewed."""

from collections.abc import Mapping
from typing import Any

from nixkube_deploy.model.closure import FlakeState


def flake_state(flake: str, data: Any) -> FlakeState | None:
    """The flake's state; None when the data does not describe one.

    A clean Git tree is known by its commit. Anything else by its content's hash: a dirty tree's ``dirtyRevision``
    stays the same while its files change, and a plain directory has no revision at all.
    """
    if not isinstance(data, Mapping):
        return None
    locked = data.get("locked")
    locked = locked if isinstance(locked, Mapping) else {}
    commit = data.get("revision") or locked.get("rev")
    content = locked.get("narHash") or data.get("fingerprint") or data.get("path") or data.get("dirtyRevision")
    revision = commit or content
    if not isinstance(revision, str):
        return None
    url = data.get("resolvedUrl") or data.get("url") or flake
    return FlakeState(url=str(url), revision=revision, dirty=not commit and locked.get("type") == "git")
