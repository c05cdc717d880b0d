"""Thirty nodes reboot into a new kernel, and whoever watches from outside never sees more of them away than allowed.

The watching is a process of its own (``observer``): it asks the machines and the Kubernetes API, not the controller.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.observer import HERTZ
from tests.lab.rig import ROOT, Rig, a_lab

ZONES = {
    **{f"cp{n}": "abc"[n - 1] for n in (1, 2, 3)},
    **{f"w{n}": "abc"[n % 3] for n in range(1, 28)},
}
MOST, MOST_WORKERS = 7, 6
"""A quarter of thirty, and of twenty-seven."""
BUDGETS = {"web": 2, "db": 2, "queue": 9}
"""App to the pods it cannot do without: every one has exactly one to spare."""

INVENTORY = """\
cluster: {{name: rolling, distribution: k3s}}
flake: ./flake
defaults:
  ssh: {{user: root, connect_timeout: 10s}}
  privilege: none
strategy:
  canary: 1
  max_unavailable: 25%
  spread: zone
  mode: rolling
  max_failures: 0
  on_failure: rollback
  soak: 0s
  drain: {{timeout: 60s}}
gates:
  kubelet: {{ready_for: 300ms, timeout: 60s}}
groups:
  control-plane: {{role: control-plane}}
  workers: {{role: worker}}
hosts:
{hosts}
"""

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]


def write_fleet(folder: Path) -> Path:
    """Thirty hosts that all run an older kernel than their flake says."""
    flake = folder / "flake"
    (flake / "roles").mkdir(parents=True)
    for name in ("flake.nix", "common.json"):
        (flake / name).write_text((ROOT / "flakes" / "lab" / name).read_text())
    before = {"kernel": "6.12.7", "units": {"k3s.service": "1.31.3"}}
    (flake / "before.json").write_text(json.dumps({"rules": [{"hosts": "*", "with": before}]}))
    for role in ("control-plane", "worker"):
        (flake / "roles" / f"{role}.json").write_text("{}")
    hosts = "\n".join(
        f"  {host}: {{address: 10.9.0.{number}, labels: {{zone: {zone}}}, "
        f"groups: [{'control-plane' if host.startswith('cp') else 'workers'}]}}"
        for number, (host, zone) in enumerate(ZONES.items(), 1)
    )
    inventory = folder / "rolling.yaml"
    inventory.write_text(INVENTORY.format(hosts=hosts))
    return inventory


def tighten(rig: Rig) -> None:
    """Ten pods more, and budgets that let one pod of an app go at a time."""
    template = {"metadata": {"labels": {"app": "queue"}}, "spec": {"containers": [{"name": "queue", "image": "pause"}]}}
    selector = {"matchLabels": {"app": "queue"}}
    rig.kube(
        "/apis/apps/v1/namespaces/default/deployments",
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "queue", "namespace": "default"},
            "spec": {"replicas": 10, "selector": selector, "template": template},
        },
        "POST",
    )
    for app in ("queue", "db"):
        rig.kube(
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": {"name": app, "namespace": "default"},
                "spec": {"selector": {"matchLabels": {"app": app}}, "maxUnavailable": 1},
            },
            "POST",
        )


class Trace:
    """What the observer wrote down, so far or in all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def samples(self) -> list[dict]:
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait(self, holds, seconds: float = 20) -> None:
        """Until the newest sample is as it should be."""
        end = time.monotonic() + seconds
        while not ((seen := self.samples) and holds(seen[-1])):
            assert time.monotonic() < end, seen[-1:] or "the observer wrote nothing"
            time.sleep(0.1)


@contextmanager
def observed(rig: Rig, path: Path) -> Iterator[Trace]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "tests.lab.observer", str(rig.directory), str(path)]
    process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdin=subprocess.PIPE)
    try:
        yield Trace(path)
    finally:
        process.stdin.close()
        assert process.wait(20) == 0, "the observer broke"


def breaches(samples: list[dict]) -> set[str]:
    """The rules that were not kept at some moment. Each view of a sample is judged alone: no two are of one moment."""
    found = set()
    for sample in samples:
        if "blind" in sample:
            continue
        for away in (sample["away"], sample["unpowered"], sample["stopped"]):
            workers = [name for name in away if name.startswith("w")]
            found |= {"budget"} if len(away) > MOST or len(workers) > MOST_WORKERS else set()
            found |= {"spread"} if len({ZONES[name] for name in away}) > 1 else set()
            found |= {"etcd"} if len(away) - len(workers) > 1 else set()
        found |= {f"pdb {app}" for app, (healthy, least) in sample["pods"].items() if healthy < least}
    return found


