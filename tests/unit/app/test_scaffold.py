"""A new fleet's files: what is written, what is refused, and what is never written over."""

from pathlib import Path

import pytest

from nixkube_deploy.app.scaffold import Machine, Wanted, public_keys, scaffold
from nixkube_deploy.app.scaffoldtext import EXAMPLES, HARDWARE
from nixkube_deploy.inventory.load import load_fleet
from nixkube_deploy.model.error import UsageError

SAMPLE = Path(__file__).parents[3] / "flakes" / "cluster"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB5Yg1e6L1c0b1dpcnRoZW9yeW9mZXZlcnl0aGlu me@laptop"


def wanted(*machines, **fields):
    return Wanted(**{"name": "homelab", "distribution": "k3s", "machines": machines or EXAMPLES, **fields})


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_sample_in_the_repository_is_what_is_written_without_a_wish(tmp_path):
    written = scaffold(tmp_path / "new", wanted(placeholders=True))
    assert files(tmp_path / "new") == files(SAMPLE), "write it anew: deploy init DIR --name homelab, without a key"
    assert set(written.new) == set(files(SAMPLE))


def test_the_inventory_names_the_machines_as_they_were_given(tmp_path):
    plane = Machine(name="cp1", address="10.0.0.11", is_control_plane=True, hardware="amd")
    pi = Machine(name="on", address="fd00::5", is_control_plane=False, hardware="raspberry-pi-5")
    scaffold(tmp_path / "new", wanted(plane, pi, name="no", user="admin"))
    fleet = load_fleet(tmp_path / "new/inventory.yaml").fleet
    assert fleet.cluster.name == "no"
    assert {host.name: (host.address, host.system) for host in fleet.hosts.values()} == {
        "cp1": ("10.0.0.11", "x86_64-linux"),
        "on": ("fd00::5", "aarch64-linux"),
    }
    assert fleet.hosts["cp1"].bootstrap is not None
    assert fleet.hosts["on"].bootstrap is None, "a card is written, not installed to"
    assert fleet.hosts["cp1"].ssh.user == "admin"
    assert fleet.flake.endswith("/new")


@pytest.mark.parametrize("hardware", HARDWARE)
def test_a_host_file_says_its_architecture_and_hardware(tmp_path, hardware):
    scaffold(tmp_path, wanted(Machine(name="cp1", address="10.0.0.1", is_control_plane=True, hardware=hardware)))
    text = (tmp_path / "hosts/cp1.nix").read_text()
    assert f'nixpkgs.hostPlatform = "{HARDWARE[hardware].system}";' in text
    assert all(f"nixosModules.{module}\n" in text for module in HARDWARE[hardware].modules)
    assert ("sd-card.nix" in text) is hardware.startswith("raspberry")


def test_text_cannot_leave_its_string(tmp_path):
    scaffold(tmp_path, wanted(name="lab", keys=('ssh-ed25519 AAAA ${builtins.abort "x"}" evil',)))
    assert '"ssh-ed25519 AAAA \\${builtins.abort \\"x\\"}\\" evil"' in (tmp_path / "cluster.nix").read_text()


def test_a_folder_that_is_not_empty_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"is not empty: it has mine\.txt") as caught:
        scaffold(tmp_path, wanted())
    assert "--force" in caught.value.hint
    assert files(tmp_path) == {"mine.txt": "mine"}


def test_force_adds_what_is_missing_and_writes_over_nothing(tmp_path):
    (tmp_path / "cluster.nix").write_text("mine")
    (tmp_path / "hosts").mkdir()
    (tmp_path / "elsewhere.nix").write_text("linked")
    (tmp_path / "hosts/cp1.nix").symlink_to(tmp_path / "elsewhere.nix")
    written = scaffold(tmp_path, wanted(), force=True)
    assert sorted(written.kept) == ["cluster.nix", "hosts/cp1.nix"]
    assert (tmp_path / "cluster.nix").read_text() == "mine"
    assert (tmp_path / "elsewhere.nix").read_text() == "linked"
    assert (tmp_path / "flake.nix").exists()
    again = scaffold(tmp_path, wanted(), force=True)
    assert not again.new
    assert len(again.same) == len(files(SAMPLE)) - 2


def test_a_repository_without_files_counts_as_empty(tmp_path):
    (tmp_path / ".git").mkdir()
    assert scaffold(tmp_path, wanted()).new


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make a fleet in"):
        scaffold(tmp_path / "file", wanted())
    (tmp_path / "modules").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write .*modules"):
        scaffold(tmp_path, wanted(), force=True)


@pytest.mark.parametrize("name", ["../up", "-x", "a b", ""])
def test_a_name_that_no_host_can_have_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(UsageError):
        scaffold(tmp_path / "new", wanted(Machine(name=name, address="10.0.0.1", is_control_plane=True)))
    assert not (tmp_path / "new").exists()


def test_a_cluster_without_a_control_plane_is_refused(tmp_path):
    with pytest.raises(UsageError, match="needs a control plane"):
        scaffold(tmp_path / "new", wanted(Machine(name="w1", address="10.0.0.1", is_control_plane=False)))


def test_certificates_of_services_kubernetes_know_one_control_plane_host(tmp_path):
    two = [Machine(name=f"cp{n}", address=f"10.0.0.{n}", is_control_plane=True) for n in (1, 2)]
    with pytest.raises(UsageError, match="one control-plane host, not for 2"):
        scaffold(tmp_path / "new", wanted(*two, distribution="kubernetes"))
    assert any("make it 3" in note for note in scaffold(tmp_path / "new", wanted(*two)).notes)


def test_keys_are_given_or_found_and_a_private_one_is_refused(tmp_path):
    (tmp_path / ".ssh").mkdir()
    assert public_keys(None, tmp_path) == ()
    (tmp_path / ".ssh/id_rsa.pub").write_text(f"# mine\n{KEY}\n")
    assert public_keys(None, tmp_path) == (KEY,)
    assert public_keys(KEY, tmp_path) == (KEY,)
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(UsageError, match="this is a private key") as caught:
        public_keys(str(tmp_path / "key"), tmp_path)
    assert caught.value.hint.endswith("key.pub")
    with pytest.raises(UsageError, match="no such file"):
        public_keys(str(tmp_path / "nothing"), tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UsageError, match="no SSH public key in it"):
        public_keys(str(tmp_path / "text"), tmp_path)
