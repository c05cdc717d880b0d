"""Preflight: everything that can be known to be wrong before anything is touched, live but read-only."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import anyio

from nixkube_deploy.app.architecture import other_system
from nixkube_deploy.app.privilege import no_root
from nixkube_deploy.app.survey import OnStep, Survey, silent, survey
from nixkube_deploy.app.unchecked import example_failure, for_want_of, is_example, no_kubeconfig
from nixkube_deploy.app.world import World
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.etcd import ailment
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Activator, Host
from nixkube_deploy.ports.cluster import Cluster
from nixkube_deploy.ports.nix import Evaluation
from nixkube_deploy.protocols.drainable import outlooks

STORE_FREE_MIN = 2 * 1024**3
"""Bytes below which a closure is unlikely to fit beside the old one (a NixOS system is 1-3 GiB)."""

DELETE_PODS = "delete pods"
"""The right that only ``drain.disable_eviction`` needs."""

BOOT_FREE_MIN = 64 * 1024**2
"""Bytes a kernel and an initrd need on /boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked. ``failure`` is None when it is fine."""

    subject: str
    """A host's name, ``flake`` or ``cluster``."""
    check: str
    detail: str = ""
    failure: Failure | None = None
    unchecked: Failure | None = None
    """Why it could not be looked at from here; then nothing is known of it."""


async def check_fleet(world: World, say: OnStep = silent) -> tuple[Finding, ...]:
    """Everything, in one go; never stops at the first problem."""
    hosts = tuple(world.fleet.hosts.values())
    real = [host for host in hosts if not is_example(host)]
    found, findings = Survey(), [Finding(subject="inventory", check="reads", detail=f"{len(hosts)} hosts")]
    evaluated: list[Finding] = []
    privileges: dict[str, Finding] = {}

    async def look() -> None:
        nonlocal found
        found = await survey(world, real, say)

    async def elevate(host: Host) -> None:
        privileges[host.name] = await _privilege(world, host)

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        group.start_soon(_flake, world, evaluated, say)
    async with anyio.create_task_group() as group:
        for name in found.facts:
            group.start_soon(elevate, world.fleet.hosts[name])
    findings += evaluated
    findings += await _cluster(world, found)
    for host in hosts:
        findings += _host(host, found)
        if host.name in privileges:
            findings.append(privileges[host.name])
        if host.activation is not Activator.NATIVE:
            failure = await world.activators[host.activation].refuse(host)
            findings.append(Finding(subject=host.name, check=f"activation: {host.activation}", failure=failure))
    return tuple(map(_told_apart, findings))


def _told_apart(finding: Finding) -> Finding:
    """What failed for want of something on this machine says nothing of what was to be checked."""
    if finding.failure is None or not (lacking := for_want_of(finding.failure)):
        return finding
    unchecked = replace(finding.failure, message=f"no {lacking}: {finding.failure.message}")
    return replace(finding, failure=None, unchecked=unchecked)


async def _flake(world: World, findings: list[Finding], say: OnStep) -> None:
    hosts = tuple(world.fleet.hosts.values())
    try:
        evaluation: Evaluation = await world.evaluator.evaluate(world.fleet.flake, hosts, say)
    except TaskError as error:
        findings.append(Finding(subject="flake", check="evaluates", failure=error.failure))
        return
    dirty = " (dirty tree)" if evaluation.flake.dirty else ""
    findings.append(Finding(subject="flake", check="evaluates", detail=f"{evaluation.flake.url}{dirty}"))
    for host in hosts:
        if failure := evaluation.failures.get(host.name):
            findings.append(Finding(subject=host.name, check="evaluates", failure=failure))
        elif failure := other_system(host, evaluation.hosts[host.name].system):
            findings.append(Finding(subject=host.name, check="architecture", failure=failure))


async def _privilege(world: World, host: Host) -> Finding:
    name = f"becomes root ({host.privilege.value})"
    return Finding(subject=host.name, check=name, failure=await no_root(world, host))


async def _cluster(world: World, found: Survey) -> list[Finding]:
    if not world.fleet.cluster.distribution.has_kubelet:
        return []
    answers = Finding(subject="cluster", check="API answers", failure=found.cluster_problem)
    if found.cluster_problem is not None and _nobody_to_ask(world, found):
        return [replace(answers, failure=None, unchecked=no_kubeconfig())]
    if world.cluster is None or found.cluster_problem is not None:
        return [answers]
    return [answers, await rights(world, world.cluster), *await drains(world, world.cluster, found)]


