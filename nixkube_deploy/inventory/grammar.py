"""The inventory, described once: every key, its shape, its default and one line of help.

The parser reads with it, ``schema`` prints it, ``explain`` walks it. What keys mean together is ``assemble``'s.
"""

from nixkube_deploy.inventory import units, values
from nixkube_deploy.inventory.bootstrap import BOOTSTRAP
from nixkube_deploy.inventory.building import BUILD, EVALUATION
from nixkube_deploy.inventory.rules import GATES, GROUP_STRATEGY, HOST_STRATEGY, STRATEGY
from nixkube_deploy.inventory.shape import Choice, Count, Field, Flag, ListOf, Record, TableOf, fields_of
from nixkube_deploy.model.building import BuildOn
from nixkube_deploy.model.fleet import (
    Activator,
    Cluster,
    CopySettings,
    CopyVia,
    Distribution,
    Host,
    HostKeyPolicy,
    Privilege,
    Role,
    SshSettings,
)

_SYSTEMS = (
    "x86_64-linux",
    "aarch64-linux",
    "armv7l-linux",
    "armv6l-linux",
    "riscv64-linux",
    "i686-linux",
    "powerpc64le-linux",
    "loongarch64-linux",
    "s390x-linux",
)
_SYSTEM_SYNONYMS = {
    "amd64": "x86_64-linux",
    "x86_64": "x86_64-linux",
    "x64": "x86_64-linux",
    "arm64": "aarch64-linux",
    "arm64-linux": "aarch64-linux",
    "aarch64": "aarch64-linux",
    "armv7l": "armv7l-linux",
}


SSH = Record(
    name="ssh",
    doc="How to reach hosts. What is not said here is left to ssh_config.",
    fields=fields_of(
        SshSettings,
        {
            "user": (values.USER, "Log in as this user."),
            "port": (Count(minimum=1, maximum=65535), "The port of sshd."),
            "identity_file": (values.FILE_PATH, "The private key, relative to the inventory or under ~."),
            "jump": (
                values.JUMP,
                "[user@]host[:port], several with commas, as ProxyJump; may be a host of the inventory.",
            ),
            "connect_timeout": (units.duration(least=0.001), "How long a connection may take."),
            "keepalive": (units.duration(), "Ask a silent connection for a sign of life this often; 0s never."),
            "host_key": (values.HOST_KEY, "The host's public key; when given, nothing else is accepted."),
            "host_key_policy": (
                Choice(words=(HostKeyPolicy.VERIFY, HostKeyPolicy.ACCEPT_NEW), make=HostKeyPolicy),
                "What to do with a key that is not known yet; a changed one is always refused.",
            ),
            "known_hosts": (values.FILE_PATH, "A known_hosts file to use in place of ssh_config's."),
            "config": (values.SSH_CONFIG, "An ssh_config to use in place of ~/.ssh/config; none reads no file."),
        },
    ),
    hints={"password": "keys only; a password is never used to log in", "host": "a host's `address` says where it is"},
)

COPY = Record(
    name="copy",
    doc="How closures travel.",
    fields=fields_of(
        CopySettings,
        {
            "via": (Choice.of(CopyVia), "push: from the controller over SSH; cache: hosts pull from `cache`."),
            "substitute": (Flag(), "Let hosts take what they can from their own substituters."),
            "cache": (values.STORE_URL, "The store that hosts pull from when `via` is cache."),
            "stall": (units.duration(least=1.0), "End a copy in which no byte moved for this long, and try again."),
            "min_free": (units.size(), "What must stay free on the host's store after a copy."),
            "collect_garbage": (
                units.duration(),
                "Where a copy lacks room: delete generations older than this, and collect garbage; absent: never.",
            ),
        },
    ),
)

_SETTINGS: dict[str, Field] = {
    **fields_of(
        Host,
        {
            "role": (
                Choice(
                    words=tuple(Role),
                    make=Role,
                    synonyms={
                        "master": "control-plane",
                        "server": "control-plane",
                        "controlplane": "control-plane",
                        "agent": "worker",
                        "node": "worker",
                    },
                ),
                "What the host is to the cluster.",
            ),
            "system": (Choice(words=_SYSTEMS, synonyms=_SYSTEM_SYNONYMS), "The Nix system of the host."),
        },
    ),
    "labels": Field(
        TableOf(key=values.LABEL_KEY, value=values.LABEL_VALUE), "For selectors and `spread`; added up over the layers."
    ),
    "ssh": Field(SSH, "How to reach the host."),
    **fields_of(
        Host,
        {
            "privilege": (Choice.of(Privilege), "How a command becomes root."),
            "privilege_password": (values.SecretReference(), "Where sudo's password is."),
            "activation": (Choice.of(Activator), "Which program activates a closure."),
            "specialisation": (
                values.WORD,
                "Which of its system's specialisations runs; a reboot starts the system itself, apply brings it back.",
            ),
            "build_on": (
                Choice.of(BuildOn),
                "Where its system is built; `target`: there, by its own nix.conf, even if another host has built it.",
            ),
        },
    ),
    "copy": Field(COPY, "How closures reach the host."),
}
_SETTING_HINTS = {
    "user": "put it under `ssh`",
    "port": "put it under `ssh`",
    "targetHost": "here it is called `address`",
    "tags": "here tags are `groups` or `labels`",
    "password": "there is only `privilege_password`, and it is a reference",
    "vars": "settings stand here directly",
    "members": "hosts name their groups: `hosts.HOST.groups`",
    "hosts": "hosts name their groups: `hosts.HOST.groups`",
    "children": "a group names its parents: `groups: [PARENT]`",
    "includes": "a group names its parents: `groups: [PARENT]`",
    "canary": "put it into the top-level `strategy`",
    "max_unavailable": "put it under `strategy`",
    "soak": "put it under `strategy`",
    "drain": "put it under `strategy`",
    "reboot": "put it under `strategy`",
    "windows": "put it into the top-level `strategy`",
}

