"""What there is: the cluster, its hosts and groups, as the inventory says. No secrets, no connections."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from nixkube_deploy.model.building import BuildOn, BuildSettings, EvaluationSettings
from nixkube_deploy.model.names import GroupName, HostName
from nixkube_deploy.model.secret import SecretRef
from nixkube_deploy.model.strategy import Gates, HostPolicy, Limit, Strategy


class Role(StrEnum):
    """What a host is to the cluster."""

    CONTROL_PLANE = "control-plane"
    WORKER = "worker"

    @property
    def is_control_plane(self) -> bool:
        """Whether the host runs an API server (and an etcd voter)."""
        return self is Role.CONTROL_PLANE


class Distribution(StrEnum):
    """Which Kubernetes the hosts run."""

    K3S = "k3s"
    RKE2 = "rke2"
    KUBERNETES = "kubernetes"
    NONE = "none"

    @property
    def has_kubelet(self) -> bool:
        """Whether hosts are Nodes: drained, gated on the kubelet."""
        return self is not Distribution.NONE

    @property
    def node_units(self) -> frozenset[str]:
        """Units whose change restarts the kubelet, the container runtime or the CNI.

        Source: nixpkgs ``nixos/modules/services/cluster`` (k3s runs everything in one unit, on agents too).
        """
        return _NODE_UNITS[self]

    @property
    def kubelet_unit(self) -> str | None:
        """The unit the kubelet lives in, None for plain hosts."""
        return _KUBELET_UNIT[self]

    @property
    def etcd_folder(self) -> str | None:
        """Where a server's embedded etcd lies, with its data in ``db`` and its certificates in ``tls``.

        None where etcd is a unit of its own, ``etcd.service``, or where there is none.
        """
        return _ETCD_FOLDER.get(self)

    @property
    def etcd_unit(self) -> str:
        """The unit whose log tells of etcd."""
        return _ETCD_UNIT.get(self, "etcd.service")

    @property
    def admin_kubeconfig(self) -> str | None:
        """Where a control-plane host keeps an admin kubeconfig."""
        return _ADMIN_KUBECONFIG[self]


_NODE_UNITS = {
    Distribution.K3S: frozenset({"k3s.service"}),
    Distribution.RKE2: frozenset({"rke2-server.service", "rke2-agent.service"}),
    Distribution.KUBERNETES: frozenset(
        {
            "kubelet.service",
            "containerd.service",
            "crio.service",
            "flannel.service",
            "kube-proxy.service",
            "kube-apiserver.service",
            "kube-controller-manager.service",
            "kube-scheduler.service",
            "etcd.service",
        }
    ),
    Distribution.NONE: frozenset(),
}
_KUBELET_UNIT = {
    Distribution.K3S: "k3s.service",
    Distribution.RKE2: "rke2-agent.service",
    Distribution.KUBERNETES: "kubelet.service",
    Distribution.NONE: None,
}
_ETCD_FOLDER = {
    Distribution.K3S: "/var/lib/rancher/k3s/server",
    Distribution.RKE2: "/var/lib/rancher/rke2/server",
}
_ETCD_UNIT = {Distribution.K3S: "k3s.service", Distribution.RKE2: "rke2-server.service"}
_ADMIN_KUBECONFIG = {
    Distribution.K3S: "/etc/rancher/k3s/k3s.yaml",
    Distribution.RKE2: "/etc/rancher/rke2/rke2.yaml",
    Distribution.KUBERNETES: "/etc/kubernetes/cluster-admin.kubeconfig",
    Distribution.NONE: None,
}


class Activator(StrEnum):
    """Which program activates a closure on a host."""

    NATIVE = "native"
    NIXOS_REBUILD = "nixos-rebuild"
    DEPLOY_RS = "deploy-rs"


class Privilege(StrEnum):
    """How a command becomes root on a host."""

    NONE = "none"
    SUDO = "sudo"
    DOAS = "doas"
    RUN0 = "run0"


class CopyVia(StrEnum):
    """How a closure reaches a host."""

    PUSH = "push"
    CACHE = "cache"


class HostKeyPolicy(StrEnum):
    """What to do with a host key that is not known yet. A changed key is always refused."""

    VERIFY = "verify"
    ACCEPT_NEW = "accept-new"
    ANY = "any"
    """Never the inventory's: for looks at an installer, whose key nobody can know. Nothing secret is sent to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSettings:
    """How to reach a host. None means: what ssh_config or the default says. Paths are absolute, seconds are floats."""

    user: str | None = None
    port: int | None = None
    identity_file: str | None = None
    jump: str | None = None
    """``[user@]host[:port]``, or several with commas, as OpenSSH's ProxyJump; may be a host of the inventory."""
    connect_timeout: float = 10.0
    keepalive: float = 15.0
    host_key: str | None = None
    """Pinned public key, ``ssh-ed25519 AAAA...``; when set nothing else is accepted."""
    host_key_policy: HostKeyPolicy = HostKeyPolicy.VERIFY
    known_hosts: str | None = None
    config: str | None = None
    """Path of an ssh_config; None reads ``~/.ssh/config``, ``none`` reads none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySettings:
    """How closures travel."""

    via: CopyVia = CopyVia.PUSH
    substitute: bool = True
    cache: str | None = None
    """Store URL hosts pull from when ``via`` is cache."""
    stall: float = 120.0
    """Seconds without one byte moving after which a copy is ended and tried again."""
    min_free: int = 0
    """Bytes that must stay free on the host's store after a copy."""
    collect_garbage: float | None = None
    """When a copy lacks room: delete generations older than this many seconds, then collect garbage. None: never."""


