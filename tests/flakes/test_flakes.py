"""The flake of ``deploy init``: its files parse, its options exist and fit, and it says what the documentation says."""

import json
import re
import shutil
import subprocess

import pytest

from tests.flakes import evaluation
from tests.flakes.evaluation import SAMPLE, Sources, evaluate, find_sources, fleets, parse, write

PRIVILEGES = SAMPLE.parents[1] / "docs" / "privileges.md"
FILES = sorted(SAMPLE.rglob("*.nix"))

pytestmark = pytest.mark.skipif(shutil.which("nix-instantiate") is None, reason="nix-instantiate is not installed")


@pytest.fixture(scope="module")
def sources() -> Sources:
    found = find_sources([])
    if found is None:
        pytest.skip(evaluation.NOT_RUN)
    return found


def test_every_file_parses():
    assert len(FILES) > 20
    assert not {file.name: said for file in FILES if (said := parse(file))}


def test_a_file_that_does_not_parse_is_found(tmp_path):
    (tmp_path / "x.nix").write_text("{ a = 1 }")
    assert "syntax error" in parse(tmp_path / "x.nix")


def test_the_module_list_names_every_module():
    listed = re.findall(r"\./(\w+\.nix)", (SAMPLE / "modules/default.nix").read_text())
    assert sorted([*listed, "default.nix"]) == sorted(file.name for file in (SAMPLE / "modules").glob("*.nix"))


def test_the_deploy_user_is_the_one_that_the_documentation_describes():
    """Both are evaluated; the module needs three functions of nixpkgs' library for that."""
    block = re.search(r"```nix\n(users\.users\.deploy.*?)```", PRIVILEGES.read_text(), re.DOTALL)
    assert block is not None
    module = f"""
      (import {SAMPLE}/modules/access.nix {{
        lib = {{
          concatStringsSep = builtins.concatStringsSep;
          optional = holds: value: if holds then [ value ] else [ ];
        }};
        config.cluster.deployUser = {{
          name = "deploy"; from = [ "10.0.0.5" ]; keys = [ "ssh-ed25519 AAAA... deploy" ];
        }};
      }})"""
    words = ["nix-instantiate", "--eval", "--strict", "--json", "--readonly-mode", "-E"]
    told, does = (
        json.loads(subprocess.run([*words, text], capture_output=True, text=True, check=True).stdout)
        for text in (f"{{ {block[1]} }}", module)
    )
    assert does["users"] == told["users"]
    assert does["security"] == told["security"]


@pytest.mark.parametrize("everything", [False, True], ids=["as-written", "everything-on"])
@pytest.mark.parametrize("name", fleets())
def test_every_option_exists_and_fits(sources, tmp_path, name, everything):
    found = evaluate(write(tmp_path, fleets()[name], everything=everything, mirror=everything), sources)
    assert found["hosts"].keys() == found["deploy"].keys() == {machine.name for machine in fleets()[name].machines}
    assert not [message for host in found["hosts"].values() for message in host["assertions"]]
    assert all(node["user"] == "root" and node["sshUser"] == "deploy" for node in found["deploy"].values())


@pytest.mark.parametrize(
    ("file", "planted", "said"),
    [
        ("cluster.nix", "services.kubelet.enable = true;", r"services\.kubelet.*does not exist"),
        ("cluster.nix", "services.containerd.enable = true;", r"services\.containerd.*does not exist"),
        ("cluster.nix", 'resources.cpu.architectures = [ "aarch64" ];', r"resources.*does not exist"),
        ("cluster.nix", "boot.kernelModules = true;", r"boot\.kernelModules.*is not of type"),
        ("cluster.nix", 'networking.firewall.allowedTCPPorts = [ "6443" ];', r"allowedTCPPorts.*is not of type"),
        ("cluster.nix", "networking.firewall.allowedUDPPorts = [ 84720 ];", r"allowedUDPPorts.*is not of type"),
        ("hosts/cp1.nix", 'cluster.rol = "worker";', r"cluster\.rol'? does not exist"),
        ("hosts/cp1.nix", 'services.k3s.role = "master";', r"services\.k3s\.role.*"),
    ],
)
def test_a_planted_defect_is_found(sources, tmp_path, file, planted, said):
    path = write(tmp_path, fleets()["examples"]) / file
    head, end, rest = path.read_text().rpartition("}")
    path.write_text(f"{head}  {planted}\n{end}{rest}")
    with pytest.raises(AssertionError, match=said):
        evaluate(tmp_path, sources)


def test_a_fleet_that_nobody_could_log_in_to_does_not_evaluate(sources, tmp_path):
    folder = write(tmp_path, fleets()["examples"])
    cluster = folder / "cluster.nix"
    cluster.write_text(re.sub(r"keys = \[.*?\];", "keys = [ ];", cluster.read_text(), flags=re.DOTALL))
    if sources.is_whole:
        with pytest.raises(AssertionError, match="nobody could log in"):
            evaluate(folder, sources)
        return
    failed = evaluate(folder, sources)["hosts"]["cp1"]["assertions"]
    assert len(failed) == 1
    assert "nobody could log in" in failed[0]


def test_where_there_is_no_nixpkgs_the_check_says_so_and_fails(monkeypatch, capsys):
    monkeypatch.delenv("NIXKUBE_NIXPKGS", raising=False)
    monkeypatch.setenv("NIX_PATH", "")
    assert evaluation.main([]) == 1
    assert "not run: no nixpkgs" in capsys.readouterr().out
