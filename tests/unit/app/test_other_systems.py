"""Hosts for which the flake builds another system than the inventory says: found before anything is built."""

from nixkube_deploy.app.architecture import without_other_systems
from nixkube_deploy.model.closure import Evaluated, FlakeState
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.nix import Evaluation
from tests.builders import a_host, store_path


def test_a_host_of_another_system_is_not_built_and_says_what_to_set():
    hosts = [a_host("w1"), a_host("pi", system="aarch64-linux"), a_host("w2")]
    systems = {"w1": "x86_64-linux", "pi": "aarch64-linux", "w2": "aarch64-linux"}
    found = {
        host.name: Evaluated(host=host.name, drv="d", out=store_path(host.name), system=systems[host.name])
        for host in hosts
    }
    left = without_other_systems(Evaluation(flake=FlakeState(url="x", revision="1"), hosts=found), hosts)
    assert list(left.hosts) == ["w1", "pi"]
    failure = left.failures[hosts[2].name]
    assert failure.kind is FailureKind.PREFLIGHT
    assert failure.message == "the flake builds w2 for aarch64-linux, the inventory says x86_64-linux"
    assert "hosts.w2.system: aarch64-linux" in failure.next
