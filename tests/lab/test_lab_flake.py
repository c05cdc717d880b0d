"""What a flake's JSON makes of a host, and which store paths a change moves."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixkube_deploy.inventory.load import load_fleet
from nixkube_deploy.lab import scaffold
from nixkube_deploy.lab.flake import EvaluationError, locate, merge, read_flake
from nixkube_deploy.lab.recipe import Configuration, recipe_for
from nixkube_deploy.lab.storepath import is_store_path, store_hash, top_of
from nixkube_deploy.model.fleet import Distribution
from tests.builders import a_fleet

ROOT = Path(__file__).parents[2]
BASE = Configuration(host="w1", units={"k3s.service": "1.31.4"}, packages={"htop": "3.4"}, kernel_params=("quiet",))


def test_hashes_are_in_nixs_alphabet_and_of_its_length():
    digest = store_hash("a", "b")
    assert len(digest) == 32
    assert set(digest) <= set("0123456789abcdfghijklmnpqrsvwxyz")
    assert digest != store_hash("ab")
    assert is_store_path(f"/nix/store/{digest}-x")
    assert top_of(f"/nix/store/{digest}-x/bin/y") == f"/nix/store/{digest}-x"
    assert not is_store_path(f"/nix/store/{digest}-x/bin/y")


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"kernel": "6.12.9"}, {"toplevel", "kernel", "modules", "initrd"}),
        ({"initrd": "2"}, {"toplevel", "initrd"}),
        ({"kernel_params": ("quiet", "splash")}, {"toplevel"}),
        ({"systemd": "258"}, {"toplevel", "systemd", "units", "system_units", "etc"}),
        ({"units": {"k3s.service": "1.31.5"}}, {"toplevel", "units", "system_units", "etc"}),
        ({"packages": {"htop": "3.5"}}, {"toplevel", "packages", "sw"}),
        ({"inhibitors": "dbus : broker"}, {"toplevel"}),
        ({}, set()),
    ],
)
def test_one_change_moves_exactly_what_depends_on_it(change, moved):
    from dataclasses import replace

    before, after = recipe_for(BASE), recipe_for(replace(BASE, **change))
    names = ("toplevel", "kernel", "modules", "initrd", "systemd", "units", "system_units", "etc", "sw", "packages")
    assert {name for name in names if getattr(before, name) != getattr(after, name)} == moved


@given(
    st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8)
)
def test_merging_keeps_the_upper_layer(upper):
    lower = {"a": {"b": 1, "c": {"a": 2}}, "c": 3}
    if isinstance(upper, dict):
        merged = merge(lower, upper)
        assert set(merged) == set(lower) | set(upper)
        assert merge(merged, upper) == merged


def test_the_host_wins_over_its_role_and_the_role_over_what_is_common(tmp_path):
    scaffold.write_flake(a_fleet("cp1 | w1"), tmp_path / "flake")
    flake = tmp_path / "flake"
    (flake / "common.json").write_text('{"kernel": "1", "systemd": "1", "initrd": "1"}')
    (flake / "roles/worker.json").write_text('{"kernel": "2", "systemd": "2"}')
    (flake / "hosts/w1.json").write_text('{"role": "worker", "kernel": "3"}')
    c = read_flake(flake).configuration("w1")
    assert (c.kernel, c.systemd, c.initrd) == ("3", "2", "1")


@pytest.mark.parametrize("distribution", list(Distribution))
def test_a_flake_is_made_up_for_any_fleet_and_hosts_are_behind_it(tmp_path, distribution):
    fleet = a_fleet("cp1 cp2 cp3 | w1..w4", distribution=distribution)
    scaffold.write_flake(fleet, tmp_path / "flake")
    flake = read_flake(tmp_path / "flake")
    before = scaffold.configurations_before(fleet, tmp_path)
    assert set(flake.hosts) == set(fleet.hosts)
    behind = {name for name in fleet.hosts if before[name] != flake.configuration(name)}
    assert {"w1", "w2", "w3", "w4"} <= behind
    units = flake.configuration("cp1").units
    if distribution.has_kubelet:
        assert any(unit in distribution.node_units for unit in units)
        assert before["cp1"].units != units


def test_writing_the_flake_again_keeps_what_a_person_changed(tmp_path):
    fleet = a_fleet("cp1 | w1")
    scaffold.write_flake(fleet, tmp_path / "flake")
    (tmp_path / "flake/common.json").write_text("{}")
    scaffold.write_flake(a_fleet("cp1 | w1 w2"), tmp_path / "flake")
    assert (tmp_path / "flake/common.json").read_text() == "{}"
    assert (tmp_path / "flake/hosts/w2.json").exists()


@pytest.mark.parametrize("reference", ["github:owner/repo", "/nowhere", "https://example.org/x.tar.gz"])
def test_only_local_flakes_are_found(reference, tmp_path):
    with pytest.raises(EvaluationError):
        locate(reference, tmp_path)


def test_a_flake_of_another_kind_has_no_hosts(tmp_path):
    (tmp_path / "flake.nix").write_text("{ outputs = _: { }; }")
    with pytest.raises(EvaluationError, match="does not provide attribute 'nixosConfigurations'"):
        read_flake(locate(".", tmp_path))


def test_the_template_in_the_repository_is_the_one_that_is_packaged():
    def held(root: Path) -> dict[str, str]:
        files = [root / "flake.nix", *(root / scaffold.SYSTEMS).rglob("*.*")]
        return {str(file.relative_to(root)): file.read_text() for file in files}

    assert held(ROOT / "flakes/lab") == held(scaffold.TEMPLATE)
    assert len(held(scaffold.TEMPLATE)) > 3


@pytest.mark.parametrize("name", ["lab", "fleet"])
def test_the_example_inventories_begin_with_work_of_every_kind(name, tmp_path):
    fleet = load_fleet(ROOT / f"inventories/{name}.yaml").fleet
    scaffold.write_flake(fleet, tmp_path / "flake")
    flake = read_flake(tmp_path / "flake")
    before = scaffold.configurations_before(fleet, tmp_path)
    pairs = [(before[host], flake.configuration(host)) for host in fleet.hosts]
    assert any(old.kernel != new.kernel for old, new in pairs)
    assert any(old.kernel == new.kernel and old.units != new.units for old, new in pairs)
    assert any(old == new for old, new in pairs)
    assert json.loads((tmp_path / "before.json").read_text())["rules"]


@pytest.mark.skipif(shutil.which("nix") is None, reason="contract with Nix: nix is not installed")
def test_contract_real_nix_merges_the_flake_as_the_stand_in_does(tmp_path):
    fleet = load_fleet(ROOT / "inventories/lab.yaml").fleet
    scaffold.write_flake(fleet, tmp_path / "flake")
    (tmp_path / "flake/hosts/w2.json").write_text(
        '{"role": "worker", "kernelParams": ["quiet"], "units": {"x.service": "1"}}'
    )
    apply = 'cs: builtins.mapAttrs (_: c: builtins.removeAttrs c.config [ "system" ]) cs'
    argv = ["nix", "--extra-experimental-features", "nix-command flakes", "--store", str(tmp_path / "store")]
    argv += ["eval", "--json", f"path:{tmp_path}/flake#nixosConfigurations", "--apply", apply]
    ran = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert ran.returncode == 0, ran.stderr
    theirs = json.loads(ran.stdout)
    flake = read_flake(tmp_path / "flake")
    assert set(theirs) == set(flake.hosts)
    for host, merged in theirs.items():
        ours = flake.configuration(host).to_plain()
        assert {key: merged[key] for key in merged if key in ours} == {key: ours[key] for key in merged if key in ours}


@pytest.mark.skipif(shutil.which("nix") is None, reason="contract with Nix: nix is not installed")
def test_contract_real_nix_builds_the_flake_where_no_busybox_lies_in_it(tmp_path):
    scaffold.write_flake(load_fleet(ROOT / "inventories/lab.yaml").fleet, tmp_path / "flake")
    folders = "".join(f" {folder}" for folder in ("/bin", "/lib", "/lib64", "/usr") if Path(folder).exists())
    config = f"build-users-group =\nsubstituters =\nsandbox-paths ={folders}\n"
    config += "experimental-features = nix-command flakes\n"
    argv = ["nix", "--store", str(tmp_path / "store"), "build", "--json", "--no-link"]
    argv.append(f"path:{tmp_path}/flake#nixosConfigurations.w1.config.system.build.toplevel")
    environ = {**os.environ, "HOME": str(tmp_path), "NIX_CONFIG": config}
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=environ)
    assert ran.returncode == 0, ran.stderr
    system = tmp_path / "store" / json.loads(ran.stdout)[0]["outputs"]["out"].lstrip("/")
    assert (system / "bin/switch-to-configuration").read_text().startswith("#!/bin/sh\n")
    assert (system / "kernel-params").read_text() == "loglevel=4 net.ifnames=0"
    assert (system / "kernel").readlink().name == "bzImage"
    subprocess.run(["chmod", "-R", "u+w", tmp_path], check=True)
