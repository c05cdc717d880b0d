"""The rules that keep the house in order, as tests."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nixkube_deploy"
TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "docs", "flakes",
    "inventories", "nixkube_deploy", "noxfile.py", "pyproject.toml", "tests",
}  # fmt: skip


def run(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}"


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@pytest.mark.timeout(300)
def test_the_rooms_keep_apart():
    run(program("lint-imports"), "--no-cache")


@pytest.mark.timeout(300)
def test_types_are_strict():
    run(program("mypy"))


def test_the_linter_is_content():
    run(program("ruff"), "check", ".")


def test_the_format_is_ruffs():
    run(program("ruff"), "format", "--check", ".")


def test_the_top_level_is_what_was_agreed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    assert {path.split("/")[0] for path in tracked.stdout.splitlines()} == TOP_LEVEL


def test_no_module_has_a_name_that_says_nothing():
    empty_words = {"utils", "util", "common", "helpers", "helper", "core", "manager", "misc"}
    assert not [p for p in PACKAGE.rglob("*") if p.stem in empty_words]


def test_every_module_says_what_it_is_for():
    silent = [p for p in PACKAGE.rglob("*.py") if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent
