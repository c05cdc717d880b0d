"""Four small hosts in a lab of their own, one fault, one ``deploy apply``, and eyes on the lab all the while.

The eyes ask the lab itself, twenty times a second, over a socket that the controller does not know of.
"""

import json
import threading
import time
import urllib.error
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from nixkube_deploy.journal.history import read
from nixkube_deploy.lab.control import NotRunning, ask
from nixkube_deploy.lab.faults import FLEET
from nixkube_deploy.model.codec import to_plain
from nixkube_deploy.model.names import RunId
from nixkube_deploy.ui.summary import summarise
from tests.lab.rig import ROOT, Rig, a_lab

BLINK = 0.05
BEHIND = {
    "live": {"units": {"prometheus-node-exporter.service": "1.9.0"}},
    "node": {"units": {"k3s.service": "1.31.3"}},
    "reboot": {"kernel": "6.12.7", "units": {"k3s.service": "1.31.3"}},
    "none": {},
}
"""What a host ran before, by the class of the change that brings it up to date."""

WORKERS = {"w1": "live", "w2": "node", "w3": "node", "w4": "live"}
"""w1 is the canary, w2 the one that suffers, w3 would be next."""

INVENTORY = """\
cluster: {{name: faults, distribution: k3s, kubeconfig: ~/.kube/config}}
flake: ./flake
defaults:
  ssh: {{user: {user}, connect_timeout: 2s}}
  privilege: {privilege}
strategy:
  canary: 1
  max_unavailable: {limit}
  max_failures: 0
  on_failure: {on_failure}
  soak: 0s
  drain: {{timeout: {drain}}}
  reboot_timeout: 4s
  activation_timeout: 5s
gates:
  kubelet: {{ready_for: 300ms, timeout: {gate}}}
groups:
  control-plane: {{role: control-plane}}
  workers: {{role: worker}}
hosts:
{hosts}
"""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A fleet and its policy."""

    changes: dict[str, str] = field(default_factory=lambda: dict(WORKERS))
    """Host to the class of its change; names beginning with ``cp`` are the control plane."""
    limit: int = 1
    on_failure: str = "rollback"
    gate: str = "6s"
    drain: str = "4s"
    arguments: tuple[str, ...] = ()
    """For ``apply``."""
    user: str = "root"
    privilege: str = "none"

    def write(self, folder: Path) -> Path:
        flake = folder / "flake"
        (flake / "roles").mkdir(parents=True)
        template = ROOT / "flakes" / "lab"
        for name in ("flake.nix", "common.json"):
            (flake / name).write_text((template / name).read_text())
        rules = [{"hosts": host, "with": BEHIND[change]} for host, change in self.changes.items()]
        (flake / "before.json").write_text(json.dumps({"rules": rules}))
        for role in ("control-plane", "worker"):
            (flake / "roles" / f"{role}.json").write_text("{}")
        inventory = folder / "faults.yaml"
        hosts = "\n".join(
            f"  {host}: {{address: 10.9.0.{number}, groups: [{group_of(host)}]}}"
            for number, host in enumerate(self.changes, 1)
        )
        inventory.write_text(INVENTORY.format(hosts=hosts, **{k: getattr(self, k) for k in _FORMATTED}))
        return inventory


_FORMATTED = ("user", "privilege", "limit", "on_failure", "gate", "drain")


def group_of(host: str) -> str:
    return "control-plane" if host.startswith("cp") else "workers"


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a run did, as told by itself and as seen from outside."""

    exit_code: int
    output: str
    report: dict[str, Any] | None
    """As in ``deploy show --json``; None when there was no run."""
    refused: dict[str, Any]
    """By host, the problem ``deploy plan --json`` names, when there was no run."""
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]
    away: dict[str, int]
    """By group, how many hosts were unavailable at once at the worst moment."""
    ever_away: frozenset[str]
    blinks: int
    seconds: float
    """How long ``apply`` took."""
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """As the API has them afterwards."""
    holder: str = ""
    """Who holds the cluster's lock afterwards."""
    meanwhile: Any = None
    """What the somebody else of ``rehearse`` came back with."""

    def host(self, name: str) -> dict[str, Any]:
        assert self.report is not None, self.output
        return next(host for host in self.report["hosts"] if host["host"] == name)

    def fate(self, name: str) -> str:
        """``untouched``, ``new`` or ``old``: what the machine itself says."""
        before, after = self.before[name], self.after[name]
        if not after["powered"]:
            return "off"
        if after["current"] != before["current"]:
            return "new"
        touched = after["activations"] or after["boots"] != before["boots"] or after["profile"] != before["profile"]
        return "old" if touched or name in self.ever_away else "untouched"

    def is_cordoned(self, name: str) -> bool:
        return self.after[name]["node"]["unschedulable"]


class Eyes:
    """Watch who is away: cordoned, not Ready, or without power."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.away: dict[str, int] = {}
        self.ever: set[str] = set()
        self.blinks = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(BLINK):
            try:
                pulse = next(iter(ask(self._folder, {"op": "pulse"})))["hosts"]
            except NotRunning:
                continue
            away = {name for name, host in pulse.items() if not host["powered"] or host["away"]}
            for group in {group_of(name) for name in pulse}:
                count = sum(group_of(name) == group for name in away)
                self.away[group] = max(self.away.get(group, 0), count)
            self.ever |= away
            self.blinks += 1


Script = Callable[[Rig], Any]


def _nothing(_: Rig) -> None:
    """Nobody else does anything."""


def rehearse(
    folder: Path, setup: Setup, faults: tuple[str, ...], prepare: Script = _nothing, meanwhile: Script = _nothing
) -> Observed:
    """One lab, its faults, one ``apply``; ``prepare`` acts before it and ``meanwhile`` while it runs."""
    inventory = setup.write(folder)
    flags = [word for fault in faults for word in ("--fault", fault)]
    with a_lab(folder, inventory, *flags) as rig, ThreadPoolExecutor(1) as aside:
        prepare(rig)
        before = machines(rig)
        began = time.monotonic()
        with Eyes(rig.directory) as eyes:
            other = aside.submit(meanwhile, rig)
            done = rig.deploy("apply", rig.inventory, "--yes", *setup.arguments)
        seconds = time.monotonic() - began
        report = _report(rig)
        refused = {} if report else _refused(rig)
        after = machines(rig)
        next(iter(ask(rig.directory, {"op": "fault-clear", "host": FLEET})))  # The API shall answer us.
        return Observed(
            exit_code=done.returncode,
            output=done.stderr + done.stdout,
            report=report,
            refused=refused,
            before=before,
            after=after,
            away=eyes.away,
            ever_away=frozenset(eyes.ever),
            blinks=eyes.blinks,
            seconds=seconds,
            nodes=rig.nodes(),
            holder=_holder(rig),
            meanwhile=other.result(),
        )


def _holder(rig: Rig) -> str:
    try:
        lease = rig.kube("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/nixkube-deploy")
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.NOT_FOUND:
            return ""
        raise
    return lease["spec"].get("holderIdentity") or ""


def machines(rig: Rig) -> dict[str, dict[str, Any]]:
    return {row["host"]: row for row in next(iter(ask(rig.directory, {"op": "status"})))["hosts"]}


def _report(rig: Rig) -> dict[str, Any] | None:
    """What ``deploy show --json`` prints."""
    if not rig.journals:
        return None
    path = rig.journals[-1]
    stored = read(path.parents[1], RunId(path.stem))
    return to_plain(summarise(stored.plan, stored.records))


def _refused(rig: Rig) -> dict[str, Any]:
    told = rig.deploy("plan", rig.inventory, "--json").stdout
    plan = json.loads(told) if told else {"hosts": []}  # Without an API there is no plan at all.
    return {host["host"]: host["problem"] for host in plan["hosts"] if host["problem"]}
