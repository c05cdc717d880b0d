"""Certificates: the cluster's own CA, the client's, and what is said when one of them does not fit."""

import base64
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure
from tests.fakes.cluster import LoopClock
from tests.fakes.http_server import HttpServer, Says

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

SINCE = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def issue(name: str, *, by: Pair | None = None, address: str = "127.0.0.1", days: int = 36500) -> Pair:
    """A certificate; a CA's when ``by`` is None."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer, signer = (by.certificate.subject, by.key) if by else (subject, key)
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=SINCE,
        not_valid_after=SINCE + timedelta(days=days),
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    authority = by.key if by else key
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
    )
    return Pair(builder.sign(signer, hashes.SHA256()), key)


@asynccontextmanager
async def an_api(folder: Path, pair: Pair, client_ca: Pair | None = None) -> AsyncIterator[HttpServer]:
    (folder / "server.pem").write_text(pair.pem + pair.key_pem)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "server.pem")
    if client_ca is not None:
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(cadata=client_ca.pem)
    script = Says(data={"metadata": {"name": "w1"}})
    async with HttpServer(lambda _: script, tls).running() as server:
        yield server


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def kubeconfig(server: HttpServer, ca: Pair, client: Pair | None = None) -> KubeconfigText:
    user = {"token": "t"}
    if client is not None:
        user = {"client-certificate-data": b64(client.pem), "client-key-data": b64(client.key_pem)}
    config = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server.url, "certificate-authority-data": b64(ca.pem)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": user}],
    }
    return KubeconfigText(yaml.safe_dump(config))


async def failure_of(text: KubeconfigText) -> Failure:
    with pytest.raises(TaskError) as caught:
        async with open_cluster(text, None, clock=LoopClock(), patience=1) as cluster:
            await cluster.node("w1")
    return caught.value.failure


async def test_the_clusters_ca_and_a_client_certificate_are_used(tmp_path: Path) -> None:
    ca = issue("ca")
    async with an_api(tmp_path, issue("api", by=ca), client_ca=ca) as server:
        text = kubeconfig(server, ca, issue("admin", by=ca))
        async with open_cluster(text, None, clock=LoopClock()) as cluster:
            assert await cluster.node("w1") is not None


async def test_a_client_certificate_of_an_exec_plugin_is_used_and_its_connections_are_not_kept(tmp_path: Path) -> None:
    ca = issue("ca")
    client = issue("admin", by=ca)
    status = {"clientCertificateData": client.pem, "clientKeyData": client.key_pem}
    (tmp_path / "credential").write_text(json.dumps({"status": status}))
    plugin = {"command": "cat", "args": [str(tmp_path / "credential")]}
    async with an_api(tmp_path, issue("api", by=ca), client_ca=ca) as server:
        config = yaml.safe_load(kubeconfig(server, ca).text)
        config["users"][0]["user"] = {"exec": plugin}
        text = KubeconfigText(yaml.safe_dump(config))
        async with open_cluster(text, None, clock=LoopClock()) as cluster:
            assert await cluster.node("w1") is not None

    assert server.asked[0].headers["connection"] == "close"


async def test_a_server_of_another_ca_is_refused_for_good(tmp_path: Path) -> None:
    async with an_api(tmp_path, issue("api", by=issue("other"))) as server:
        failure = await failure_of(kubeconfig(server, issue("ca")))

    assert "certificate of the Kubernetes API" in failure.message
    assert not failure.transient
    assert server.asked == []


async def test_a_certificate_for_another_address_says_so_and_how_k3s_mends_it(tmp_path: Path) -> None:
    ca = issue("ca")
    async with an_api(tmp_path, issue("api", by=ca, address="10.0.0.1")) as server:
        failure = await failure_of(kubeconfig(server, ca))

    assert "IP address mismatch" in failure.message
    assert "--tls-san" in failure.next


async def test_a_certificate_for_another_name_is_taken_where_the_kubeconfig_names_it(tmp_path: Path) -> None:
    ca = issue("ca")
    async with an_api(tmp_path, issue("api", by=ca, address="10.0.0.1")) as server:
        config = yaml.safe_load(kubeconfig(server, ca).text)
        config["clusters"][0]["cluster"]["tls-server-name"] = "10.0.0.1"
        async with open_cluster(KubeconfigText(yaml.safe_dump(config)), None, clock=LoopClock()) as cluster:
            assert await cluster.node("w1") is not None


async def test_an_expired_certificate_is_called_expired(tmp_path: Path) -> None:
    ca = issue("ca")
    async with an_api(tmp_path, issue("api", by=ca, days=365)) as server:
        assert "expired" in (await failure_of(kubeconfig(server, ca))).message


async def test_a_client_certificate_the_server_does_not_accept_fails(tmp_path: Path) -> None:
    ca = issue("ca")
    async with an_api(tmp_path, issue("api", by=ca), client_ca=issue("clients")) as server:
        failure = await failure_of(kubeconfig(server, ca, issue("admin", by=ca)))

    assert failure.message
    assert server.asked == []
