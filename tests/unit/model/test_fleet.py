"""What a fleet's values say of themselves."""

import pytest

from nixkube_deploy.model.fleet import Distribution, SshSettings
from tests.builders import a_host


@pytest.mark.parametrize("distribution", Distribution)
def test_a_distribution_has_an_etcd_to_ask_exactly_when_it_has_a_kubelet(distribution: Distribution) -> None:
    assert (distribution.etcd_health is not None) == distribution.has_kubelet


@pytest.mark.parametrize(
    ("ssh", "login"),
    [
        (SshSettings(), "ssh 10.0.0.1"),
        (SshSettings(user="root"), "ssh root@10.0.0.1"),
        (SshSettings(user="ops", port=2222, jump="bastion"), "ssh -J bastion -p 2222 ops@10.0.0.1"),
    ],
)
def test_a_login_can_be_typed(ssh: SshSettings, login: str) -> None:
    assert a_host("w1", address="10.0.0.1", ssh=ssh).login == login
