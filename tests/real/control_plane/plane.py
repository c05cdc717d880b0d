"""One control plane on loopback: etcd, the API server, the controller manager and the scheduler, as our processes.

Every process ends with the one that started it. It deliberately knows nothing of nodes: ``kubelets`` does.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml

from nixkube_deploy.lab.kube.tls import Authority, Pair, create_authority

GRACE = 6
"""Seconds of silence after which a node is Unknown; 50 by default."""
PATIENCE = 120.0
"""Seconds for a start on a machine that has other things to do."""
GENTLY = 5.0
"""Seconds that a program may take to end by itself."""
MERGE = "application/merge-patch+json"

Object = dict[str, Any]


def wait_until(what: str, holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Look again and again until it holds.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)


@dataclass
class Program:
    """A process of ours, its log, and what it was started with."""

    argv: Sequence[str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """It ends with the thread that calls this, whatever becomes of that."""
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *self.argv]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.log.parent)

    def stop(self) -> None:
        """At once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=60)
            self.process = None

    def end(self) -> None:
        """As a service manager does it: asked to, then made to. An API server waits a minute for those who watch."""
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=GENTLY)
            self.stop()

    def check(self) -> None:
        """Raises: AssertionError, it has ended by itself."""
        ended = self.process is not None and self.process.poll() is not None
        assert not ended, f"{self.argv[0]} ended by itself:\n{self.log.read_text()[-3000:]}"


class Refused(Exception):  # noqa: N818 (what happened)
    """The API refused something that a test wanted done."""


