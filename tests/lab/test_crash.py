"""The controller is killed at fifty points of a rollout; whoever takes it up finishes it, and repeats nothing.

``NIXKUBE_CRASH_ROUNDS`` chooses how many rounds are run (``nox -s crash``: all fifty).
"""

import json
import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from nixkube_deploy.model.cluster import OWNER_ANNOTATION, PRIOR_ANNOTATION, TO_COME_TAINT
from tests.lab.rig import ROOT, Rig, a_lab

ROUNDS = int(os.environ.get("NIXKUBE_CRASH_ROUNDS", "10"))
SEED = 20261122
KINDS = ("live", "node-restart", "reboot")
LABS = 2
"""Labs at once: one would leave half of a small machine idle."""
LONGEST = 8.0
"""Seconds a whole rollout takes; a kill after that finds it done, which must be fine too."""

INVENTORY = """
cluster: {{name: crash, distribution: k3s}}
flake: {flake}
defaults: {{ssh: {{user: root, connect_timeout: 5s}}, privilege: none}}
strategy: {{canary: 0, max_unavailable: 6, max_failures: 0, on_failure: rollback, soak: 0.1s, drain: {{timeout: 30s}}}}
gates: {{kubelet: {{ready_for: 0.2s, timeout: 30s}}}}
groups: {{control-plane: {{role: control-plane}}, workers: {{role: worker}}}}
hosts:
  cp1: {{address: 10.77.0.1, groups: [control-plane]}}
"""

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]


@dataclass
class Kill:
    """When the controller is killed: some seconds after its start, or after a line of its journal."""

    seconds: float
    after: str = ""
    """Text in the journal from which on the seconds count; empty: from the start."""
    times: int = 1
    """The line is waited for this many times."""

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s after " + (f"{self.times}x {self.after!r}" if self.after else "the start")


@dataclass
class Round:
    """One rollout and how it is cut off."""

    number: int
    kills: tuple[Kill, ...]
    finisher: str

    def __str__(self) -> str:
        return f"{self.number:02d}-{self.finisher}-" + "-then-".join(map(str, self.kills))


