"""Certificates of the lab's API server: a CA of its own, the server's pair, and pairs for clients.

Keys are made anew for each lab and are good for a rehearsal on loopback only. It deliberately renews nothing.
"""

import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS = 36500
_FROM = datetime(2020, 1, 1, tzinfo=UTC)
"""A fixed start: no clock of any machine is behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its private key, as PEM."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that signs for servers and clients."""

    pair: Pair

    def server(self, *names: str) -> Pair:
        """A pair for the addresses and names a server is reached by; loopback is always among them."""
        alternatives = [_alternative(name) for name in dict.fromkeys(("127.0.0.1", "::1", "localhost", *names))]
        return self._sign("kube-apiserver", (), ExtendedKeyUsageOID.SERVER_AUTH, alternatives)

    def client(self, user: str, *groups: str) -> Pair:
        """A pair that authenticates a user: common name and organisations."""
        return self._sign(user, groups, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def context(self, server: Pair) -> ssl.SSLContext:
        """What a server listens with; clients may show a certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.pair.certificate)
        with tempfile.TemporaryDirectory() as folder:
            # The standard library reads a server's pair from files only.
            file = Path(folder) / "server.pem"
            file.touch(mode=0o600)
            file.write_text(server.certificate + server.key)
            context.load_cert_chain(file)
        return context

    def trust(self) -> ssl.SSLContext:
        """What a client of the server checks it with."""
        return ssl.create_default_context(cadata=self.pair.certificate)

    def _sign(
        self, name: str, groups: tuple[str, ...], usage: x509.ObjectIdentifier, names: list[x509.GeneralName]
    ) -> Pair:
        authority = x509.load_pem_x509_certificate(self.pair.certificate.encode())
        signer = serialization.load_pem_private_key(self.pair.key.encode(), password=None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name, groups), authority.subject, key)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(identifier, critical=False)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _pair(builder.sign(signer, hashes.SHA256()), key)


def create_authority() -> Authority:
    """A new one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("nixkube-lab-ca", ())
    builder = _builder(name, name, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    return Authority(_pair(builder.sign(key, hashes.SHA256()), key))


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_FROM + timedelta(days=_DAYS))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str, groups: tuple[str, ...]) -> x509.Name:
    organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(), key=private.decode())
