"""Whether the flake and the inventory mean the same kind of machine: found before anything is built.

What the machine itself says is compared when the plan is made.
"""

from collections.abc import Iterable

from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.nix import Evaluation


def other_system(host: Host, system: str) -> Failure | None:
    """The flake builds something else for this host than the inventory says; None when it does not."""
    if system == host.system:
        return None
    return Failure(
        kind=FailureKind.PREFLIGHT,
        message=f"the flake builds {host.name} for {system}, the inventory says {host.system}",
        expected=host.system,
        seen=system,
        did="nothing was built for it",
        next=f"set hosts.{host.name}.system: {system} in the inventory, or nixpkgs.hostPlatform in its configuration",
    )


def without_other_systems(evaluation: Evaluation, hosts: Iterable[Host]) -> Evaluation:
    """Hosts of another system become failures, and are not built."""
    known = {host.name: host for host in hosts}
    wrong = {
        name: failure
        for name, one in evaluation.hosts.items()
        if (failure := other_system(known[name], one.system)) is not None
    }
    return Evaluation(
        flake=evaluation.flake,
        hosts={name: one for name, one in evaluation.hosts.items() if name not in wrong},
        failures={**evaluation.failures, **wrong},
    )
