"""What the user asked for, parsed once by the command line; and the fleet it leaves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nixkube_deploy.app.pins import InstalledKeys
from nixkube_deploy.app.state import state_directory
from nixkube_deploy.inventory.load import Loaded, load_fleet
from nixkube_deploy.inventory.select import select
from nixkube_deploy.inventory.shape import Unfit
from nixkube_deploy.inventory.values import resolve_flake
from nixkube_deploy.model.action import SwitchMode
from nixkube_deploy.model.building import BuildOn, BuildSettings, EvaluationSettings
from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.fleet import Fleet, Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.strategy import HostPolicy, Limit, OnFailure, RebootBlockers, RebootPolicy, Strategy

_LONGEST_BLANK = 64
"""Bytes in which a plan's first brace is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Settings from the command line; None leaves the inventory's."""

    canary: int | None = None
    max_unavailable: Limit | None = None
    max_failures: Limit | None = None
    on_failure: OnFailure | None = None
    reboot: RebootPolicy | None = None
    no_drain: bool = False
    ignore_blockers: bool = False
    impure: bool = False
    override_inputs: Mapping[str, str] = field(default_factory=dict)
    """Added to the inventory's ``evaluation.override_inputs``; a local path starts where the command was typed."""
    max_jobs: int | None = None
    cores: int | None = None
    builders: str | None = None
    nix_options: Mapping[str, str] = field(default_factory=dict)
    """Added to the inventory's ``build.options``."""
    build_on: BuildOn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One command over one inventory."""

    inventory: Path
    on: str | None = None
    """Selector, None for every host."""
    overrides: Overrides = Overrides()
    bootstrap: bool = False
    only_install: bool = False
    yes_wipe: frozenset[HostName] = frozenset()
    skip_unreachable: bool = False
    mode: SwitchMode = SwitchMode.SWITCH
    """Now and from the next boot on, only one of the two, or a trial."""
    fresh: bool = False
    """Do not take up an unfinished run; plan anew."""
    diff: bool = False
    """Look into the closures, too: packages, sizes, what must travel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The inventory as loaded, and the part of the fleet that was asked for, with overrides applied."""

    loaded: Loaded
    whole: Fleet
    fleet: Fleet


def read_target(request: Request) -> Target:
    """Load, select, override.

    Raises:
        UsageError: the inventory or the selector is wrong, or selects nothing.
    """
    loaded = load_fleet(request.inventory)
    known = InstalledKeys(state_directory(), loaded.fleet.source).known(loaded.fleet)
    whole = fleet = _override(known, request.overrides)
    if request.on is not None:
        chosen = select(request.on, fleet)
        if not chosen:
            raise UsageError(f"--on {request.on!r} selects no host", hint=f"deploy check {request.inventory}")
        fleet = fleet.only(chosen)
    return Target(loaded=loaded, whole=whole, fleet=fleet)


def _override(fleet: Fleet, overrides: Overrides) -> Fleet:
    strategy, groups = fleet.strategy, fleet.groups
    if overrides.max_unavailable is not None:
        groups = {name: replace(group, max_unavailable=None) for name, group in groups.items()}
    return replace(
        fleet,
        strategy=_override_strategy(strategy, overrides),
        evaluation=_override_evaluation(fleet.evaluation, overrides),
        build=_override_build(fleet.build, overrides),
        groups=groups,
        hosts={name: _override_host(host, overrides) for name, host in fleet.hosts.items()},
    )


def _override_evaluation(evaluation: EvaluationSettings, overrides: Overrides) -> EvaluationSettings:
    given = {name: _flake_from_here(name, flake) for name, flake in overrides.override_inputs.items()}
    return replace(
        evaluation,
        impure=evaluation.impure or overrides.impure,
        override_inputs={**evaluation.override_inputs, **given},
    )


def _flake_from_here(name: str, flake: str) -> str:
    try:
        return resolve_flake(flake, Path.cwd())
    except Unfit as error:
        raise UsageError(f"--override-input {name} {flake}: {error}", hint=error.hint) from None


def _override_strategy(strategy: Strategy, overrides: Overrides) -> Strategy:
    return replace(
        strategy,
        canary=strategy.canary if overrides.canary is None else overrides.canary,
        max_unavailable=overrides.max_unavailable or strategy.max_unavailable,
        max_failures=overrides.max_failures or strategy.max_failures,
        on_failure=overrides.on_failure or strategy.on_failure,
        host=_override_policy(strategy.host, overrides),
    )


def _override_build(build: BuildSettings, overrides: Overrides) -> BuildSettings:
    return BuildSettings(
        max_jobs=build.max_jobs if overrides.max_jobs is None else overrides.max_jobs,
        cores=build.cores if overrides.cores is None else overrides.cores,
        builders=build.builders if overrides.builders is None else overrides.builders,
        options={**build.options, **overrides.nix_options},
    )


def _override_host(host: Host, overrides: Overrides) -> Host:
    return replace(host, policy=_override_policy(host.policy, overrides), build_on=overrides.build_on or host.build_on)


def _override_policy(policy: HostPolicy, overrides: Overrides) -> HostPolicy:
    drain = replace(policy.drain, enabled=False) if overrides.no_drain else policy.drain
    blockers = RebootBlockers() if overrides.ignore_blockers else policy.reboot_blockers
    return replace(policy, drain=drain, reboot=overrides.reboot or policy.reboot, reboot_blockers=blockers)


def is_plan(path: Path) -> bool:
    """Whether the argument of ``apply`` is a saved plan rather than an inventory (which may be JSON, too)."""
    try:
        with path.open("rb") as file:
            if not file.read(_LONGEST_BLANK).lstrip().startswith(b"{"):
                return False
            file.seek(0)
            data = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and "fingerprint" in data
