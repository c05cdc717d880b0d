"""TAB in real shells: bash as it is here, zsh and fish where they are installed (``nox -s shells`` fetches both)."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyte
import pytest

from nixkube_deploy.cli.complete import suggestions
from nixkube_deploy.cli.lab import COMMANDS as OF_THE_LAB
from nixkube_deploy.lab.cli import cli as lab
from tests.cli.fleets import CLUSTER

ROOT = Path(__file__).resolve().parents[2]
SHELLS = {
    "bash": ["--norc", "--noprofile", "-i"],
    "zsh": ["--no-rcs", "--interactive"],
    "fish": ["--no-config", "--interactive"],
}
BEGIN = {
    "bash": 'PS1="> "; bind "set enable-bracketed-paste off"; eval "$(nixkube-deploy completion bash)"',
    "zsh": 'PS1="> "; autoload -Uz compinit; compinit -u -D; eval "$(nixkube-deploy completion zsh)"',
    "fish": "function fish_prompt; echo '> '; end; nixkube-deploy completion fish | source",
}
RUNS = ["20261122T204931Z-3fa9", "20261123T084759Z-d05f"]


class Shell:
    """A shell at a terminal of its own; what is typed, and what the screen then shows."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.screen = pyte.Screen(100, 30)
        self.stream = pyte.Stream(self.screen)
        program = shutil.which(name)
        assert program is not None
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(program, [name, *SHELLS[name]], environment)

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def until(self, pattern: str, patience: float = 20) -> str:
        """What the screen shows once ``pattern`` is on it."""
        deadline = time.monotonic() + patience
        while not re.search(pattern, self.shown, re.MULTILINE):
            assert time.monotonic() < deadline, f"no {pattern!r} on\n{self.shown}"
            if select.select([self.terminal], [], [], 0.05)[0]:
                self.stream.feed(os.read(self.terminal, 65536).decode(errors="replace"))
        return self.shown

    @property
    def shown(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


@pytest.fixture(params=SHELLS)
def shell(request, tmp_path):
    if shutil.which(request.param) is None:
        assert "NIXKUBE_SHELLS" not in os.environ, f"there is no {request.param}"
        pytest.skip(f"no {request.param} here: nox -s shells fetches it")
    (tmp_path / "bin").mkdir()
    for name, module in (("nixkube-deploy", "nixkube_deploy"), ("nixkube-lab", "nixkube_deploy.lab")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "deploy").write_text(f"#!/bin/sh\n: > {tmp_path}/deployed\n")
    (tmp_path / "bin" / "deploy").chmod(0o755)
    for name in ("inventory.yaml", "other.yml"):
        (tmp_path / name).write_text(CLUSTER.replace("cp1", "cp2") if name == "other.yml" else CLUSTER)
    (tmp_path / "state/runs").mkdir(parents=True)
    for run in RUNS:
        (tmp_path / f"state/runs/{run}.jsonl").touch()
    environment = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "NIXKUBE_DEPLOY_STATE": str(tmp_path / "state"),
        **{name: os.environ[name] for name in ("LD_LIBRARY_PATH", "FPATH") if name in os.environ},
    }
    shell = Shell(request.param, tmp_path, environment)
    shell.type(BEGIN[request.param] + "\recho read''y\r")
    shell.until(r"^ready")
    shell.type("\x0c")
    yield shell
    shell.end()
    assert not (tmp_path / "deployed").exists(), "a program called deploy was started by the press of TAB"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("deploy sta", "> deploy status$"),
        ("nixkube-deploy roll", "> nixkube-deploy rollback"),
        ("nixkube-lab fault cl", "> nixkube-lab fault clear"),
        ("deploy plan inv", r"> deploy plan inventory\.yaml"),
        ("deploy plan inventory.yaml --max-un", "> deploy plan inventory.yaml --max-unavailable"),
        ("deploy plan inventory.yaml --on c", "> deploy plan inventory.yaml --on cp1"),
        ("deploy plan other.yml --on c", "> deploy plan other.yml --on cp2"),
        ("deploy plan inventory.yaml --on @w", "> deploy plan inventory.yaml --on @workers"),
        ("deploy plan inventory.yaml --on w1,c", "> deploy plan inventory.yaml --on w1,cp1"),
        ("deploy exec --on '@workers&c", "> deploy exec --on '@workers&cp1'"),
        ("deploy status inventory.yaml --on zo", "> deploy status inventory.yaml --on zone=$"),
        ("deploy check inventory.yaml --explain c", "> deploy check inventory.yaml --explain cp1"),
        ("deploy show 20261122", f"> deploy show {RUNS[0]}"),
        ("deploy apply inventory.yaml --mode dr", "> deploy apply inventory.yaml --mode dry-activate"),
    ],
)
def test_tab_completes(shell, typed, completed):
    shell.type(f"{typed}\t")
    shell.until(completed)


