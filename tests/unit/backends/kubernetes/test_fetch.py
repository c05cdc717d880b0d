"""A kubeconfig from a control-plane host, and an API that is served by several of these."""

import base64

import anyio
import pytest
import yaml

from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.fetch import fetch_kubeconfig
from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText, fetched, load, servers_of
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import Distribution
from tests.builders import a_fleet
from tests.fakes.cluster import LoopClock
from tests.fakes.http_server import HttpServer, Says
from tests.fakes.shell import FakeShell

NODE = {"metadata": {"name": "w1", "resourceVersion": "1"}}


def config(server: str = "https://127.0.0.1:6443", **files: str) -> str:
    """As k3s and rke2 write it; with ``files`` as services.kubernetes does."""
    inline = {"client-certificate-data": "QQ==", "client-key-data": "Qg=="}
    ca = files.pop("ca", "")
    authority = {"certificate-authority": ca} if ca else {"certificate-authority-data": "Qw=="}
    return yaml.safe_dump(
        {
            "current-context": "default",
            "clusters": [{"name": "default", "cluster": {"server": server, **authority}}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
            "users": [{"name": "default", "user": files or inline}],
        }
    )


@pytest.mark.parametrize(
    ("distribution", "path"),
    [(Distribution.K3S, "/etc/rancher/k3s/k3s.yaml"), (Distribution.RKE2, "/etc/rancher/rke2/rke2.yaml")],
)
async def test_the_first_host_that_has_one_gives_it_with_its_own_address(distribution: Distribution, path: str) -> None:
    shell = FakeShell().answers("cat", path, host="cp2", stdout=config())

    found = await fetch_kubeconfig(a_fleet("cp1 cp2 cp3 | w1", distribution=distribution), shell)

    loaded, _ = load(found, None)
    assert servers_of(loaded, found.elsewhere) == (
        "https://cp2.lan:6443",
        "https://cp1.lan:6443",
        "https://cp3.lan:6443",
    )
    assert all(ran.command.privileged for ran in shell.ran)
    assert not [ran for ran in shell.ran if ran.host == "w1"]


async def test_key_files_of_services_kubernetes_come_with_it() -> None:
    files = {"ca": "/s/ca.pem", "client-certificate": "/s/a.pem", "client-key": "/s/a-key.pem"}
    shell = FakeShell().answers(
        "cat", "/etc/kubernetes/cluster-admin.kubeconfig", stdout=config("https://api", **files)
    )
    for path in files.values():
        shell.answers("cat", path, stdout=f"content of {path}")

    found = await fetch_kubeconfig(a_fleet("cp1 | w1", distribution=Distribution.KUBERNETES), shell)

    loaded, _ = load(found, None)
    user, cluster = loaded["users"][0]["user"], loaded["clusters"][0]["cluster"]
    assert base64.b64decode(user["client-key-data"]).decode() == "content of /s/a-key.pem"
    assert base64.b64decode(cluster["certificate-authority-data"]).decode() == "content of /s/ca.pem"
    assert not {"client-key", "client-certificate"} & user.keys()
    assert (cluster["server"], found.elsewhere) == ("https://api", ())


async def test_hosts_without_one_are_named() -> None:
    with pytest.raises(TaskError) as caught:
        await fetch_kubeconfig(a_fleet("cp1 cp2 | w1"), FakeShell())

    assert [line.partition(":")[0] for line in caught.value.failure.evidence] == ["cp1", "cp2"]


def test_an_address_that_was_chosen_for_the_cluster_stays_the_only_one() -> None:
    assert fetched(config("https://vip.lan:6443"), "cp1", ["cp1", "cp2"]).elsewhere == ()
    assert fetched(config(), "cp1", ["cp1", "cp2"]).elsewhere == ("cp2",)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_another_api_server_is_asked_while_one_reboots_and_stays_the_one_that_is_asked() -> None:
    second = HttpServer(lambda _: Says(data=NODE))
    async with second.running():
        # The same port at two addresses of this machine; nobody listens at the first.
        found = plain(KubeconfigText(config(f"http://127.0.0.2:{second.port}"), ("127.0.0.1",)))
        async with open_cluster(found, None, clock=LoopClock(), patience=5) as cluster:
            for _ in range(3):
                assert await cluster.node("w1") is not None

    assert second.lines == ["GET /api/v1/nodes/w1"] * 3


async def test_when_all_are_away_all_are_named() -> None:
    found = plain(KubeconfigText(config("http://127.0.0.1:1"), ("127.0.0.2",)))
    async with open_cluster(found, None, clock=LoopClock(), patience=0.5) as cluster:
        with anyio.fail_after(5), pytest.raises(TaskError, match=r"at http://127.0.0.1:1 and http://127.0.0.2:1 did"):
            await cluster.node("w1")


def plain(found: KubeconfigText) -> KubeconfigText:
    """Without certificates, for servers without TLS."""
    document = yaml.safe_load(found.text)
    document["users"][0]["user"] = {"token": "t"}
    document["clusters"][0]["cluster"] = {"server": document["clusters"][0]["cluster"]["server"]}
    return KubeconfigText(yaml.safe_dump(document), found.elsewhere)