DEFAULTS = Record(name="defaults", doc="Settings of every host.", fields=_SETTINGS, hints=_SETTING_HINTS)
GROUP = Record(
    name="group",
    doc="Settings and a disruption budget that its hosts share.",
    fields={
        "groups": Field(
            ListOf(item=values.NAME, unique=True),
            "Groups this one is part of: its hosts are in them too, and its settings come after theirs.",
        ),
        **_SETTINGS,
        "strategy": Field(GROUP_STRATEGY, "Overrides of the strategy."),
    },
    hints=_SETTING_HINTS,
)
HOST = Record(
    name="host",
    doc="One machine. Its settings come after those of its groups.",
    fields={
        "address": Field(values.ADDRESS, "Host name or IP address; the host's own name when absent."),
        "groups": Field(
            ListOf(item=values.NAME, least=1, unique=True, missing="a host is in at least one group"),
            "The groups it is in; where two say different things, the later one wins.",
            required=True,
            missing="a host is in at least one group: groups: [workers]",
        ),
        **fields_of(
            Host,
            {
                "attr": (values.ATTRIBUTE, "Its attribute in the flake; nixosConfigurations.<host> when absent."),
                "node": (values.NAME, "Its Node's name, where machine-id and addresses cannot tell."),
            },
        ),
        **_SETTINGS,
        "strategy": Field(HOST_STRATEGY, "Overrides of the strategy."),
        "bootstrap": Field(BOOTSTRAP, "What installing it needs; absent: it is never installed.", None),
    },
    hints=_SETTING_HINTS,
)

CLUSTER = Record(
    name="cluster",
    doc="The Kubernetes cluster the hosts form.",
    fields=fields_of(
        Cluster,
        {
            "name": (values.NAME, "Its name, for people and locks."),
            "distribution": (
                Choice.of(Distribution),
                "Which Kubernetes the hosts run; none for plain NixOS hosts (no drain, no kubelet gate).",
            ),
            "kubeconfig": (
                values.Kubeconfig(),
                "A path; {fetch: true} (or absent): over SSH from a control plane; {in_cluster: true}: its own pod's.",
            ),
            "context": (values.WORD, "The kubeconfig's context."),
        },
    ),
)

INVENTORY = Record(
    name="inventory",
    doc="A fleet of NixOS hosts.",
    fields={
        "cluster": Field(CLUSTER, "The cluster.", required=True, missing="cluster: {name: homelab}"),
        "flake": Field(
            values.FLAKE,
            "The flake with the hosts' configurations; a local path is relative to the inventory.",
            required=True,
            missing="flake: ../flakes/homelab",
        ),
        "defaults": Field(DEFAULTS, "Settings of every host."),
        "strategy": Field(STRATEGY, "How a rollout may proceed."),
        "gates": Field(GATES, "What must hold before a host counts as back."),
        "evaluation": Field(EVALUATION, "How the flake is evaluated."),
        "build": Field(BUILD, "How systems are built on the controller."),
        "deploy_rs": Field(
            values.FILE_PATH,
            "deploy-rs' own program, for `activation: deploy-rs`; PATH is never asked. NIXKUBE_DEPLOY_RS goes first.",
            None,
        ),
        "groups": Field(
            TableOf(key=values.NAME, value=GROUP, least=1),
            "Groups of hosts by name.",
            required=True,
            missing="groups: {control-plane: {role: control-plane}, workers: {}}",
        ),
        "hosts": Field(
            TableOf(key=values.NAME, value=HOST, least=1),
            "Hosts by name.",
            required=True,
            missing="hosts: {cp1: {address: 10.0.0.11, groups: [control-plane]}}",
        ),
    },
    hints={
        "ssh": "put it under `defaults`",
        "nodes": "here they are `hosts`",
        "secrets": "a secret is a reference where it is used",
    },
)
