"""Which Node an inventory host is: by machine-id, then address, then the inventory's word; never by name alone.

It deliberately asks nobody: facts and Nodes are given, so the same answer can be planned, shown and tested.
"""

import ipaddress
from collections import defaultdict
from collections.abc import Mapping, Sequence

from nixkube_deploy.model.cluster import OWNER_ANNOTATION, Node
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.facts import HostFacts, NodeFacts
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, NodeName

GONE_TAINTS = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
"""Taint keys the node controller sets when it cannot count on a kubelet."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address | None


def match_nodes(
    facts: Mapping[HostName, HostFacts], hosts: Mapping[HostName, Host], nodes: Sequence[Node]
) -> Mapping[HostName, Node]:
    """Each probed host's Node; a host that no Node fits (not registered yet) is left out.

    Raises:
        TaskError: CLUSTER, when a host could be several Nodes, two hosts would be one Node, or machine-id and
            address (or the inventory) contradict each other.
    """
    found: dict[HostName, Node] = {}
    taken: dict[str, HostName] = {}
    known = _Known(nodes)
    for name, fact in facts.items():
        node = _find(hosts[name], fact, known)
        if node is None:
            continue
        if node.name in taken:
            raise _two_hosts(taken[node.name], name, node)
        taken[node.name] = name
        found[name] = node
    return found


def node_facts(node: Node) -> NodeFacts:
    """What planning asks of a Node. A Node tainted as gone is not ready whatever its condition still says."""
    return NodeFacts(
        name=NodeName(node.name),
        ready=node.ready == "True" and not gone_taints(node),
        unschedulable=node.unschedulable,
        cordoned_by=node.annotations.get(OWNER_ANNOTATION),
        marked_by=node.marked_by,
        boot_id=node.boot_id,
        kernel_version=node.kernel_version,
        kubelet_version=node.kubelet_version,
    )


def is_unreachable(node: Node) -> bool:
    """Whether the cluster has lost its kubelet: nobody ends pods there. One that is not ready but heard still does."""
    return node.ready == "Unknown" or any(taint.partition(":")[0] == GONE_TAINTS[0] for taint in node.taints)


def gone_taints(node: Node) -> tuple[str, ...]:
    """The taints by which the node controller says that it cannot count on the kubelet."""
    return tuple(taint for taint in node.taints if taint.partition(":")[0] in GONE_TAINTS)


class _Known:
    """The Nodes by what they are found by: large fleets have as many Nodes as hosts."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.by_name = {node.name: node for node in nodes}
        self.by_machine: defaultdict[str, list[Node]] = defaultdict(list)
        self._by_ip: defaultdict[_Address, list[Node]] = defaultdict(list)
        for node in nodes:
            self.by_machine[node.machine_id].append(node)
            for address in {_ip(text) for text in node.addresses} - {None}:
                self._by_ip[address].append(node)

    def at(self, address: str) -> list[Node]:
        """Those with an IP address. Host names do not count: that would be matching by name."""
        return self._by_ip.get(_ip(address), [])


def _find(host: Host, facts: HostFacts, known: _Known) -> Node | None:
    same_machine = known.by_machine.get(facts.machine_id, []) if facts.machine_id else []
    same_address = known.at(host.address)
    if same_machine:
        return _agreed(host, _narrowed(host, facts, same_machine, same_address))
    if len(same_address) == 1:
        return _by_address(host, facts, same_address[0])
    named = known.by_name.get(host.node or "")
    if not same_address or named in same_address:
        return named
    raise _ambiguous(host, f"the address {host.address}", same_address)


def _narrowed(host: Host, facts: HostFacts, nodes: list[Node], same_address: list[Node]) -> Node:
    """One of several Nodes with the same machine-id (machines cloned from one image)."""
    if len(nodes) == 1:
        return nodes[0]
    candidates = [node for node in nodes if node in same_address]
    candidates = candidates if len(candidates) == 1 else [node for node in nodes if node.name == host.node]
    if not candidates:
        raise _ambiguous(host, f"machine-id {facts.machine_id}", nodes)
    return candidates[0]


def _agreed(host: Host, node: Node) -> Node:
    if host.node in {None, node.name}:
        return node
    raise task_error(
        FailureKind.CLUSTER,
        f"host {host.name} is Node {node.name} by its machine-id, but the inventory says Node {host.node}",
        expected=f"Node {host.node}",
        seen=f"Node {node.name}, machine-id {node.machine_id}",
        next=f"correct hosts.{host.name}.node, or its address if SSH reached another machine",
    )


def _by_address(host: Host, facts: HostFacts, node: Node) -> Node:
    """An address alone is believed only when no machine-id speaks against it, or the inventory names the Node."""
    contradicted = facts.machine_id and node.machine_id and facts.machine_id != node.machine_id
    if not contradicted or host.node == node.name:
        return node
    raise task_error(
        FailureKind.CLUSTER,
        f"Node {node.name} has the address of host {host.name}, but is another machine",
        expected=f"machine-id {facts.machine_id}, as on {host.name}",
        seen=f"machine-id {node.machine_id} on Node {node.name}",
        next=f"kubectl delete node {node.name} if it is a leftover; or set hosts.{host.name}.node: {node.name}",
    )


def _ip(text: str) -> _Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _ambiguous(host: Host, by: str, nodes: Sequence[Node]) -> TaskError:
    names = ", ".join(sorted(node.name for node in nodes))
    return task_error(
        FailureKind.CLUSTER,
        f"host {host.name} could be any of the Nodes {names}: all have {by}",
        expected=f"one Node with {by}",
        seen=f"{len(nodes)}: {names}",
        next=f"set hosts.{host.name}.node in the inventory (cloned machines share a machine-id; give each its own)",
    )


def _two_hosts(first: HostName, second: HostName, node: Node) -> TaskError:
    return task_error(
        FailureKind.CLUSTER,
        f"hosts {first} and {second} are both Node {node.name}",
        expected="a Node of its own for each host",
        seen=f"Node {node.name}, machine-id {node.machine_id or '(unknown)'}, addresses {', '.join(node.addresses)}",
        next=f"look for a doubled address or a cloned machine-id: ssh {first} cat /etc/machine-id",
    )
