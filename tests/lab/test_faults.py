"""Every fault of the lab against ``deploy apply``: how the run ends, who is named, and what became of everybody else.

Each case has a lab of its own, watched from outside. Most of a case is waiting, so a few of them run side by side.
"""

import re
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nixkube_deploy.lab.faults import KINDS
from nixkube_deploy.model.failure import FailureKind as Kind
from tests.cases import own_numbers, side_by_side
from tests.lab.fault_fleet import WORKERS, Observed, Setup, group_of, rehearse
from tests.told import last_told

pytestmark = [pytest.mark.lab, pytest.mark.slow]

SIDE_BY_SIDE = 4
SEEN_PER_SECOND = 4
"""Looks a second below which the eyes were shut."""

LIVE = {**WORKERS, "w2": "live"}
REBOOT = {**WORKERS, "w2": "reboot"}
CONTROL = {"cp1": "node", "cp2": "node", "cp3": "node", "w1": "live"}
CONVERGED, REFUSED, HALTED, TAKEN_BACK, LOCKED = 0, 3, 4, 5, 6


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault and everything that must come of it. Hosts that are not named are untouched."""

    faults: str
    exit_code: int
    failed: str = ""
    """``host/step``; the host alone when nothing was begun."""
    kind: Kind | None = None
    new: str = ""
    """Hosts that run their new system afterwards."""
    old: str = ""
    """Hosts that were worked on and run their old system."""
    off: str = ""
    cordoned: str = ""
    says: str = ""
    """Part of what the failure says."""
    setup: Setup = field(default_factory=Setup)

    def fate(self, host: str) -> str:
        fates = {"new": self.new, "old": self.old, "off": self.off}
        return next((fate for fate, hosts in fates.items() if host in hosts.split()), "untouched")

    def __str__(self) -> str:
        policy = "" if self.setup.on_failure == "rollback" else f" {self.setup.on_failure}"
        change = "" if self.setup.changes == WORKERS else " ".join(f"{h}={c}" for h, c in self.setup.changes.items())
        return " ".join(part for part in (self.faults, change, policy.strip(), *self.setup.arguments) if part)


def survived(faults: str, **setup: object) -> Case:
    """Nothing fails: every host gets its new system."""
    made = Setup(**setup)
    return Case(faults=faults, exit_code=CONVERGED, new=" ".join(made.changes), setup=made)


def refused(faults: str, kind: Kind, says: str, **setup: object) -> Case:
    """Found before anything is touched."""
    return Case(faults=faults, exit_code=REFUSED, failed="w2", kind=kind, says=says, setup=Setup(**setup))


def not_copied(faults: str, kind: Kind, says: str) -> Case:
    """Found while closures are staged, when no host has been disturbed yet."""
    return Case(faults=faults, exit_code=HALTED, failed="w2/copy", kind=kind, says=says)


def taken_back(faults: str, step: str, kind: Kind, says: str, **setup: object) -> Case:
    """The canary was through, w2 fails and is healthy on its old system, nobody else begins."""
    failed = f"w2/{step}"
    return Case(
        faults=faults,
        exit_code=TAKEN_BACK,
        failed=failed,
        kind=kind,
        new="w1",
        old="w2",
        says=says,
        setup=Setup(**setup),
    )


def stuck(faults: str, step: str, kind: Kind, says: str, **expected: object) -> Case:
    """The canary was through, w2 fails and cannot be helped, nobody else begins."""
    setup = expected.pop("setup", {})
    fates = {"new": "w1", **expected}
    return Case(
        faults=faults, exit_code=HALTED, failed=f"w2/{step}", kind=kind, says=says, setup=Setup(**setup), **fates
    )


CASES = (
    # Found before anything is touched.
    refused("w2:unreachable", Kind.UNREACHABLE, "connection refused"),
    refused("w2:unreachable=silent", Kind.UNREACHABLE, "took longer than 2 s"),
    refused("w2:wrong-host-key", Kind.HOST_KEY, "shows another host key"),
    refused("w2:pdb-blocks", Kind.DRAIN, "can never be evicted: PodDisruptionBudget default/stubborn-w2"),
    refused("w2:auth-refused", Kind.AUTHENTICATION, "does not let root in"),
    refused("w2:sudo-password-wrong", Kind.PRIVILEGE, "sudo asks admin for a password", user="admin", privilege="sudo"),
    refused("w2:eval-fails", Kind.EVALUATION, "does not evaluate"),
    refused("w2:build-fails", Kind.BUILD, "the build was told to fail"),
    refused("w2:disk-full=boot", Kind.DISK_FULL, "/boot of w2 has 0 B free", changes=REBOOT),
    # Found while closures are staged.
    not_copied("w2:disk-full", Kind.DISK_FULL, "does not fit on w2"),
    not_copied("w2:copy-fails", Kind.COPY, "Broken pipe"),
    not_copied("w2:copy-unsigned", Kind.COPY, "lacks a signature"),
    # Survived.
    survived("w2:copy-fails*1"),
    survived("w2:slow=0.2"),
    survived("w2:disconnect-during=switch-to-configuration*2"),
    survived("w2:activation-slow=2"),
    survived("w2:lock-held*1"),
    survived("w2:switch=4"),
    survived("w2:unit-fails"),
    survived("fleet:api-down=5s", drain="15s"),
    survived("w2:switch=100"),
    survived("w2:switch=inhibitor"),
    survived("w2:efi-read-only", changes=REBOOT),
    # Taken back.
    taken_back("w2:switch=1", "activate", Kind.ACTIVATION, "Failed to install bootloader"),
    taken_back("w2:switch=2", "activate", Kind.ACTIVATION, "the activation script failed"),
    taken_back("w2:switch=2", "activate", Kind.ACTIVATION, "the activation script failed", changes=LIVE),
    taken_back("w2:switch=1", "activate", Kind.ACTIVATION, "the boot loader failed", changes=REBOOT),
    taken_back("w2:switch=100", "activate", Kind.INHIBITED, "--reboot always", changes=LIVE),
    taken_back("w2:switch=inhibitor", "activate", Kind.INHIBITED, "dbus-implementation : broker", changes=LIVE),
    taken_back(
        "w2:switch=inhibitor",
        "activate",
        Kind.INHIBITED,
        "the strategy says reboot: never",
        arguments=("--reboot=never",),
    ),
    taken_back("w2:switch=100 w2:kubelet-never-ready", "gate", Kind.GATE, "Ready=False"),
    taken_back("w2:disk-full=boot", "activate", Kind.ACTIVATION, "No space left on device"),
    taken_back("w2:unit-fails=k3s.service", "activate", Kind.UNIT, "k3s.service failed to start"),
    taken_back("w2:hang=switch-to-configuration*1", "activate", Kind.TIMEOUT, "still runs after 5 s"),
    taken_back("w2:reboot-old-kernel", "prove", Kind.FELL_BACK, "did not boot on w2; the old one", changes=REBOOT),
    taken_back("w2:boot-fails", "prove", Kind.FELL_BACK, "nixos-generation-1.conf, did, by itself", changes=REBOOT),
    taken_back("w2:kubelet-never-ready", "gate", Kind.GATE, "cni plugin not initialized"),
    taken_back("w2:kubelet-never-ready", "gate", Kind.GATE, "Ready=False", changes=REBOOT),
    taken_back("w2:kubelet-dies", "gate", Kind.GATE, "kubelet cgroup driver is different"),
    taken_back("w2:ready-flaps", "gate", Kind.GATE, "is not back after 6 s"),
    taken_back("w2:lease-stale", "gate", Kind.GATE, "its Lease renewed 2 times"),
    Case(
        faults="w1:switch=2",
        exit_code=TAKEN_BACK,
        failed="w1/activate",
        kind=Kind.ACTIVATION,
        old="w1",
        says="where it is healthy",
    ),
    # Not to be helped. A Node stays cordoned only where its host is not well.
    stuck(
        "w2:reboot-never-returns",
        "reboot",
        Kind.REBOOT,
        "did not come back within 4 s",
        off="w2",
        cordoned="w2",
        setup={"changes": REBOOT},
    ),
    stuck(
        "w2:boot-fails=hang",
        "reboot",
        Kind.REBOOT,
        "it boots nixos-generation-1.conf, the old system, by itself",
        off="w2",
        cordoned="w2",
        setup={"changes": REBOOT},
    ),
    stuck(
        "w2:hang=switch-to-configuration",
        "activate",
        Kind.TIMEOUT,
        "tried to take it back to",
        old="w2",
        cordoned="w2",
    ),
    stuck(
        "w2:kubelet-never-ready w2:rollback-fails",
        "gate",
        Kind.GATE,
        "tried to take it back to",
        new="w1 w2",
        cordoned="w2",
    ),
    Case(
        faults="cp2:etcd-member-down",
        exit_code=HALTED,
        failed="cp2/gate",
        kind=Kind.GATE,
        old="cp2",
        cordoned="cp2",
        says="etcd: it does not answer: Failed to connect to 127.0.0.1",
        setup=Setup(changes=CONTROL),
    ),
    Case(
        faults="cp2:etcd-member-down",
        exit_code=REFUSED,
        failed="cp1 cp3",
        kind=Kind.PREFLIGHT,
        new="",
        says="is not touched: the etcd member of cp2 does not answer",
        setup=Setup(changes={**CONTROL, "cp2": "none"}),
    ),
    # Somebody else is at work.
    Case(
        faults="w2:lock-held",
        exit_code=LOCKED,
        failed="w2/activate",
        kind=Kind.LOCKED,
        new="w1",
        old="w2",
        says="another switch-to-configuration holds the lock",
    ),
    Case(
        faults="w2:lock-held",
        exit_code=LOCKED,
        failed="w2/activate",
        kind=Kind.LOCKED,
        new="w1",
        old="w2",
        says="another switch-to-configuration holds the lock",
        setup=Setup(changes=REBOOT),
    ),
    Case(
        faults="w2:host-lock-held=20260101T000000Z-beef",
        exit_code=LOCKED,
        failed="w2/cordon",
        kind=Kind.LOCKED,
        new="w1",
        says="being changed by run 20260101T000000Z-beef",
    ),
    # Other policies.
    stuck(
        "w2:kubelet-never-ready",
        "gate",
        Kind.GATE,
        "timer armed, which takes it back",
        new="w1 w2",
        cordoned="w2",
        setup={"on_failure": "halt"},
    ),
    stuck(
        "w2:kubelet-never-ready",
        "gate",
        Kind.GATE,
        "timer armed, which takes it back",
        new="w1 w2",
        cordoned="w2",
        setup={"on_failure": "continue"},
    ),
    stuck(
        "w2:kubelet-never-ready",
        "gate",
        Kind.GATE,
        "timer armed, which takes it back",
        new="w1 w2 w3 w4",
        cordoned="w2",
        setup={"on_failure": "continue", "limit": 2},
    ),
    Case(
        faults="w2:unreachable",
        exit_code=HALTED,
        failed="w2",
        kind=Kind.UNREACHABLE,
        new="w1 w3 w4",
        says="connection refused",
        setup=Setup(limit=2, arguments=("--skip-unreachable",)),
    ),
)


Verdicts = dict[int, "Future[Observed]"]


@pytest.fixture(scope="module")
def observed(request, tmp_path_factory) -> Iterator[Verdicts]:
    """Every selected case, a few of them at a time, in the order in which the tests ask for them."""

    def run(number: int, folder: Path) -> Observed:
        return rehearse(folder, CASES[number].setup, tuple(CASES[number].faults.split()))

    base = tmp_path_factory.mktemp("faults")  # Here: the factory is not for threads.
    with side_by_side(run, own_numbers(request), base, SIDE_BY_SIDE) as verdicts:
        yield verdicts


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number]))
def test_a_fault_ends_as_documented(number: int, observed: Verdicts):
    case, seen = CASES[number], observed[number].result()
    assert seen.exit_code == case.exit_code, seen.output
    assert "Traceback" not in seen.output
    assert "a bug" not in seen.output
    _assert_named(case, seen)
    assert {host: seen.fate(host) for host in seen.after} == {host: case.fate(host) for host in seen.after}, seen.output
    assert {host for host in seen.after if seen.is_cordoned(host)} == set(case.cordoned.split()), seen.output
    _assert_within_budget(case, seen)
    _assert_clean(case, seen)


def _assert_named(case: Case, seen: Observed) -> None:
    """The right host and step, with a failure that says what it should."""
    host = case.failed.partition("/")[0]
    if seen.report is None:
        assert {name: problem["kind"] for name, problem in seen.refused.items()} == dict.fromkeys(
            case.failed.split(), case.kind
        )
    else:
        failed = {h["host"]: h["failed"] or h["host"] for h in seen.report["hosts"] if h["failure"]}
        assert failed == ({host: case.failed} if host else {}), seen.output
        assert not host or seen.host(host)["failure"]["kind"] == case.kind
    if not case.failed:
        return
    told = last_told(seen.output, case.failed.split()[-1])
    wanted = {"expected", "seen", "next"} | ({"did"} if seen.report is not None and "/" in case.failed else set())
    assert wanted <= told.keys(), told
    assert all(told.values()), told
    assert case.says in " ".join(told.values()), told


def _assert_within_budget(case: Case, seen: Observed) -> None:
    """No more hosts away at once than allowed, at any look from outside."""
    assert seen.blinks > SEEN_PER_SECOND * seen.seconds, "nobody looked"
    limits = {group: 1 if group == "control-plane" else case.setup.limit for group in map(group_of, seen.after)}
    assert {group: count for group, count in seen.away.items() if count > limits[group]} == {}


def _assert_clean(case: Case, seen: Observed) -> None:
    """Nothing of ours is left on hosts that are well; a host that is not keeps its timer on purpose."""
    well = [host for host in seen.after if host not in case.cordoned.split()]
    assert {host: seen.after[host]["timers"] for host in well if seen.after[host]["timers"]} == {}
    assert {host: seen.after[host]["transient"] for host in well if seen.after[host]["transient"]} == {}


def test_every_fault_of_the_lab_has_a_case():
    """Here, or in a file of its own subject: what is wrong with a cluster, how a machine boots or is installed."""
    tried = {fault.partition(":")[2].partition("=")[0].partition("*")[0] for c in CASES for fault in c.faults.split()}
    others = [file.read_text() for file in Path(__file__).parents[1].rglob("test_*cluster_faults.py")]
    more = ("cli/test_cli_reboot.py", "lab/test_bootstrap.py")
    others += [(Path(__file__).parents[1] / file).read_text() for file in more]
    tried |= {kind for kind in KINDS for text in others if re.search(rf"\w:{kind}\b", text)}
    assert tried == set(KINDS)
