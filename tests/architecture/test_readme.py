"""The README's two commands, as written there: the first is run from a clean copy, the second is what CI runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """The fenced ``sh`` blocks: those a reader is meant to paste."""
    return [block.strip() for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)]


def a_clean_copy(to: Path) -> Path:
    """What a clone would hold, with what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_command_rolls_out_the_lab(tmp_path):
    checkout = a_clean_copy(tmp_path / "clone")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "PYTEST", "COVERAGE"))}
    environment["NIXKUBE_DEPLOY_STATE"] = str(tmp_path / "state")
    done = subprocess.run(
        commands()[0], shell=True, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "12 hosts: 11 done, 1 unchanged." in said
    for host in ["cp1", "cp2", "cp3", *(f"w{n}" for n in range(1, 10))]:
        assert re.search(rf"^{host} +(reboot|node-restart|live|unchanged)", said, re.MULTILINE), host


def test_ci_runs_the_second_command_as_written():
    assert len(commands()) == 2
    assert "nox" in commands()[1]
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script
    found = subprocess.run(
        ["awk", r"/^```sh/{n++; inside=1; next} /^```/{inside=0} inside && n==2", "README.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == commands()[1]