class ReportBackend(StrEnum):
    """Which program looks at the hardware, in the installer."""

    FACTER = "nixos-facter"
    GENERATE_CONFIG = "nixos-generate-config"


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareReport:
    """A file of the flake that nixos-anywhere writes once the installer runs."""

    path: str
    backend: ReportBackend = ReportBackend.FACTER


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallDeadlines:
    """Seconds each phase of an installation may take: nixos-anywhere itself waits without end in four places."""

    kexec: float = 1200.0
    report: float = 300.0
    disko: float = 900.0
    install: float = 3600.0
    reboot: float = 300.0
    boot: float = 900.0
    """From the reboot until the installed system answers with its own host key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSettings:
    """What nixos-anywhere needs to install this host, and the guards against wiping the wrong machine."""

    disks: tuple[str, ...] = ()
    extra_files: str | None = None
    expect_serial: str | None = None
    expect_machine_id: str | None = None
    kexec: str | None = None
    """Path or URL of a kexec tarball, None for nixos-anywhere's own."""
    installer_port: int | None = None
    """Where the installer's SSH listens; None: where the machine's did."""
    host_key: SecretRef | None = None
    """The private host key of the installed system; None: that of ``extra_files``, or a new one."""
    secrets: Mapping[str, SecretRef] = field(default_factory=dict)
    """Path in the installed system to what is written there, readable by root only."""
    ownership: Mapping[str, str] = field(default_factory=dict)
    """Path in the installed system to ``uid:gid``; everything else is root's."""
    disk_encryption_keys: Mapping[str, SecretRef] = field(default_factory=dict)
    """Path in the installer to what is written there before the disks are formatted."""
    hardware_report: HardwareReport | None = None
    deadlines: InstallDeadlines = InstallDeadlines()


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine of the fleet, every default already applied."""

    name: HostName
    address: str
    groups: tuple[GroupName, ...]
    role: Role = Role.WORKER
    system: str = "x86_64-linux"
    """Nix system, ``<arch>-<os>``."""
    labels: Mapping[str, str] = field(default_factory=dict)
    attr: str | None = None
    """Attribute under the flake; None means ``nixosConfigurations.<name>``."""
    specialisation: str | None = None
    """Which of its system's specialisations runs; None: the system itself."""
    node: str | None = None
    """Expected Node name, when machine-id and addresses cannot tell."""
    ssh: SshSettings = SshSettings()
    privilege: Privilege = Privilege.NONE
    privilege_password: SecretRef | None = None
    activation: Activator = Activator.NATIVE
    copy: CopySettings = CopySettings()
    build_on: BuildOn = BuildOn.CONTROLLER
    policy: HostPolicy = HostPolicy()
    bootstrap: BootstrapSettings | None = None

    @property
    def login(self) -> str:
        """What a person types to log in, as far as the inventory says it."""
        jump = f"-J {self.ssh.jump} " if self.ssh.jump else ""
        port = f"-p {self.ssh.port} " if self.ssh.port else ""
        return f"ssh {jump}{port}{self.ssh.user + '@' if self.ssh.user else ''}{self.address}"

    @property
    def flake_attr(self) -> str:
        """The attribute path of this host's configuration, ``nixosConfigurations."n1"``."""
        return self.attr or f'nixosConfigurations."{self.name}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A set of hosts that share defaults and a disruption budget."""

    name: GroupName
    members: tuple[HostName, ...]
    max_unavailable: Limit | None = None
    """None: the strategy's."""


IN_CLUSTER = "in-cluster"
"""In place of a kubeconfig's path, which is absolute: the service account of the pod the controller runs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The Kubernetes cluster the hosts form."""

    name: str
    distribution: Distribution = Distribution.K3S
    kubeconfig: str | None = None
    """Absolute path on the controller, or ``IN_CLUSTER``; None: fetch it over SSH from a control-plane host."""
    context: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A whole inventory, parsed. ``hosts`` keeps the inventory's order."""

    cluster: Cluster
    flake: str
    """Flake reference; a local path is absolute."""
    hosts: Mapping[HostName, Host]
    groups: Mapping[GroupName, Group]
    strategy: Strategy = Strategy()
    gates: Gates = Gates()
    evaluation: EvaluationSettings = EvaluationSettings()
    build: BuildSettings = BuildSettings()
    deploy_rs: str | None = None
    """Absolute path of deploy-rs' program on the controller."""
    source: str = "<inventory>"
    """Where it was read from, for messages and locks."""

    def only(self, names: frozenset[HostName]) -> "Fleet":
        """The same fleet with only these hosts; groups keep all members, so budgets stay what they are."""
        return replace(self, hosts={name: host for name, host in self.hosts.items() if name in names})
