"""A hundred hosts behind a bastion, in one controller process: how long it takes, and how much memory."""

import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab.rig import Rig, a_lab

LIMIT_MIB = 400
"""For the controller and the lab together, each at its own peak."""

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


def peak_mib(pid: int) -> float:
    """The most memory a process ever had resident; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def watched(rig: Rig, log: Path, *arguments: str | Path) -> tuple[int, float, float]:
    """Run the product to its end: its exit code, its peak memory, its seconds."""
    began, peak = time.monotonic(), 0.0
    with log.open("w") as file:
        process = subprocess.Popen(
            rig.command(*arguments), env=rig.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        while process.poll() is None:
            peak = max(peak, peak_mib(process.pid))
            time.sleep(0.1)
    return process.returncode, peak, time.monotonic() - began


def test_a_hundred_hosts_are_rolled_out_by_one_process_within_400_mib(tmp_path, record_property):
    log = tmp_path / "apply.log"
    with a_lab(tmp_path, "fleet.yaml") as rig:
        daemon = int((rig.directory / "pid").read_text())
        code, controller, seconds = watched(rig, log, "apply", rig.inventory, "--yes")
        assert code == 0, log.read_text()[-5000:]
        assert "100 hosts: 91 done, 9 unchanged." in log.read_text()
        again, _, second = watched(rig, log, "apply", rig.inventory, "--yes")
        assert again == 0
        assert "100 hosts: 100 unchanged." in log.read_text()
        lab = peak_mib(daemon)
        handshakes = rig.machines()
    assert len(handshakes) == 101, "a hundred hosts and their bastion"
    figures = {"controller MiB": controller, "lab MiB": lab, "rollout s": seconds, "second apply s": second}
    for name, figure in figures.items():
        record_property(name, round(figure, 1))
    print("\n" + ", ".join(f"{name} {figure:.1f}" for name, figure in figures.items()))  # noqa: T201 (for pytest -s)
    assert controller + lab < LIMIT_MIB
