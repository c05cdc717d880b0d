"""What could go wrong with a host's change, or cannot be promised, in sentences. It deliberately refuses nothing."""

from collections.abc import Iterator

from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.fleet import Activator, Distribution
from nixkube_deploy.model.names import HostName
from nixkube_deploy.plan.classify import changes_node_units, waits_for_boot
from nixkube_deploy.plan.intent import ONE_SHOT_LOADER, Intent

NO_QUORUM_TO_SPARE = 2
"""Voters from which none can be missing."""


def risks(intent: Intent, distribution: Distribution, control_plane: frozenset[HostName]) -> tuple[str, ...]:
    """Every risk of one host's change, the gravest first."""
    facts = intent.facts
    if facts is None or intent.change is None or intent.problem is not None or intent.skipped:
        return ()
    found: list[str] = []
    if intent.kind is ChangeClass.INSTALL:
        found += _of_installing(intent, facts)
    elif intent.acts:
        found += _of_the_control_plane(intent, distribution, control_plane)
        found += [f"never taken back automatically: {intent.stays}"] if intent.stays else []
        found += _of_booting(intent, facts)
        found += _of_draining(intent, facts, distribution)
        found += _of_activating(intent, facts)
    if waits_for_boot(intent.change):
        found.append("the new kernel waits for the next reboot")
    return tuple(found)


def _of_installing(intent: Intent, facts: HostFacts) -> Iterator[str]:
    settings = intent.host.bootstrap
    assert settings is not None, "the wipe guard asks for disks"
    yield f"wipes {', '.join(settings.disks)}"
    if facts.runs_nixos:
        yield "the machine runs NixOS now; what is on its disks is lost"
    yield "nixos-anywhere verifies no host key: until the first boot, which is verified, the network is trusted"
    if intent.host.ssh.host_key is not None and settings.host_key is None:
        yield "the host key that the inventory pins changes, unless extra_files brings it along"
    if settings.expect_serial is None and settings.expect_machine_id is None:
        yield "only its address says that this is the right machine: bootstrap.expect_serial would prove it"


def _of_the_control_plane(intent: Intent, distribution: Distribution, members: frozenset[HostName]) -> Iterator[str]:
    change = intent.change
    if (
        change is None
        or intent.host.name not in members
        or not distribution.has_kubelet
        or not intent.kind.takes_node_down
    ):
        return
    if len(members) == 1:
        yield "the only control-plane host: the Kubernetes API is away while it restarts"
    if len(members) == NO_QUORUM_TO_SPARE:
        yield "one of two control-plane hosts: etcd between them has no quorum while this one is away"
    if intent.back is not None and changes_node_units(change):
        yield "going back across a minor version of etcd is not safe: if this change brings one, use on_failure: halt"


def _of_booting(intent: Intent, facts: HostFacts) -> Iterator[str]:
    if intent.kind is not ChangeClass.REBOOT:
        return
    if facts.loader != ONE_SHOT_LOADER:
        which = "an unknown boot loader" if facts.loader == "unknown" else f"loader {facts.loader}"
        yield f"{which} has no one-shot entry: a kernel that hangs does not fall back at a power cycle"
    if not intent.activates and intent.back is not None:
        yield "going back means booting the older system that the kernel it runs now came with"


def _of_draining(intent: Intent, facts: HostFacts, distribution: Distribution) -> Iterator[str]:
    drain = intent.host.policy.drain
    if intent.kind.takes_node_down and distribution.has_kubelet and not intent.drains:
        if drain.enabled:
            yield "the cluster has no Node for this host: it is not cordoned or drained"
        else:
            yield "drain is off: pods are not moved away first"
    if intent.drains and drain.disable_eviction:
        yield "drain deletes pods past every disruption budget (disable_eviction)"
    if intent.drains and drain.force:
        yield "drain deletes pods that no controller brings back (force)"
    if facts.node is not None and facts.node.unschedulable and facts.node.cordoned_by is None:
        yield "cordoned by somebody else before this run: stays cordoned"


def _of_activating(intent: Intent, facts: HostFacts) -> Iterator[str]:
    if intent.activates:
        yield from _ACTIVATOR_LIMITS[intent.host.activation]
    if intent.activates and intent.host.activation is Activator.DEPLOY_RS and not facts.deployed_by_deploy_rs:
        yield "deploy-rs did not deploy the system before, so its own rollback cannot activate that again"
    if intent.activates and intent.generation is not None and intent.host.activation is not Activator.NATIVE:
        yield f"{intent.host.activation} makes a new generation of generation {intent.generation}"
    if intent.activates and intent.profile is not None and intent.disrupts:
        yield "a reboot ends the specialisation: no boot loader starts it by itself"
    if intent.activates and facts.failed_units:
        yield f"already failed before the change, so not counted: {', '.join(facts.failed_units)}"


_ACTIVATOR_LIMITS = {
    Activator.NATIVE: (),
    Activator.NIXOS_REBUILD: (
        "nixos-rebuild arms nothing on the host: if the controller dies in a bad switch, the host stays there",
        "nixos-rebuild's unit cannot be joined again: after a lost connection only its outcome is seen",
    ),
    Activator.DEPLOY_RS: (
        "deploy-rs's magic rollback covers no reboot and no service: it ends with one new SSH connection",
        "deploy-rs evaluates and builds the flake by itself once more: what it brought is seen only afterwards",
        "deploy-rs runs in no unit of its own: what interrupts its activation may leave the host half switched",
    ),
}
