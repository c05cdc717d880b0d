"""The way into a lab's Kubernetes API: its certificates on disk, and kubeconfigs as distributions write them.

It deliberately knows nothing of the cluster behind the address.
"""

import base64
import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nixkube_deploy.lab.kube.tls import Authority, Pair, create_authority
from nixkube_deploy.lab.kube.users import MASTERS

SECRETS = "/var/lib/kubernetes/secrets"
"""Where ``services.kubernetes`` keeps the files its kubeconfig points to."""


@dataclass(slots=True)
class Access:
    """An authority and the administrator's pair, kept in a folder so that a lab comes back with the same ones."""

    folder: Path
    authority: Authority = field(init=False)
    admin: Pair = field(init=False)

    def __post_init__(self) -> None:
        self.authority = Authority(self._kept("kube-ca", create_authority().pair))
        self.admin = self._kept("kube-admin", self.authority.client("kubernetes-admin", MASTERS))

    def context(self) -> ssl.SSLContext:
        """What the API server listens with."""
        return self.authority.context(self.authority.server())

    def kubeconfig(self, name: str, url: str) -> str:
        """The administrator's, with everything in it (as k3s and rke2 write theirs)."""
        pair = {
            "client-certificate-data": _encoded(self.admin.certificate),
            "client-key-data": _encoded(self.admin.key),
        }
        return _kubeconfig(name, url, {"certificate-authority-data": _encoded(self.authority.pair.certificate)}, pair)

    def files(self, path: str, name: str, url: str) -> dict[str, str]:
        """The administrator's at ``path``, pointing to files beside it (as ``services.kubernetes`` writes it)."""
        authority, certificate, key = (f"{SECRETS}/{file}.pem" for file in ("ca", "cluster-admin", "cluster-admin-key"))
        pair = {"client-certificate": certificate, "client-key": key}
        return {
            path: _kubeconfig(name, url, {"certificate-authority": authority}, pair),
            authority: self.authority.pair.certificate,
            certificate: self.admin.certificate,
            key: self.admin.key,
        }

    def _kept(self, name: str, made: Pair) -> Pair:
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if not key.exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            certificate.write_text(made.certificate)
            key.touch(mode=0o600)
            key.write_text(made.key)
        return Pair(certificate=certificate.read_text(), key=key.read_text())


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _kubeconfig(name: str, url: str, authority: dict[str, str], user: dict[str, str]) -> str:
    plain: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url, **authority}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return json.dumps(plain, indent=2) + "\n"
