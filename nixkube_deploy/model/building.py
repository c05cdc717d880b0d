"""How configurations are evaluated and systems built, as the inventory says. It runs nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class BuildOn(StrEnum):
    """Where a host's system is built."""

    CONTROLLER = "controller"
    """By the controller's Nix, which may hand the work to its remote builders."""
    TARGET = "target"
    """On the host itself, from derivations that the controller evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How the flake is evaluated."""

    workers: int | None = None
    """Evaluators side by side; None: as many as processors and ``max_memory`` allow."""
    max_memory: int | None = None
    """Bytes that all evaluators together may use; None: a share of what the controller has free."""
    override_inputs: Mapping[str, str] = field(default_factory=dict)
    """Flake inputs to replace, name to flake reference; a local path is absolute."""
    impure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """What is handed through to ``nix build``; None leaves the controller's nix.conf."""

    max_jobs: int | None = None
    cores: int | None = None
    builders: str | None = None
    """As ``builders`` in nix.conf: ``ssh://builder aarch64-linux``, or ``@/etc/nix/machines``."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Any other ``nix.conf`` setting, name to value."""
