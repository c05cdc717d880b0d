"""What a check could not look at from here, in contrast to what it found wrong: no nix, no network, nobody's address.

It decides from failures that others made; it contacts nothing itself.
"""

import errno
import ipaddress
import os
import re
from typing import Final

from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host

EXAMPLE_NETWORK: Final = ipaddress.ip_network("203.0.113.0/24")
"""Kept for documentation by RFC 5737; ``deploy init`` takes its examples from it."""

_NO_ROUTE: Final = os.strerror(errno.ENETUNREACH).lower()
_NO_NAMES: Final = "temporary failure in name resolution"
"""The resolver's EAI_AGAIN: no name server answered, so nothing is known of the name."""
_NO_DOWNLOAD: Final = re.compile(
    r"unable to download .*(couldn't|could not) (resolve host|connect)|could not resolve host", re.IGNORECASE
)


def is_example(host: Host) -> bool:
    """Whether the address stands for one that is yet to be filled in."""
    try:
        return ipaddress.ip_address(host.address) in EXAMPLE_NETWORK
    except ValueError:
        return False


def example_failure(host: Host) -> Failure:
    """Why such a host is not contacted."""
    return Failure(
        kind=FailureKind.PREFLIGHT,
        message=f"{host.address} is an example's address: no machine has it, so none was contacted",
        expected=f"the address of {host.name}",
        next="put it into inventory.yaml, cluster.nix and the host's file",
    )


def no_kubeconfig() -> Failure:
    """Why the cluster could not be asked."""
    return Failure(
        kind=FailureKind.CLUSTER,
        message="no control-plane host could be asked for a kubeconfig from here",
        next="set cluster.kubeconfig, or check again when a control-plane host can be reached",
    )


def for_want_of(failure: Failure) -> str:
    """What this machine lacks to look; empty when the failure says something of what was looked at."""
    if failure.kind is FailureKind.NOT_INSTALLED:
        return failure.message.partition(" is not")[0]
    text = "\n".join((failure.message, failure.seen, *failure.evidence)).lower()
    if failure.kind is FailureKind.UNREACHABLE and (_NO_ROUTE in text or _NO_NAMES in text):
        return "network"
    return "network" if failure.kind is FailureKind.EVALUATION and _NO_DOWNLOAD.search(text) else ""
