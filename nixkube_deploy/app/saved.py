"""Saved plans: written by ``plan -o``, run by ``apply PLAN.json`` exactly as reviewed, or refused."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nixkube_deploy.app.world import World
from nixkube_deploy.inventory.load import Loaded
from nixkube_deploy.model.closure import FlakeState
from nixkube_deploy.model.codec import CodecError
from nixkube_deploy.model.error import Refused, UsageError
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.graph_codec import plan_from_plain, plan_to_plain
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import HostPlan, Plan
from nixkube_deploy.plan.intent import left_by


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan atomically, readable by its owner only.

    Raises:
        UsageError: it cannot be written there.
    """
    text = json.dumps(plan_to_plain(plan), indent=1) + "\n"
    try:
        _replace(path, text)
    except OSError as error:
        raise UsageError(f"the plan cannot be saved to {path}: {error.strerror}", hint="-o PLAN.json") from error


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_plan(path: Path) -> Plan:
    """Read a saved plan.

    Raises:
        UsageError: it is not a plan, or was edited.
    """
    try:
        return plan_from_plain(json.loads(path.read_text()))
    except (OSError, ValueError, CodecError) as error:
        raise UsageError(f"{path}: not a usable plan: {error}", hint="deploy plan INVENTORY -o PLAN.json") from error


def refuse_moved(plan: Plan, loaded: Loaded, flake: FlakeState, facts: dict[HostName, HostFacts], world: World) -> None:
    """Refuse a plan whose inventory, flake or hosts are no longer what was reviewed."""
    failures = tuple(_moves(plan, loaded, flake, facts))
    if failures:
        raise Refused(
            "the world has moved since this plan was made; nothing was touched",
            hint=f"deploy plan {plan.inventory} -o PLAN.json",
            failures=failures,
        )
    missing = [h.host for h in plan.hosts if h.wave is not None and h.host not in world.fleet.hosts]
    if missing:
        raise Refused(f"the plan names hosts the inventory no longer has: {', '.join(missing)}")


def _moves(
    plan: Plan, loaded: Loaded, flake: FlakeState, facts: dict[HostName, HostFacts]
) -> Iterator[tuple[str, Failure]]:
    if loaded.digest != plan.digest:
        yield "inventory", _moved("the inventory was edited", plan.digest[:12], loaded.digest[:12])
    if flake.revision != plan.flake.revision:
        yield "flake", _moved("the flake has changed", plan.flake.revision, flake.revision)
    for host in plan.hosts:
        if host.wave is not None:
            yield from _host_moves(host, facts.get(host.host))
        if host.host not in plan.graph.rules.unhealthy:
            yield from _health_moves(host, facts.get(host.host))


def _health_moves(host: HostPlan, now: HostFacts | None) -> Iterator[tuple[str, Failure]]:
    """The budgets were reckoned with this host being there; also when nothing is done with it."""
    if now is None:
        if host.wave is None:
            yield host.host, _moved("the host no longer answers, and the plan counts on it", "reachable", "unreachable")
    elif not now.is_healthy:
        yield host.host, _moved("the host's Node is not Ready, and the plan counts on it", "Ready", "not Ready")
    elif (run := left_by(now)) is not None:
        yield (
            host.host,
            _moved("the host is cordoned, and the plan counts on it", "in service", f"cordoned by run {run}"),
        )


def _host_moves(host: HostPlan, now: HostFacts | None) -> Iterator[tuple[str, Failure]]:
    if now is None:
        yield host.host, _moved("the host no longer answers", "reachable", "unreachable")
        return
    current = now.current.path if now.current else None
    if current != host.current:
        yield host.host, _moved("the host runs another system", str(host.current), str(current))
    if now.boot_id != host.boot_id:
        yield host.host, _moved("the host was rebooted", f"boot_id {host.boot_id}", f"boot_id {now.boot_id}")


def _moved(message: str, expected: str, seen: str) -> Failure:
    return Failure(kind=FailureKind.PREFLIGHT, message=message, expected=expected, seen=seen)
