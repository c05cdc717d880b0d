"""Inventories that a program prints. The programs are small shell scripts, really run."""

import json
import time
from pathlib import Path

import pytest

from nixkube_deploy.inventory.command import source_of_command
from nixkube_deploy.inventory.error import InventoryError
from nixkube_deploy.inventory.load import load_fleet

PLAIN = {
    "cluster": {"name": "lab"},
    "flake": "./flake",
    "groups": {"control-plane": {"role": "control-plane"}},
    "hosts": {"cp1": {"address": "10.0.0.1", "groups": ["control-plane"], "node": "caf\u00e9".replace("\u00e9", "e")}},
}


@pytest.fixture
def script(tmp_path: Path):
    def write(body: str, mode: int = 0o755) -> Path:
        path = tmp_path / "inventory"
        path.write_text("#!/bin/sh\n" + body)
        path.chmod(mode)
        return path

    return write


def printing(data: object) -> str:
    return f"cat <<'END'\n{json.dumps(data)}\nEND\n"


def test_an_executable_file_prints_the_inventory(script, tmp_path: Path) -> None:
    fleet = load_fleet(script(printing(PLAIN))).fleet

    assert list(fleet.hosts) == ["cp1"]
    assert fleet.flake == str(tmp_path / "flake")
    assert fleet.source == str(tmp_path / "inventory")


def test_a_command_prints_the_inventory(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = script(f'test "$1" = "two words" && {printing(PLAIN)}')

    fleet = load_fleet(f"command:{path} 'two words'").fleet

    assert list(fleet.hosts) == ["cp1"]
    assert fleet.flake == str(tmp_path / "flake")
    assert fleet.source.startswith("command:")


def test_an_error_shows_the_line_as_it_would_be_laid_out(script) -> None:
    wrong = PLAIN | {"hosts": {"cp1": {"adress": "x", "groups": ["control-plane"]}}}

    with pytest.raises(InventoryError) as caught:
        load_fleet(script(printing(wrong)))

    assert caught.value.problem == "unknown key `adress` in `hosts.cp1`"
    assert '"adress": "x"' in caught.value.snippet
    assert "what the command printed, one key a line" in caught.value.snippet


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo hello", "no valid JSON"),
        ("echo 'cluster: {name: x}'", "no valid JSON"),
        ("true", "no valid JSON"),
        ("echo null", "the inventory is empty"),
        ("echo '[]'", "the inventory must be a mapping"),
        ("""echo '{"a": 1, "a": 2}'""", "the key `a` twice"),
        ("""echo '{"a": NaN}'""", "NaN is not JSON"),
        (r"""printf '{"a": "\377"}'""", "not UTF-8"),
        (r"""echo '{"a": "\\ud800"}'""", "U+D800"),
        ("echo broken >&2; exit 3", "exit code 3"),
        ("kill -9 $$", "exit code -9"),
        ("head -c 12000000 /dev/zero; sleep 9", "larger than 10 MiB"),
        ("head -c 3000000 /dev/zero | tr '\\0' '['", "nested deeper than 32"),
        (f"echo '{'[' * 40}{']' * 40}'", "nested deeper than 32"),
        ("echo '['; yes '1,' | head -n 1200000; echo '1]'", "more than 1,000,000 values"),
    ],
)
def test_a_program_that_prints_no_inventory_is_answered_clearly(script, body: str, message: str) -> None:
    with pytest.raises(InventoryError) as caught:
        load_fleet(script(body))

    assert message in caught.value.message


def test_the_programs_last_words_are_shown_without_control_characters(script) -> None:
    with pytest.raises(InventoryError) as caught:
        load_fleet(script("printf 'no \\033[31mcredentials\\n' >&2; exit 1"))

    assert "no \N{REPLACEMENT CHARACTER}[31mcredentials" in caught.value.message


@pytest.mark.parametrize("body", ["sleep 60", "sleep 60 & echo '{}'", "yes >&2", "exec >&- 2>&-; sleep 60"])
def test_a_program_that_does_not_end_is_ended(script, tmp_path: Path, body: str) -> None:
    began = time.monotonic()

    with pytest.raises(InventoryError, match=r"did not end within 0\.3 s"):
        source_of_command((str(script(body)),), "x", tmp_path, deadline=0.3)

    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("command:", "no program"),
        ("command:'x", "cannot split"),
        ("command:/no/such/program", "cannot run `/no/such/program`: No such file"),
        ("command:a\0b", "cannot run"),
    ],
)
def test_a_command_that_cannot_start_is_answered_clearly(command: str, message: str) -> None:
    with pytest.raises(InventoryError) as caught:
        load_fleet(command)

    assert message in caught.value.message


def test_a_script_that_may_not_run_says_how(script) -> None:
    path = script("true", 0o644)

    with pytest.raises(InventoryError) as caught:
        load_fleet(path)

    assert caught.value.hint == f"chmod +x {path}"


def test_an_executable_yaml_file_is_just_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(json.dumps(PLAIN))
    path.chmod(0o755)

    assert list(load_fleet(path).fleet.hosts) == ["cp1"]


def test_text_that_yaml_would_fold_survives(script) -> None:
    odd = "a\u0085b\u2028c\u2029d\u007fe\ufefff\tg\nh\U0001f600"
    data = PLAIN | {"gates": {"command": [{"run": odd}]}}

    assert load_fleet(script(printing(data))).fleet.gates.command[0].run == odd
