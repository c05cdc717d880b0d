"""The store as a file system, also under another root, whose links must not lead out of it."""

from pathlib import Path

import pytest

from nixkube_deploy.backends.nix.store import StoreFiles, store_root
from nixkube_deploy.model.names import StorePath
from tests.builders import store_path

SYSTEM = store_path("nixos-system-w1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "nix/store").mkdir(parents=True)
    return tmp_path


def put(root: Path, path: str, text: str) -> str:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return path


def link(root: Path, path: str, target: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(target)


@pytest.mark.parametrize(
    ("remote", "where"),
    [
        ("", "/"),
        ("daemon", "/"),
        ("/tmp/x", "/tmp/x"),
        ("local?root=/tmp/x", "/tmp/x"),
        ("local?store=/nix/store&root=/tmp/x%20y", "/tmp/x y"),
        ("local://?root=/tmp/x", "/tmp/x"),
        ("ssh-ng://builder?root=/tmp/x", "/"),
    ],
)
def test_the_root_follows_nix_remote(remote, where):
    assert store_root(remote) == Path(where)


def test_a_system_is_read_as_classification_needs_it(root):
    kernel = put(root, f"{store_path('linux')}/bzImage", "k")
    unit = put(root, f"{store_path('unit-k3s.service')}/k3s.service", "[Unit]")
    units = store_path("system-units")
    etc = store_path("etc")
    link(root, f"{SYSTEM}/kernel", kernel)
    link(root, f"{SYSTEM}/etc", f"{etc}/etc")
    link(root, f"{etc}/etc/systemd/system", units)
    link(root, f"{units}/k3s.service", unit)
    link(root, f"{units}/broken.service", "/nix/store/missing")
    (root / f"{units}/k3s.service.d".lstrip("/")).mkdir()
    put(root, f"{SYSTEM}/kernel-params", "loglevel=4 quiet")
    put(root, f"{SYSTEM}/switch-inhibitors", "dbus: broker\n")
    contents = StoreFiles(root).contents(SYSTEM)
    assert (contents.path, contents.kernel, contents.units) == (SYSTEM, kernel, {"k3s.service": unit})
    assert (contents.kernel_params, contents.inhibitors) == ("loglevel=4 quiet", "dbus: broker")
    assert (contents.initrd, contents.kernel_modules, contents.systemd) == ("", "", "")


def test_a_system_without_anything_is_read_too(root):
    contents = StoreFiles(root).contents(SYSTEM)
    assert (contents.kernel, contents.kernel_params, contents.units) == ("", "", {})


def test_absolute_links_stay_under_the_root(root):
    link(root, f"{SYSTEM}/kernel", "/etc/passwd")
    assert StoreFiles(root).resolve(f"{SYSTEM}/kernel") == ""
    put(root, "/etc/passwd", "ours")
    assert StoreFiles(root).read(f"{SYSTEM}/kernel") == "ours"


def test_climbing_stops_at_the_root(root):
    put(root, "/secret", "inside")
    link(root, f"{SYSTEM}/kernel", "../" * 30 + "secret")
    assert StoreFiles(root).resolve(f"{SYSTEM}/kernel") == "/secret"


def test_a_link_in_the_middle_of_a_path_stays_under_the_root_too(root):
    link(root, f"{SYSTEM}/etc", "/etc")
    put(root, "/etc/inside", "yes")
    assert StoreFiles(root).read(f"{SYSTEM}/etc/inside") == "yes"
    assert StoreFiles(root).read(f"{SYSTEM}/etc/hostname") == ""


def test_links_in_circles_resolve_to_nothing(root):
    link(root, f"{SYSTEM}/a", f"{SYSTEM}/b")
    link(root, f"{SYSTEM}/b", f"{SYSTEM}/a/x")
    assert StoreFiles(root).resolve(f"{SYSTEM}/a") == ""


def test_what_was_missing_is_found_once_it_is_there(tmp_path):
    files = StoreFiles(tmp_path)
    assert files.resolve(f"{SYSTEM}/kernel") == ""
    assert not files.holds(SYSTEM)
    put(tmp_path, f"{SYSTEM}/kernel", "k")
    assert files.resolve(f"{SYSTEM}/kernel") == f"{SYSTEM}/kernel"
    assert files.holds(SYSTEM)


def test_a_path_that_is_a_dangling_link_is_there(root):
    link(root, SYSTEM, "/nowhere")
    assert StoreFiles(root).holds(SYSTEM)


def test_the_derivations_a_system_needs_are_found_through_their_files(root):
    leaf, middle, top, other = (f"/nix/store/{'a' * 32}-{n}.drv" for n in ("leaf", "middle", "top", "other"))
    put(root, top, f'Derive([("out","/nix/store/x","","")],[("{middle}",["out"])],[],"x86_64-linux","/bin/sh",[],[])')
    put(root, middle, f'Derive([],[("{leaf}",["out"]),("{top}",["out"])],[],"","",[],[])')
    put(root, leaf, "Derive([],[],[])")
    files = StoreFiles(root)
    assert files.needs(top, frozenset({leaf, other})) == {leaf}
    assert files.needs(top, frozenset({top})) == {top}
    assert files.needs(leaf, frozenset({other})) == set()
    assert files.needs("/nix/store/missing.drv", frozenset({other})) == set()


def test_binary_nonsense_reads_as_text(root):
    file = root / f"{SYSTEM}/kernel-params".lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\xff\xfequiet")
    assert StoreFiles(root).contents(StorePath(SYSTEM)).kernel_params.endswith("quiet")


def test_specialisations_are_listed_as_the_systems_they_are(tmp_path):
    inner = tmp_path / "nix/store" / f"{'b' * 32}-nixos-system-w1-quiet"
    folder = tmp_path / "nix/store" / f"{'a' * 32}-nixos-system-w1" / "specialisation"
    for each in (inner, folder):
        each.mkdir(parents=True)
    (folder / "quiet").symlink_to(f"/nix/store/{inner.name}")
    (folder / "gone").symlink_to("/nix/store/nothing")
    files = StoreFiles(tmp_path)
    assert files.specialisations(StorePath(f"/nix/store/{folder.parent.name}")) == {"quiet": f"/nix/store/{inner.name}"}
    assert files.specialisations(StorePath(f"/nix/store/{inner.name}")) == {}


@pytest.mark.parametrize(
    ("unit", "program", "version"),
    [
        ("k3s.service", f"{store_path('k3s-1.31.4+k3s1')}/bin/k3s server", "1.31.4+k3s1"),
        ("rke2-agent.service", f"{store_path('rke2-1.32.0+rke2r1')}/bin/rke2 agent", "1.32.0+rke2r1"),
        ("kubelet.service", f"{store_path('kubernetes-1.31.4')}/bin/kubelet --config=x", "1.31.4"),
        ("kubelet.service", f"{store_path('unit-script-kubelet-start')}/bin/kubelet-start", ""),
        ("web.service", f"{store_path('k3s-1.31.4')}/bin/k3s server", ""),
    ],
)
def test_the_kubernetes_a_system_starts_is_read_from_its_kubelets_unit(root, unit, program, version):
    file = put(root, f"{store_path('unit')}/{unit}", f"[Service]\nExecStart={program}\n")
    link(root, f"{SYSTEM}/etc/systemd/system/{unit}", file)
    assert StoreFiles(root).contents(SYSTEM).kubernetes == version