@dataclass
class Admin:
    """The API for a test's own hands: what nobody may do but a cluster's owner. Nothing here is the product's."""

    http: httpx2.Client

    def ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Object:
        """One request.

        Raises:
            Refused: with the answer.
        """
        reply = self.http.request(method, path, json=body, headers={"Content-Type": kind} if body is not None else {})
        if reply.is_error:
            raise Refused(f"{method} {path}: {reply.status_code}: {reply.text}")
        found: Object = reply.json()
        return found

    def find(self, path: str) -> Object | None:
        """One object, or None."""
        try:
            return self.ask("GET", path)
        except Refused as error:
            if ": 404: " not in str(error):
                raise
            return None

    def items(self, path: str) -> list[Object]:
        """The objects of a list."""
        found: list[Object] = self.ask("GET", path)["items"]
        return found

    def patch(self, path: str, change: Mapping[str, Any]) -> Object:
        """A merge patch."""
        return self.ask("PATCH", path, change, kind=MERGE)

    def delete(self, path: str, **options: Any) -> None:
        """A deletion; gone already is fine."""
        try:
            self.ask("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except Refused as error:
            if ": 404: " not in str(error):
                raise

    def create(self, manifest: Object) -> Object:
        """Create an object of any of the kinds the tests and docs/rbac.yaml use."""
        group, plural, version = _KINDS[manifest["kind"]]
        base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        space = manifest["metadata"].get("namespace")
        inside = f"/namespaces/{space}" if space else ""
        whole = {"apiVersion": f"{group}/{version}" if group else version, **manifest}
        return self.ask("POST", f"{base}{inside}/{plural}", whole)


_RBAC = "rbac.authorization.k8s.io"
_KINDS = {
    "ClusterRole": (_RBAC, "clusterroles", "v1"),
    "ClusterRoleBinding": (_RBAC, "clusterrolebindings", "v1"),
    "Role": (_RBAC, "roles", "v1"),
    "RoleBinding": (_RBAC, "rolebindings", "v1"),
    "DaemonSet": ("apps", "daemonsets", "v1"),
    "Deployment": ("apps", "deployments", "v1"),
    "StatefulSet": ("apps", "statefulsets", "v1"),
    "PodDisruptionBudget": ("policy", "poddisruptionbudgets", "v1"),
    "Lease": ("coordination.k8s.io", "leases", "v1"),
    "Namespace": ("", "namespaces", "v1"),
    "Node": ("", "nodes", "v1"),
    "Pod": ("", "pods", "v1"),
    "ServiceAccount": ("", "serviceaccounts", "v1"),
}


@dataclass
class Plane:
    """The running control plane."""

    folder: Path
    programs: Path
    authority: Authority
    etcd_port: int
    peer_port: int
    port: int
    admin: Admin = field(init=False)
    parts: dict[str, Program] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, user: Mapping[str, str]) -> str:
        """A kubeconfig's text for a user's credentials."""
        trusted = str(self.folder / "ca.crt")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "real", "cluster": {"server": self.url, "certificate-authority": trusted}}],
            "users": [{"name": "real", "user": dict(user)}],
            "contexts": [{"name": "real", "context": {"cluster": "real", "user": "real"}}],
            "current-context": "real",
        }
        return yaml.safe_dump(config)

    def config_of(self, name: str, *groups: str) -> Path:
        """A kubeconfig file with a certificate of this user."""
        pair = self._write(name.replace(":", "-"), self.authority.client(name, *groups))
        file = self.folder / f"{pair.name}.kubeconfig"
        user = {"client-certificate": str(pair / "cert.pem"), "client-key": str(pair / "key.pem")}
        file.touch(mode=0o600)
        file.write_text(self.kubeconfig(user))
        return file

    def launch(self, name: str, program: str, *arguments: str) -> Program:
        """Start one of the programs under a name of its own."""
        part = Program([str(self.programs / program), *arguments], self.folder / f"{name}.log")
        part.start()
        self.parts[name] = part
        return part

    def await_api(self) -> None:
        """Until the API server says that it is ready."""

        def ready() -> bool:
            self.check()
            try:
                return self.admin.http.get("/readyz").status_code == httpx2.codes.OK
            except httpx2.HTTPError:
                return False

        wait_until(f"{self.url} is ready", ready, PATIENCE)

    def start(self) -> None:
        """All of it; with the answer to ``readyz`` and the first work of the controllers."""
        self._files()
        masters = self._write("admin", self.authority.client("admin", "system:masters"))
        context = self.authority.trust()
        context.load_cert_chain(masters / "cert.pem", masters / "key.pem")
        self.admin = Admin(httpx2.Client(base_url=self.url, verify=context, timeout=30, trust_env=False))
        self.launch("etcd", "etcd", *self._etcd())
        self.launch("kube-apiserver", "kube-apiserver", *self._apiserver())
        self.await_api()
        self.launch("kube-controller-manager", "kube-controller-manager", *self._controllers())
        self.launch("kube-scheduler", "kube-scheduler", *self._scheduler())
        account = "/api/v1/namespaces/default/serviceaccounts/default"

        def at_work() -> bool:
            self.check()
            return self.admin.find(account) is not None

        wait_until("the controllers work", at_work, PATIENCE)

    def check(self) -> None:
        """Raises: AssertionError, one of the programs has ended by itself."""
        for part in self.parts.values():
            part.check()

    def stop(self) -> None:
        for part in reversed(self.parts.values()):
            part.stop()
        self.admin.http.close()

    def _files(self) -> None:
        (self.folder / "ca.crt").write_text(self.authority.pair.certificate)
        self._write("server", self.authority.server())
        self._write("accounts", self.authority.client("service-accounts"))

    def _write(self, name: str, pair: Pair) -> Path:
        place = self.folder / name
        place.mkdir(mode=0o700, exist_ok=True)
        (place / "cert.pem").write_text(pair.certificate)
        (place / "key.pem").write_text(pair.key)
        return place

    def _etcd(self) -> list[str]:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.peer_port}"
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        ]

    def _apiserver(self) -> list[str]:
        return [
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            # Nobody connects to it: without a route out, the program finds none by itself.
            "--advertise-address=192.0.2.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self.folder / 'server' / 'cert.pem'}",
            f"--tls-private-key-file={self.folder / 'server' / 'key.pem'}",
            f"--client-ca-file={self.folder / 'ca.crt'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'accounts' / 'cert.pem'}",
            f"--service-account-signing-key-file={self.folder / 'accounts' / 'key.pem'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
            # Debian's etcd 3.4 cannot be asked for progress, and what lists by watching would wait for seconds.
            "--feature-gates=WatchList=false",
            "--profiling=false",
        ]

    def _controllers(self) -> list[str]:
        return [
            f"--kubeconfig={self.config_of('system:kube-controller-manager')}",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.folder / 'accounts' / 'key.pem'}",
            f"--root-ca-file={self.folder / 'ca.crt'}",
            f"--node-monitor-grace-period={GRACE}s",
            "--node-monitor-period=1s",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--secure-port=0",
            "--profiling=false",
        ]

    def _scheduler(self) -> list[str]:
        return [
            f"--kubeconfig={self.config_of('system:kube-scheduler')}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--secure-port=0",
            "--profiling=false",
        ]


@contextmanager
def running(programs: Path, folder: Path) -> Iterator[Plane]:
    """A control plane for the length of the block."""
    assert shutil.which("setpriv"), "setpriv (package util-linux) is missing"
    etcd, peer, api = _free_ports(3)
    folder.mkdir(parents=True, exist_ok=True)
    plane = Plane(folder, programs, create_authority(), etcd, peer, api)
    os.chmod(folder, 0o700)  # noqa: PTH101 (keys are in it)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


def _free_ports(count: int) -> list[int]:
    """Ports nobody listened at a moment ago; all are held until the last is known, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    found = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return found