def rounds(chance: random.Random) -> list[Round]:
    """Fifty: half uniform in time, half right behind something interesting; every fifth is killed twice.

    After every seventh something else is wanted, so that a new run has to deal with what the dead one left.
    """
    return [
        Round(
            number=number,
            kills=tuple(a_kill(chance, uniform=(number + again) % 2 == 0) for again in range(1 + (number % 5 == 4))),
            finisher="anew" if number % 7 == 6 else ("resume", "apply")[number // LABS % 2],
        )
        for number in range(50)
    ]


def a_kill(chance: random.Random, *, uniform: bool) -> Kill:
    if uniform:
        return Kill(seconds=chance.uniform(0.3, LONGEST))
    step = chance.choice(
        (
            "copy",
            "cordon",
            "drain",
            "activate",
            "activate",
            "reboot",
            "reboot",
            "prove",
            "gate",
            "promote",
            "confirm",
            "uncordon",
        )
    )
    what = chance.choice(("TaskStarted", "TaskSettled"))
    delay = chance.choice((0.0, chance.uniform(0, 0.05), chance.uniform(0, 0.6)))
    return Kill(seconds=delay, after=f"{what} {step}", times=chance.randint(1, 4))


def change_everything(rig: Rig, number: int) -> dict[str, str]:
    """A change for every host; which class of change moves on by one host a round."""
    classes = {}
    for index, host in enumerate(sorted(rig.machines())):
        kind = classes[host] = KINDS[(index + number) % len(KINDS)]
        match kind:
            case "live":
                rig.configure(host, packages={"round": str(number)})
            case "node-restart":
                rig.configure(host, units={"k3s.service": f"1.31.{number + 10}"})
            case _:
                rig.configure(host, kernel=f"6.12.{number + 10}")
    return classes


def kill(rig: Rig, command: list[str], when: Kill) -> int | None:
    """Run a command until its moment has come; its exit code when it ended before."""
    before = {path: path.stat().st_size for path in rig.journals}
    process = subprocess.Popen(
        rig.command(*command),
        env=rig.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while when.after and process.poll() is None and not happened(rig, before, when) and time.monotonic() < deadline:
            time.sleep(0.003)
        try:
            return process.wait(when.seconds)
        except subprocess.TimeoutExpired:
            return None
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def happened(rig: Rig, before: dict[Path, int], when: Kill) -> bool:
    """Whether the journal has said it often enough since the command began."""
    kind, _, step = when.after.partition(" ")
    seen = 0
    for path in rig.journals[-1:]:
        for line in path.read_bytes()[before.get(path, 0) :].splitlines():
            seen += f'/{step}"'.encode() in line and kind.encode() in line and b'"graph"' not in line
    return seen >= when.times


def finish(rig: Rig, finisher: str) -> None:
    """``resume``, or ``apply``. A controller killed before it had a journal leaves nothing to resume."""
    if finisher == "resume":
        done = rig.deploy("resume")
        if done.returncode != 2 or "no run was cut off" not in done.stderr:
            assert done.returncode == 0, done.stdout + done.stderr
            return
    done = rig.deploy("apply", rig.inventory, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr


def check(rig: Rig, classes: dict[str, set[str]], boots: dict[str, int]) -> None:
    """Everything the issue asks for after a crash. ``classes``: every change wanted since ``boots``."""
    shown = rig.deploy("show", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["outcome"] == "converged"
    again = rig.deploy("apply", rig.inventory, "--yes")
    assert again.returncode == 0
    assert "12 hosts: 12 unchanged." in again.stdout + again.stderr, again.stdout + again.stderr
    for name, machine in rig.machines().items():
        assert machine["current"] in machine["activations"], name
        for system, verbs in machine["activations"].items():
            assert sum(verbs.values()) == 1, f"{name} was switched to {system} {verbs}, changes {classes[name]}"
        assert machine["profile"] == machine["current"], name
        rebooted = machine["boots"] - boots[name]
        if len(classes[name]) == 1:
            assert rebooted == ("reboot" in classes[name]), f"{name}: {classes[name]}, {rebooted} reboots"
        else:
            assert rebooted <= 2, f"{name}: {classes[name]}, {rebooted} reboots"
        assert not machine["timers"], f"{name} has an armed timer: {machine['timers']}"
        assert not machine["transient"], f"{name} has leftover units: {machine['transient']}"
    for name, node in rig.nodes().items():
        assert not node["spec"].get("unschedulable"), f"Node {name} is cordoned"
        left = {OWNER_ANNOTATION, PRIOR_ANNOTATION} & node["metadata"].get("annotations", {}).keys()
        assert not left, f"Node {name} still has {left}"
        assert TO_COME_TAINT not in {taint["key"] for taint in node["spec"].get("taints", ())}, f"Node {name} is marked"


class Campaign:
    """Rounds in one lab that stays up. Another campaign that fails ends this one too."""

    failed = threading.Event()

    def __init__(self, folder: Path, rounds: list[Round]) -> None:
        self.folder, self.rounds = folder, rounds
        self.killed = 0

    def run(self) -> int:
        """All rounds, and how many of them were cut off at all."""
        self.folder.mkdir()
        inventory = self.folder / "crash.yaml"
        workers = "".join(f"  w{n:02d}: {{address: 10.77.1.{n}, groups: [workers]}}\n" for n in range(1, 12))
        inventory.write_text(INVENTORY.format(flake=ROOT / "flakes" / "lab") + workers)
        with a_lab(self.folder, inventory) as rig:
            first = rig.deploy("apply", rig.inventory, "--yes")
            assert first.returncode == 0, first.stderr
            for each in self.rounds:
                if self.failed.is_set():
                    break
                try:
                    self.one_round(rig, each)
                except BaseException as error:
                    self.failed.set()
                    raise AssertionError(f"round {each}: {error}") from error
        return self.killed

    def one_round(self, rig: Rig, this: Round) -> None:
        began = time.monotonic()
        classes = {host: {kind} for host, kind in change_everything(rig, this.number).items()}
        boots = {name: machine["boots"] for name, machine in rig.machines().items()}
        command, code = ["apply", str(rig.inventory), "--yes"], None
        for moment in this.kills:
            code = kill(rig, command, moment)
            if code is not None:
                break
            self.killed += 1
            command = ["resume"] if this.finisher == "resume" else command
        assert code in {0, 2, None}
        if this.finisher == "anew":
            for host, kind in change_everything(rig, this.number + 100).items():
                classes[host].add(kind)
            time.sleep(1)  # A host that is down cannot be planned for.
        if code != 0 or this.finisher == "anew":
            finish(rig, this.finisher)
        check(rig, classes, boots)
        how = "cut off" if code is None else "cut off too late"
        print(f"{this}: {how}, {time.monotonic() - began:.1f} s", flush=True)  # noqa: T201 (for pytest -s)


def test_a_controller_killed_anywhere_is_taken_up_and_nothing_happens_twice(tmp_path):
    chosen = rounds(random.Random(SEED))[:ROUNDS]
    campaigns = [Campaign(tmp_path / str(n), chosen[n::LABS]) for n in range(LABS)]
    with ThreadPoolExecutor(LABS) as pool:
        killed = sum(pool.map(Campaign.run, campaigns))
    assert killed >= 0.6 * len(chosen)
