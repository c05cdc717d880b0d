"""Reasons not to touch a host, found from facts alone: what would go wrong is said before anything is done.

It deliberately repairs nothing; each refusal says what to type next.
"""

from collections.abc import Iterator

from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import BootstrapSettings, Fleet, Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.strategy import RebootPolicy
from nixkube_deploy.plan.difference import switch_refusals
from nixkube_deploy.plan.prepared import Prepared


def missing(name: HostName, prepared: Prepared) -> Failure | None:
    """Why the host cannot be planned at all, None when everything about it is known."""
    if name in prepared.problems:
        return prepared.problems[name]
    if name not in prepared.facts:
        return Failure(kind=FailureKind.PREFLIGHT, message=f"nothing is known about {name}: it was not probed")
    return None


def unbuilt(name: HostName) -> Failure:
    """The host's configuration is not there."""
    return Failure(
        kind=FailureKind.PREFLIGHT,
        message=f"the flake has no built configuration for {name}",
        next=f"nix eval FLAKE#nixosConfigurations.{name}.config.system.build.toplevel.drvPath",
    )


def wrong_architecture(facts: HostFacts, closure: Closure) -> Failure | None:
    """A closure for another architecture would be copied, activated and only then fail."""
    if facts.system == closure.system:
        return None
    return Failure(
        kind=FailureKind.PREFLIGHT,
        message=f"the configuration is for {closure.system}, but the machine is {facts.system}",
        expected=facts.system,
        seen=closure.system,
        next=f'set nixpkgs.hostPlatform = "{facts.system}"; in the configuration of {facts.host}',
    )


def refused_switch(host: Host, facts: HostFacts, closure: Closure) -> Failure | None:
    """The switch would be refused, and the strategy forbids the reboot that would be the way out."""
    if facts.current is None or host.policy.reboot is not RebootPolicy.NEVER:
        return None
    differences = switch_refusals(facts.current, closure.contents)
    if not differences:
        return None
    return Failure(
        kind=FailureKind.PREFLIGHT,
        message="NixOS would refuse to switch to this system without a reboot, and the strategy says reboot: never",
        evidence=differences,
        next=f"deploy apply INVENTORY --on {host.name} --reboot=auto",
    )


def wipe_guard(host: Host, facts: HostFacts, closure: Closure, *, agreed: bool) -> Failure | None:
    """The first reason not to wipe this machine; ``agreed`` (``--yes-wipe``) overrides those about its identity.

    Nothing overrides those about its disks: which of them may be wiped is the inventory's to say.
    """
    impossible = (*_incomplete(host, closure), *_other_disks(host, facts))
    objections = impossible if agreed else (*_identity(host, facts), *impossible)
    return next(iter(objections), None)


def _identity(host: Host, facts: HostFacts) -> Iterator[Failure]:
    settings = host.bootstrap or BootstrapSettings()
    if facts.node is not None:
        yield _refusal(host, f"it is already a member of the cluster, as Node {facts.node.name}")
    if facts.namesake is not None:
        yield _refusal(
            host,
            f"the cluster has a Node {facts.namesake} that is another machine",
            instead=f"if that machine is gone: kubectl delete node {facts.namesake}",
        )
    for what, expected, seen in (
        ("serial number", settings.expect_serial, facts.serial),
        ("machine-id", settings.expect_machine_id, facts.machine_id),
    ):
        if expected is not None and expected != seen:
            because = f"its {what} is not the expected one" if seen else f"its {what} could not be read"
            yield _refusal(host, because, expected=expected, seen=seen)


def _refusal(host: Host, because: str, *, expected: str = "", seen: str = "", instead: str = "") -> Failure:
    return Failure(
        kind=FailureKind.WIPE_GUARD,
        message=f"{host.name} is not wiped: {because}",
        expected=expected,
        seen=seen,
        next=f"{instead or f'check that {host.address} is the right machine'}; --yes-wipe {host.name} overrides this",
    )


def _incomplete(host: Host, closure: Closure) -> Iterator[Failure]:
    if host.bootstrap is None or not host.bootstrap.disks:
        yield Failure(
            kind=FailureKind.WIPE_GUARD,
            message=f"{host.name} is not wiped: the inventory does not say which disks may be",
            next=f"hosts.{host.name}.bootstrap: {{disks: [/dev/disk/by-id/...]}}",
        )
    if closure.disko is None:
        yield Failure(
            kind=FailureKind.INSTALL,
            message=f"{host.name} cannot be installed: its configuration has no disko script",
            next="import disko.nixosModules.disko and set disko.devices in the configuration",
        )


def _other_disks(host: Host, facts: HostFacts) -> Iterator[Failure]:
    if facts.missing_disks:
        yield Failure(
            kind=FailureKind.WIPE_GUARD,
            message=f"{host.name} is not wiped: it has no {', '.join(facts.missing_disks)}",
            expected="the disks that the inventory lets be wiped",
            seen=", ".join(facts.disks) or "no disk with a stable name",
            evidence=facts.disks,
            next=f"check that {host.address} is the right machine, then name its disks: "
            f"hosts.{host.name}.bootstrap.disks",
        )


def installed_already(host: Host, facts: HostFacts, fleet: Fleet) -> Failure:
    """``bootstrap`` was asked for a machine that runs another NixOS than the one it is to get."""
    assert facts.current is not None
    return Failure(
        kind=FailureKind.WIPE_GUARD,
        message=f"{host.name} is not wiped: it already runs NixOS",
        expected="a machine without NixOS, or one that runs what it is to get",
        seen=f"{facts.hostname} with {facts.current.path}",
        next=f"deploy apply {fleet.source} --on {host.name} switches it; --yes-wipe {host.name} wipes it",
    )


def how_to_install(fleet: Fleet, facts: HostFacts) -> str:
    """What to type for a machine that does not run NixOS."""
    return f"not installed without being asked to: deploy bootstrap {fleet.source} --on {facts.host}"
