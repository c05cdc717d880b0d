"""What a fleet's values say of themselves."""

import pytest

from nixkube_deploy.model.fleet import Distribution, SshSettings
from tests.builders import a_host


@pytest.mark.parametrize(
    ("distribution", "unit", "embedded"),
    [
        (Distribution.K3S, "k3s.service", True),
        (Distribution.RKE2, "rke2-server.service", True),
        (Distribution.KUBERNETES, "etcd.service", False),
        (Distribution.NONE, "etcd.service", False),
    ],
)
def test_etcd_is_embedded_or_a_unit_of_its_own(distribution: Distribution, unit: str, embedded: bool) -> None:
    assert distribution.etcd_unit == unit
    assert (distribution.etcd_folder is not None) == embedded


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
