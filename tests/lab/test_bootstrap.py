"""Bare machines to a cluster in one command, as a person would do it in a lab; the guards and the host keys on the way.

It does not run the real nixos-anywhere: the lab's stand-in does to its machines what that would do.
"""

import yaml

from tests.lab.rig import Rig, a_lab

INVENTORY = """
cluster: {name: x, distribution: k3s}
flake: ./flake
gates: {kubelet: {ready_for: 2s, timeout: 1m}}
strategy: {soak: 0s}
groups: {control-plane: {role: control-plane}, workers: {}}
hosts:
  cp1: {address: 10.0.0.1, groups: [control-plane], bootstrap: {disks: [/dev/sda]}}
  w1: {address: 10.0.0.2, groups: [workers], bootstrap: {disks: [/dev/sda]}}
  w2: {address: 10.0.0.3, groups: [workers], bootstrap: {disks: [/dev/sda]}}
"""


def edit(rig: Rig, **bootstrap: object) -> None:
    """Keys are generated and the token is sent along: the lab's own inventory brings its keys as extra files."""
    plain = yaml.safe_load(rig.inventory.read_text())
    for host in plain["hosts"].values():
        host["ssh"].pop("host_key", None)
        host["bootstrap"].pop("extra_files", None)
        host["bootstrap"] |= {"secrets": {"/etc/rancher/k3s/token": {"env": "K3S_TOKEN"}}, **bootstrap}
    rig.inventory.write_text(yaml.safe_dump(plain))
    rig.environment["K3S_TOKEN"] = "s3cr3t-token"


def test_one_command_takes_bare_machines_to_a_ready_cluster_and_wrong_ones_are_refused(tmp_path):
    written = tmp_path / "bare.yaml"
    written.write_text(INVENTORY)
    with a_lab(tmp_path, written, "--bare", "cp1", "--bare", "w1", "--bare", "w2") as rig:
        edit(rig, expect_serial="ANOTHER")
        refused = rig.deploy("bootstrap", rig.inventory, "--on", "w1", "--yes")
        assert refused.returncode == 3
        assert "w1 is not wiped: its serial number is not the expected one" in refused.stderr
        edit(rig, expect_serial=None, disks=["/dev/disk/by-id/nvme-other"])
        refused = rig.deploy("bootstrap", rig.inventory, "--on", "w1", "--yes")
        assert "w1 is not wiped: it has no /dev/disk/by-id/nvme-other" in refused.stderr
        edit(rig, disks=["/dev/sda"])
        done = rig.deploy("apply", rig.inventory, "--bootstrap", "--yes")
        assert done.returncode == 0, done.stderr
        ready = {
            name: [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
            for name, node in rig.nodes().items()
        }
        assert ready == {"cp1": ["True"], "w1": ["True"], "w2": ["True"]}
        state = tmp_path / "state"
        assert not [p for p in state.rglob("*") if p.is_file() and b"s3cr3t-token" in p.read_bytes()]
        assert "s3cr3t-token" not in done.stdout + done.stderr
        again = rig.deploy("apply", rig.inventory, "--yes")  # Verified by the keys that were sent along.
        assert again.returncode == 0, again.stderr


def test_a_machine_that_presents_another_key_than_the_one_sent_along_is_not_believed(tmp_path):
    written = tmp_path / "bare.yaml"
    written.write_text(INVENTORY)
    with a_lab(tmp_path, written, "--bare", "w1") as rig:
        edit(rig)
        assert rig.lab("fault", "add", "w1:other-host-key").returncode == 0
        refused = rig.deploy("bootstrap", rig.inventory, "--on", "w1", "--yes")
        assert refused.returncode == 4, refused.stderr
        assert "w1 answers after its installation with another host key than was sent with it" in refused.stderr
        assert "did       nothing was sent to it, and it does not join the cluster" in refused.stderr
