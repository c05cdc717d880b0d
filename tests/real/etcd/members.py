"""A real etcd of several members on loopback, each a "host" whose unit file says how it runs, as NixOS writes it.

A host is a mount namespace: the members' unit files and certificates lie where the product looks for them, and what
the product would send over SSH is run there. It deliberately starts no systemd.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio import to_thread

from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import Command, CommandResult, OnLine
from tests.builders import a_host

_IN_PLACE = """
mount -t tmpfs none /var/lib
mkdir -p /var/lib/kubernetes/secrets
mount --bind "$1/units" /etc/systemd/system
test -d "$1/secrets" && mount --bind "$1/secrets" /var/lib/kubernetes/secrets
if test -d "$1/rancher"; then
  mkdir -p /var/lib/rancher/k3s/server
  mount --bind "$1/rancher" /var/lib/rancher/k3s/server
fi
shift
exec "$@"
"""
_START = 20.0


class NoEtcd(Exception):  # noqa: N818 (says what is not there)
    """A real etcd cannot be had here."""


def check() -> None:
    """Fail where the programs, or the rights, are missing."""
    if os.geteuid() != 0:
        raise NoEtcd("hosts are mount namespaces: run this as root")
    for program in ("etcd", "etcdctl", "curl", "openssl", "unshare"):
        if not any((Path(folder) / program).exists() for folder in os.environ["PATH"].split(":")):
            raise NoEtcd(f"{program} is missing: apt-get install etcd-server etcd-client curl openssl util-linux")


@dataclass(slots=True, kw_only=True)
class RealMember:
    """One member and its host."""

    host: Host
    folder: Path
    address: str
    env: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    network: subprocess.Popen[bytes] | None = None
    """Keeps a network namespace of its own, where the host has one."""

    @property
    def inside(self) -> tuple[str, ...]:
        """What goes before a command to be run in the host's network."""
        return ("nsenter", "-t", str(self.network.pid), "-n") if self.network is not None else ()

    def start(self) -> None:
        """As its unit says."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                (*self.inside, "etcd"), env={**os.environ, **self.env}, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """As a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """It holds its port, and says nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@dataclass(slots=True, kw_only=True)
class RealEtcd:
    """The members, and the Shell that reaches their hosts."""

    folder: Path
    tls: bool
    members: dict[str, RealMember] = field(default_factory=dict)
    calls: int = 0

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(member.host for member in self.members.values())

    def member_env(self, name: str, address: str, cluster: str, state: str) -> dict[str, str]:
        """What the NixOS module puts into the unit's environment."""
        scheme = "https" if self.tls else "http"
        env = {
            "ETCD_NAME": name,
            "ETCD_DATA_DIR": str(self.folder / name / "data"),
            "ETCD_LISTEN_CLIENT_URLS": f"{scheme}://{address}:2379",
            "ETCD_ADVERTISE_CLIENT_URLS": f"{scheme}://{address}:2379",
            "ETCD_LISTEN_PEER_URLS": f"http://{address}:2380",
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": f"http://{address}:2380",
            "ETCD_INITIAL_CLUSTER": cluster,
            "ETCD_INITIAL_CLUSTER_STATE": state,
        }
        if self.tls:
            secrets = self.folder / name / "secrets"
            env |= {
                "ETCD_CLIENT_CERT_AUTH": "true",
                "ETCD_CERT_FILE": f"{secrets}/etcd.pem",
                "ETCD_KEY_FILE": f"{secrets}/etcd-key.pem",
                "ETCD_TRUSTED_CA_FILE": f"{secrets}/ca.pem",
            }
        return env

    def add(self, name: str, address: str, cluster: str, state: str = "new") -> RealMember:
        """A host with its unit and certificates; nothing runs yet."""
        folder = self.folder / name
        (folder / "units").mkdir(parents=True)
        if self.tls:
            certify(folder / "secrets", self.folder / "authority", address)
        env = self.member_env(name, address, cluster, state)
        lines = "".join(f'Environment="{key}={value}"\n' for key, value in env.items())
        (folder / "units" / "etcd.service").write_text(f"[Service]\n{lines}ExecStart=/usr/bin/etcd\nType=notify\n")
        if self.tls:
            flags = "--etcd-certfile=/var/lib/kubernetes/secrets/client.pem \\\n "
            flags += "--etcd-keyfile=/var/lib/kubernetes/secrets/client-key.pem"
            (folder / "units" / "kube-apiserver.service").write_text(
                f"[Service]\nExecStart=/bin/kube-apiserver {flags}\n"
            )
        member = RealMember(host=a_host(name), folder=folder, address=address, env=env)
        self.members[name] = member
        return member

    def etcdctl(self, *args: str, through: str = "cp1") -> str:
        """The field's own tool, as a second opinion."""
        member = self.members[through]
        scheme = "https" if self.tls else "http"
        argv = ["etcdctl", f"--endpoints={scheme}://{member.address}:2379", *args]
        if self.tls:
            secrets = member.folder / "secrets"
            argv += [f"--cacert={secrets}/ca.pem", f"--cert={secrets}/client.pem", f"--key={secrets}/client-key.pem"]
        done = subprocess.run(argv, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def learner(self, name: str, peer: str) -> None:
        """Add one; etcd takes nobody in during its first seconds."""
        deadline = time.monotonic() + _START
        while "added to cluster" not in (
            said := self.etcdctl("member", "add", name, "--learner", f"--peer-urls={peer}")
        ):
            assert time.monotonic() < deadline, said
            time.sleep(0.5)

    def leader(self) -> str:
        """Who leads, as etcdctl sees it."""
        for name in self.members:
            rows = self.etcdctl("endpoint", "status", through=name).split(", ")
            if len(rows) > 4 and rows[4] == "true":
                return name
        return ""

    def settle(self, count: int) -> None:
        """Wait until so many members are healthy and somebody leads."""
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            well = [n for n in self.members if "is healthy" in self.etcdctl("endpoint", "health", through=n)]
            if len(well) >= count and self.leader():
                return
            time.sleep(0.1)
        raise AssertionError(
            f"etcd did not settle: {[self.etcdctl('endpoint', 'health', through=n) for n in self.members]}"
        )

    # The Shell.

    async def run(self, host: Host, command: Command, on_line: OnLine | None = None) -> CommandResult:
        """What the product sends to a host, run in the host's mount namespace."""
        del on_line
        self.calls += 1
        member = self.members[host.name]
        folder = str(member.folder)
        argv = (*member.inside, "unshare", "-m", "--", "sh", "-c", _IN_PLACE, "sh", folder, *command.argv)
        done = await to_thread.run_sync(lambda: subprocess.run(argv, capture_output=True, text=True, check=False))
        return CommandResult(exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    async def run_fresh(self, host: Host, command: Command) -> CommandResult:
        return await self.run(host, command)

    async def forget(self, host: Host) -> None:
        del host
        await anyio.lowlevel.checkpoint()

    def hold(self, host: Host, command: Command) -> object:
        raise NotImplementedError


@contextmanager
def a_real_etcd(folder: Path, *, tls: bool, settings: Mapping[str, str] | None = None) -> Iterator[RealEtcd]:
    """Three members that know one another."""
    check()
    etcd = RealEtcd(folder=folder, tls=tls)
    if tls:
        authorise(folder / "authority")
    net = f"127.{random.randint(8, 250)}.{random.randint(1, 250)}"
    names = ("cp1", "cp2", "cp3")
    cluster = ",".join(f"{name}=http://{net}.{at}:2380" for at, name in enumerate(names, start=1))
    try:
        for at, name in enumerate(names, start=1):
            member = etcd.add(name, f"{net}.{at}", cluster)
            member.env.update(settings or {})
            member.start()
        etcd.settle(len(names))
        yield etcd
    finally:
        for member in etcd.members.values():
            if member.process is not None and member.process.poll() is None:
                member.process.kill()
                member.process.wait()


@contextmanager
def an_embedded_etcd(folder: Path) -> Iterator[RealEtcd]:
    """One member as k3s runs it: on loopback, with k3s' folders and certificates, in a network of its own."""
    check()
    authorise(folder / "authority")
    server = folder / "cp1" / "rancher"
    certify(server / "made", folder / "authority", "127.0.0.1")
    (server / "tls" / "etcd").mkdir(parents=True)
    for made, name in (("ca", "server-ca"), ("etcd", "server-client"), ("client", "client")):
        (server / "tls" / "etcd" / f"{name}.crt").write_text((server / "made" / f"{made}.pem").read_text())
        key = server / "made" / f"{made}-key.pem"
        if key.exists():
            (server / "tls" / "etcd" / f"{name}.key").write_text(key.read_text())
    (folder / "cp1" / "units").mkdir()
    tls = server / "tls" / "etcd"
    env = {
        "ETCD_DATA_DIR": str(server / "db" / "etcd"),
        "ETCD_LISTEN_CLIENT_URLS": "https://127.0.0.1:2379",
        "ETCD_ADVERTISE_CLIENT_URLS": "https://127.0.0.1:2379",
        "ETCD_CLIENT_CERT_AUTH": "true",
        "ETCD_CERT_FILE": f"{tls}/server-client.crt",
        "ETCD_KEY_FILE": f"{tls}/server-client.key",
        "ETCD_TRUSTED_CA_FILE": f"{tls}/server-ca.crt",
    }
    network = subprocess.Popen(
        ("unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"), stdout=-1
    )
    member = RealMember(host=a_host("cp1"), folder=folder / "cp1", address="127.0.0.1", env=env, network=network)
    try:
        assert network.stdout is not None
        assert network.stdout.readline() == b"up\n"
        member.start()
        deadline = time.monotonic() + _START
        while "ready to serve client requests" not in (member.folder / "log").read_text():
            assert time.monotonic() < deadline, (member.folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield RealEtcd(folder=folder, tls=True, members={"cp1": member})
    finally:
        for process in (member.process, network):
            if process is not None:
                process.kill()
                process.communicate()


def _openssl(*args: str) -> None:
    subprocess.run(("openssl", *args), check=True, capture_output=True)


def authorise(folder: Path) -> None:
    """A certificate authority."""
    folder.mkdir(parents=True)
    subject = (
        "-subj",
        "/CN=etcd-test-ca",
        "-days",
        "2",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    )
    _openssl("req", "-x509", *subject, "-keyout", f"{folder}/ca-key.pem", "-out", f"{folder}/ca.pem")


def certify(folder: Path, authority: Path, address: str) -> None:
    """As services.kubernetes makes them: etcd's own certificate names no usage, a client's is for its API server."""
    folder.mkdir(parents=True)
    (folder / "ca.pem").write_text((authority / "ca.pem").read_text())
    for name, more in (("etcd", f"subjectAltName=IP:{address}"), ("client", "extendedKeyUsage=clientAuth")):
        key, request, extra = folder / f"{name}-key.pem", folder / f"{name}.csr", folder / f"{name}.ext"
        extra.write_text(more + "\n")
        curve = ("-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        _openssl("req", "-new", *curve, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
        signer = ("-CA", f"{authority}/ca.pem", "-CAkey", f"{authority}/ca-key.pem", "-CAcreateserial")
        out = ("-out", f"{folder}/{name}.pem", "-days", "2", "-extfile", str(extra))
        _openssl("x509", "-req", "-in", str(request), *signer, *out)
