"""One inventory that says nearly everything an inventory can, for tests that then damage it."""

from typing import Any

COMPLETE: dict[str, Any] = {
    "cluster": {"name": "x", "distribution": "k3s", "kubeconfig": {"fetch": True}, "context": "y"},
    "flake": "./x",
    "defaults": {
        "ssh": {
            "user": "root",
            "port": 22,
            "identity_file": "/k",
            "jump": "b",
            "connect_timeout": "1s",
            "host_key_policy": "verify",
            "known_hosts": None,
        },
        "privilege": "sudo",
        "privilege_password": {"command": ["a", "b"]},
        "activation": "native",
        "copy": {"via": "push", "substitute": True},
    },
    "strategy": {
        "canary": 1,
        "max_unavailable": "25%",
        "mode": "rolling",
        "spread": "zone",
        "soak": "1m",
        "max_failures": 0,
        "on_failure": "halt",
        "drain": {"timeout": "10m", "force": True, "grace_period": -1},
        "reboot": "auto",
        "reboot_method": "kexec",
        "reboot_blockers": {
            "pods": [{"selector": "app=backup", "namespace": "jobs"}],
            "prometheus": [{"url": "http://x", "query": "up"}],
            "timeout": "30m",
        },
        "windows": [{"days": ["sat"], "from": "02:00", "to": "06:00", "tz": "UTC"}],
    },
    "gates": {
        "kubelet": {"ready_for": "1s"},
        "pods": {
            "critical": True,
            "selected": [{"selector": "app=ceph-mon", "namespace": "rook", "at_least": 3}],
        },
        "http": [{"url": "http://x/y", "expect": 200}],
        "command": [{"on": "@cp,!w1", "run": "true"}],
        "prometheus": [{"url": "http://x", "query": "up", "expect": "empty"}],
    },
    "groups": {
        "cp": {"role": "control-plane", "strategy": {"max_unavailable": 1}},
        "workers": {"groups": ["all"]},
        "all": None,
    },
    "hosts": {
        "cp1": {"address": "10.0.0.1", "groups": ["cp"], "labels": {"zone": "a"}},
        "w1": {
            "groups": ["workers"],
            "attr": None,
            "node": "n",
            "labels": {"zone": "b"},
            "bootstrap": {"disks": ["/dev/x"], "extra_files": "./x", "expect_serial": "y", "kexec": "http://x/y"},
        },
    },
}