def looked_often_enough(samples: list[dict], began: float, ended: float) -> None:
    """Twenty times a second, but for a tenth: 19.5 on a machine with nothing else to do, and no gap over 0.3 s.

    A machine with more work than processors gives the observer its share only: the rate asked for falls with the
    load, but never below ten a second. A host is away for more than a second (cordon, drain, reboot, gate), so that
    even then each is seen several times, and no gap may be long enough to hide one.
    """
    times = [sample["at"] for sample in samples if "blind" not in sample and began <= sample["at"] <= ended]
    rate = len(times) / (ended - began)
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    told = f"{rate:.1f} looks a second, median gap {statistics.median(gaps):.3f} s, longest {max(gaps):.2f} s"
    print(f"\n{told}, {len(times)} looks in {ended - began:.1f} s, load {crowd:.1f} a processor")  # noqa: T201 (for pytest -s)
    assert rate > max(10.0, 0.9 * HERTZ / crowd), told
    assert max(gaps) < min(1.0, 0.5 * crowd), told


def test_thirty_nodes_reboot_within_their_budgets(tmp_path):
    inventory = write_fleet(tmp_path)
    with a_lab(tmp_path, inventory) as rig:
        tighten(rig)
        with observed(rig, tmp_path / "trace.jsonl") as trace:
            trace.wait(lambda seen: seen.get("pods") == {app: [least + 1, least] for app, least in BUDGETS.items()})
            before, first = rig.machines(), len(trace.samples)
            began = time.monotonic()
            done = rig.deploy("apply", rig.inventory, "--yes", timeout=200)
            ended = time.monotonic()
            samples = trace.samples[first:]
            assert done.returncode == 0, done.stderr[-5000:]
            after = rig.machines()
            assert {name for name in ZONES if after[name]["boots"] == before[name]["boots"] + 1} == set(ZONES)
            looked_often_enough(samples, began, ended)
            assert breaches(samples) == set()
            watched_it_happen(samples)
            first = len(trace.samples)
            break_every_rule(rig)
            trace.wait(lambda _: breaches(trace.samples[first:]) == {"budget", "spread", "etcd", "pdb queue"})


def watched_it_happen(samples: list[dict]) -> None:
    """The reboots were seen, several at a time, and budgets were used to the last pod."""
    seen = [sample for sample in samples if "blind" not in sample]
    assert {name for sample in seen for name in sample["away"]} == set(ZONES)
    assert len({name for sample in seen for name in sample["unpowered"]}) > len(ZONES) * 0.9
    assert max(len(sample["away"]) for sample in seen) >= MOST_WORKERS
    assert {app for sample in seen for app, (healthy, least) in sample["pods"].items() if healthy == least} >= {"queue"}


def break_every_rule(rig: Rig) -> None:
    """As a controller without any would: eight nodes of all zones, two of them voters, and pods without asking."""
    for name in ("cp1", "cp2", *(f"w{n}" for n in range(1, 8))):
        node = rig.kube(f"/api/v1/nodes/{name}")
        node["spec"]["unschedulable"] = True
        rig.kube(f"/api/v1/nodes/{name}", node, "PUT")
    for pod in rig.kube("/api/v1/namespaces/default/pods?labelSelector=app%3Dqueue")["items"][:4]:
        name = pod["metadata"]["name"]
        rig.kube(f"/api/v1/namespaces/default/pods/{name}?gracePeriodSeconds=0", None, "DELETE")


@pytest.mark.parametrize(
    ("sample", "broken"),
    [
        ({}, set()),
        ({"away": ["w1", "w4", "w7", "w10", "w13", "w16"]}, set()),
        ({"away": ["w1", "w4", "w7", "w10", "w13", "w16", "w19"]}, {"budget"}),
        ({"away": ["w1", "w2"]}, {"spread"}),
        ({"away": ["cp1", "cp2"]}, {"spread", "etcd"}),
        ({"stopped": ["cp1", "cp2"]}, {"spread", "etcd"}),
        ({"unpowered": ["w1", "w2"]}, {"spread"}),
        ({"pods": {"db": [1, 2]}}, {"pdb db"}),
    ],
)
def test_the_observers_judge_can_find_fault(sample, broken):
    whole = {"away": [], "unpowered": [], "stopped": [], "pods": {"web": [2, 2]}}
    assert breaches([whole, {**whole, **sample}]) == broken