def test_tab_lists_what_there_is(shell):
    shell.type("deploy plan inventory.yaml --on \t\t")
    for name in ("cp1", "w1", "w2", "@workers", "@control-plane", "zone=a", "zone=b"):
        shell.until(name)


def test_tab_on_a_broken_inventory_says_nothing(shell):
    shell.type("echo '{[' > inventory.yaml\r")
    shell.type("deploy plan inventory.yaml --on \tw9 \t")
    shell.type("\x15echo on''ly that\r")
    shown = shell.until(r"^.*only that|deploy: ")
    assert "Traceback" not in shown


def answered(line: str, folder: Path, word: str | None = None) -> subprocess.CompletedProcess[str]:
    ask = {"_NIXKUBE_DEPLOY_COMPLETE": "bash", "NIXKUBE_COMPLETE_LINE": line, "NIXKUBE_DEPLOY_STATE": str(folder)}
    environment = {**os.environ, **ask, **({} if word is None else {"NIXKUBE_COMPLETE_WORD": word})}
    command = [sys.executable, "-m", "nixkube_deploy"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "line",
    ["", "deploy", "deploy 'x", "deploy nope --on ", "deploy show ", "deploy plan no-such.yaml --on ", "deploy \\"],
)
def test_an_odd_line_is_answered_with_nothing_wrong(line, tmp_path):
    done = answered(line, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_inventory_that_is_a_program_is_not_run(tmp_path):
    program = tmp_path / "inventory.yaml"
    program.write_text(f"#!/bin/sh\n: > {tmp_path}/ran\n")
    program.chmod(0o755)
    assert answered("deploy plan inventory.yaml --on ", tmp_path).stdout == ""
    assert not (tmp_path / "ran").exists()


def test_the_inventory_may_come_later_on_the_line(tmp_path, monkeypatch):
    (tmp_path / "inventory.yaml").write_text(CLUSTER)
    monkeypatch.chdir(tmp_path)
    assert [item.value for item in suggestions("deploy exec --on @w")] == ["@workers"]


@pytest.mark.parametrize(
    ("line", "word", "values"),
    [
        ("deploy plan inventory.yaml --on zone=a", "a", ["a"]),
        ("deploy plan inventory.yaml --on zone=", "=", ["a", "b"]),
        ("deploy plan inventory.yaml --on zone=", "", ["a", "b"]),
        ("deploy plan inventory.yaml --on=c", "c", ["cp1"]),
        ("deploy plan inventory.yaml --on=c", None, ["--on=cp1"]),
        ("deploy plan inventory.yaml --on '!c", "'!c", ["!cp1"]),
    ],
)
def test_bash_is_told_only_what_it_will_replace(line, word, values, tmp_path, monkeypatch):
    (tmp_path / "inventory.yaml").write_text(CLUSTER)
    monkeypatch.chdir(tmp_path)
    assert [item.value for item in suggestions(line, word)] == values


def test_an_answer_takes_no_longer_than_a_person_notices(tmp_path):
    """A tenth of a second on an idle machine; here with a margin for a busy one."""
    hosts = "".join(
        f"  w{n}: {{address: 10.0.0.1, groups: [workers], labels: {{zone: z{n % 3}}}}}\n" for n in range(3, 1000)
    )
    (tmp_path / "inventory.yaml").write_text(CLUSTER + hosts)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        assert "w999" in answered("deploy plan inventory.yaml --on w99", tmp_path).stdout
        took.append(time.perf_counter() - began)
    assert min(took) < 1


def test_deploy_lab_knows_what_nixkube_lab_knows():
    assert set(OF_THE_LAB) == set(lab.commands)
