"""Matching hosts to Nodes."""

import pytest

from nixkube_deploy.model.cluster import OWNER_ANNOTATION, Node
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName
from nixkube_deploy.protocols.nodes import match_nodes, node_facts
from tests.builders import a_host


def facts_of(host: str, machine_id: str = "m1") -> HostFacts:
    return HostFacts(host=HostName(host), system="x86_64-linux", boot_id="b", machine_id=machine_id)


def the_node(host: Host, facts: HostFacts, nodes: tuple[Node, ...]) -> Node:
    return match_nodes({host.name: facts}, {host.name: host}, nodes)[host.name]


def test_a_host_is_the_node_with_its_machine_id_whatever_the_name() -> None:
    nodes = (Node(name="w1", machine_id="other"), Node(name="ip-10-0-0-1", machine_id="m1"))

    assert the_node(a_host("w1"), facts_of("w1"), nodes).name == "ip-10-0-0-1"


def test_a_host_is_never_a_node_by_name_alone() -> None:
    nodes = (Node(name="w1", machine_id="other", addresses=("w1.lan", "w1")),)

    assert match_nodes({HostName("w1"): facts_of("w1")}, {HostName("w1"): a_host("w1")}, nodes) == {}


def test_an_address_decides_when_the_node_tells_no_machine_id() -> None:
    nodes = (Node(name="n", addresses=("10.0.0.1", "n")), Node(name="o", addresses=("10.0.0.2",)))

    assert the_node(a_host("w1", address="10.0.0.1"), facts_of("w1"), nodes).name == "n"


def test_ip_addresses_are_compared_as_addresses() -> None:
    nodes = (Node(name="n", addresses=("fd00:0:0::1",)),)

    assert the_node(a_host("w1", address="fd00::1"), facts_of("w1"), nodes).name == "n"


def test_an_address_with_another_machine_id_is_refused_naming_both() -> None:
    nodes = (Node(name="old", machine_id="m0", addresses=("10.0.0.1",)),)

    with pytest.raises(TaskError) as caught:
        the_node(a_host("w1", address="10.0.0.1"), facts_of("w1"), nodes)

    failure = caught.value.failure
    assert "old" in failure.message
    assert "w1" in failure.message
    assert "m1" in failure.expected
    assert "m0" in failure.seen


def test_the_inventory_may_vouch_for_an_address_with_another_machine_id() -> None:
    nodes = (Node(name="old", machine_id="m0", addresses=("10.0.0.1",)),)

    assert the_node(a_host("w1", address="10.0.0.1", node="old"), facts_of("w1"), nodes).name == "old"


def test_the_inventorys_word_decides_when_nothing_else_can() -> None:
    nodes = (Node(name="a"), Node(name="b"))

    assert the_node(a_host("w1", node="b"), facts_of("w1"), nodes).name == "b"


def test_the_inventory_does_not_overrule_the_machine_id() -> None:
    nodes = (Node(name="a", machine_id="m1"), Node(name="b"))

    with pytest.raises(TaskError, match="is Node a by its machine-id, but the inventory says Node b"):
        the_node(a_host("w1", node="b"), facts_of("w1"), nodes)


def test_cloned_machines_are_told_apart_by_address() -> None:
    nodes = (
        Node(name="a", machine_id="m1", addresses=("10.0.0.1",)),
        Node(name="b", machine_id="m1", addresses=("10.0.0.2",)),
    )

    assert the_node(a_host("w1", address="10.0.0.2"), facts_of("w1"), nodes).name == "b"


def test_cloned_machines_on_one_address_need_the_inventorys_word() -> None:
    nodes = tuple(Node(name=name, machine_id="m1", addresses=("127.0.0.1",)) for name in "ab")

    with pytest.raises(TaskError, match="could be any of the Nodes a, b"):
        the_node(a_host("w1", address="127.0.0.1"), facts_of("w1"), nodes)
    assert the_node(a_host("w1", address="127.0.0.1", node="a"), facts_of("w1"), nodes).name == "a"


def test_one_address_for_all_nodes_is_ambiguous_without_machine_ids() -> None:
    nodes = tuple(Node(name=name, addresses=("127.0.0.1",)) for name in "ab")

    with pytest.raises(TaskError, match=r"all have the address 127\.0\.0\.1"):
        the_node(a_host("w1", address="127.0.0.1"), facts_of("w1"), nodes)
    assert the_node(a_host("w1", address="127.0.0.1", node="b"), facts_of("w1"), nodes).name == "b"


def test_hosts_that_have_not_registered_are_left_out_of_the_mapping() -> None:
    hosts = {HostName(n): a_host(n) for n in ("w1", "w2")}
    facts = {HostName("w1"): facts_of("w1", "m1"), HostName("w2"): facts_of("w2", "m2")}

    assert match_nodes(facts, hosts, (Node(name="n", machine_id="m1"),)).keys() == {"w1"}


def test_two_hosts_that_would_be_one_node_are_refused_naming_both() -> None:
    hosts = {HostName(n): a_host(n) for n in ("w1", "w2")}
    facts = {name: facts_of(name, "m1") for name in hosts}

    with pytest.raises(TaskError, match="hosts w1 and w2 are both Node n"):
        match_nodes(facts, hosts, (Node(name="n", machine_id="m1"),))


def test_a_node_tainted_as_unreachable_is_not_ready_though_its_condition_says_so() -> None:
    node = Node(name="n", ready="True", taints=("node.kubernetes.io/unreachable:NoExecute",))

    assert not node_facts(node).ready
    assert node_facts(Node(name="n", ready="True", taints=("gpu:NoSchedule",))).ready


def test_node_facts_say_who_cordoned() -> None:
    node = Node(name="n", ready="True", unschedulable=True, annotations={OWNER_ANNOTATION: "run-1"}, boot_id="b")
    facts = node_facts(node)

    assert (facts.cordoned_by, facts.unschedulable, facts.boot_id) == ("run-1", True, "b")