def _nobody_to_ask(world: World, found: Survey) -> bool:
    """Whether the kubeconfig was to come from hosts that cannot be looked at from here."""
    if world.fleet.cluster.kubeconfig is not None:
        return False
    planes = [host for host in world.fleet.hosts.values() if host.role.is_control_plane]
    problems = [found.problems.get(host.name) for host in planes if not is_example(host)]
    return all(problem is not None and for_want_of(problem) for problem in problems)


async def drains(world: World, cluster: Cluster, found: Survey) -> list[Finding]:
    """Whether each host could be emptied, as its strategy says, if a change asked for it now."""
    nodes = {name: facts.node.name for name, facts in found.facts.items() if facts.node is not None}
    options = {node: world.fleet.hosts[name].policy.drain for name, node in nodes.items()}
    said: list[str] = []
    seen = await outlooks(cluster, {node: each for node, each in options.items() if each.enabled}, said.append)
    unknown = (Failure(kind=FailureKind.PREFLIGHT, message=line) for line in said)
    findings = [Finding(subject="cluster", check="drains", failure=failure) for failure in unknown]
    for name, node in nodes.items():
        if outlook := seen.get(node):
            detail = "; ".join(outlook.waits)
            findings.append(Finding(subject=name, check="can be drained", detail=detail, failure=outlook.never))
    return findings


async def rights(world: World, cluster: Cluster) -> Finding:
    """RBAC: a right that is missing is otherwise found with the node half drained."""
    try:
        missing = await cluster.missing_rights()
    except TaskError as error:
        return Finding(subject="cluster", check="RBAC", failure=error.failure)
    deletes = any(host.policy.drain.disable_eviction for host in world.fleet.hosts.values())
    needed = [each.right for each in missing if not each.only_for or (deletes and each.right == DELETE_PODS)]
    if not needed:
        without = "; ".join(f"not {each.right}: {each.only_for}" for each in missing)
        return Finding(subject="cluster", check="RBAC", detail=without)
    return Finding(
        subject="cluster",
        check="RBAC",
        failure=Failure(
            kind=FailureKind.PREFLIGHT,
            message=f"the Kubernetes API would refuse us to {', '.join(needed)}",
            expected="the rights in docs/rbac.yaml",
            seen=f"{len(needed)} of them are missing",
            evidence=tuple(needed),
            next="kubectl apply -f docs/rbac.yaml, and bind its roles to this user",
        ),
    )


def _host(host: Host, found: Survey) -> Iterator[Finding]:
    if is_example(host):
        yield Finding(subject=host.name, check="reachable", unchecked=example_failure(host))
        return
    facts = found.facts.get(host.name)
    if facts is None:
        yield Finding(subject=host.name, check="reachable", failure=found.problems.get(host.name))
        return
    yield Finding(subject=host.name, check="reachable")
    yield Finding(subject=host.name, check="architecture", detail=facts.system, failure=_architecture(host, facts))
    if facts.etcd is not None:
        sick = ailment(host.name, facts.etcd)
        yield Finding(subject=host.name, check="etcd", detail="" if sick else str(facts.etcd), failure=sick)
    if facts.runs_nixos:
        yield Finding(subject=host.name, check="disk space", failure=_disk(facts))


def _architecture(host: Host, facts: HostFacts) -> Failure | None:
    if facts.system == host.system:
        return None
    return _wrong("the machine is of another architecture", expected=host.system, seen=facts.system)


def _disk(facts: HostFacts) -> Failure | None:
    for name, free, needed in (
        ("/nix/store", facts.disk.store, STORE_FREE_MIN),
        ("/boot", facts.disk.boot, BOOT_FREE_MIN),
    ):
        if free is not None and free < needed:
            expected, seen = f"{needed // 1024**2} MiB free", f"{free // 1024**2} MiB free"
            return _wrong(f"{name} is nearly full", expected, seen, FailureKind.DISK_FULL, "nix-collect-garbage -d")
    return None


def _wrong(
    message: str, expected: str, seen: str, kind: FailureKind = FailureKind.PREFLIGHT, then: str = ""
) -> Failure:
    return Failure(kind=kind, message=message, expected=expected, seen=seen, next=then)
