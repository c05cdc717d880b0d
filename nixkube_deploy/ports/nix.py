"""What the flake says, and what is in the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nixkube_deploy.model.closure import Closure, Evaluated, FlakeState
from nixkube_deploy.model.facts import SystemContents
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.ports.shell import OnLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluator pass; a host's error does not sink the others."""

    flake: FlakeState
    hosts: Mapping[HostName, Evaluated] = field(default_factory=dict)
    failures: Mapping[HostName, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What one build made. Contents were read from the store."""

    closures: Mapping[HostName, Closure] = field(default_factory=dict)
    failures: Mapping[HostName, Failure] = field(default_factory=dict)


class Evaluator(Protocol):
    """Evaluates a flake."""

    async def state(self, flake: str) -> FlakeState:
        """Which flake this is now; raises TaskError (EVALUATION) when it cannot be read."""
        ...

    async def evaluate(self, flake: str, hosts: Sequence[Host], on_line: OnLine | None = None) -> Evaluation:
        """All hosts in one pass; raises TaskError (EVALUATION) only when nothing could be evaluated."""
        ...


class Store(Protocol):
    """The controller's Nix store, and the way from it to a host's."""

    async def build(
        self, flake: str, wanted: Sequence[Evaluated], installs: frozenset[HostName], on_line: OnLine | None = None
    ) -> Built:
        """Build what is missing in one ``nix build``; ``installs`` also get their disko script."""
        ...

    async def build_on(self, host: Host, one: Evaluated, on_line: OnLine | None = None) -> None:
        """Build a host's system on the host itself, whose store alone holds it then; raises TaskError (BUILD, ...)."""
        ...

    async def contents(self, path: StorePath) -> SystemContents | None:
        """What a system in the controller's store is made of; None when it is not there (any more)."""
        ...

    async def specialisations(self, path: StorePath) -> Mapping[str, StorePath]:
        """The specialisations of a system in the controller's store, by name."""
        ...

    async def copy(self, path: StorePath, host: Host, on_line: OnLine | None = None) -> bool:
        """Bring a closure to a host; False when it was already there. Raises TaskError (COPY, DISK_FULL, ...)."""
        ...
