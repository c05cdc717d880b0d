"""Closures in numbers: what the controller's store has, and what of it a host lacks.

Nothing here is needed to change a host; it is for those who want to know before.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.model.packages import Sizes, StoredPath


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStore:
    """What one host said of its store."""

    missing: frozenset[StorePath]
    """Which of the paths that were asked about it does not have."""
    running: Sizes | None = None
    """The closure of the system that was asked about; None when it was not, or the host could not say."""


class Closures(Protocol):
    """Looks into stores; changes none."""

    async def stored(self, systems: Collection[StorePath]) -> Mapping[StorePath, StoredPath]:
        """All paths in the closures of those ``systems`` that the controller's store has, in one query.

        Raises:
            TaskError: COMMAND, when Nix cannot say.
        """
        ...

    async def on_host(self, host: Host, wanted: Collection[StorePath], running: StorePath | None = None) -> HostStore:
        """Which of ``wanted`` the host lacks and, when given, the closure of ``running``, in one round trip.

        Raises:
            TaskError: COMMAND, and what ``Shell`` raises.
        """
        ...
