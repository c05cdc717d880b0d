"""What goes wrong with a cluster, and what people do to it meanwhile, against a whole ``deploy apply``.

As in ``test_faults``, each case has a lab of its own that is watched from outside. ``NIXKUBE_LONG_FAULTS=1`` adds the
cases that mostly wait for a deadline.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nixkube_deploy.lab.control import ask
from nixkube_deploy.model.cluster import OWNER_ANNOTATION, PRIOR_ANNOTATION, TO_COME_TAINT
from nixkube_deploy.model.failure import FailureKind as Kind
from tests.cases import own_numbers, side_by_side
from tests.lab.fault_fleet import WORKERS, Observed, Script, Setup, group_of, machines, rehearse
from tests.lab.observer import is_ready
from tests.lab.rig import Rig
from tests.told import last_told

LONG = os.environ.get("NIXKUBE_LONG_FAULTS") == "1"
SIDE_BY_SIDE = 4
SEEN_PER_SECOND = 4
"""Looks a second below which the eyes were shut."""
REBOOT = {**WORKERS, "w2": "reboot"}
CONTROL = {"cp1": "node", "cp2": "node", "cp3": "node", "w1": "live"}
ALL, NOBODY = "w1 w2 w3 w4", ""
CONVERGED, REFUSED, HALTED, TAKEN_BACK, LOCKED = 0, 3, 4, 5, 6
DEAD = "20260101T000000Z-dead"

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(300)]


def nothing(_: Rig) -> None:
    """Nobody else does anything."""


def cordon(rig: Rig, name: str, *, on: bool = True, **annotations: str) -> None:
    """As ``kubectl cordon`` and ``kubectl uncordon`` do; asked again when somebody else was quicker."""
    node = rig.kube(f"/api/v1/nodes/{name}")
    del node["metadata"]["resourceVersion"]
    node["spec"]["unschedulable"] = on
    node["metadata"].setdefault("annotations", {}).update({k.replace("_", "-"): v for k, v in annotations.items()})
    rig.kube(f"/api/v1/nodes/{name}", node, "PUT")


def await_cordon(rig: Rig, name: str = "w2") -> None:
    end = time.monotonic() + 60
    while not rig.nodes()[name]["spec"].get("unschedulable"):
        assert time.monotonic() < end, f"{name} was never cordoned"
        time.sleep(0.05)


def inject(spec: str, at: str = "") -> Script:
    """A fault from the moment on in which its host, or another one, runs its new system."""

    def act(rig: Rig) -> None:
        host, end = at or spec.partition(":")[0], time.monotonic() + 60
        while not machines(rig)[host]["activations"]:
            assert time.monotonic() < end, f"nothing was activated on {host}"
            time.sleep(0.02)
        assert "added" in next(iter(ask(rig.directory, {"op": "fault-add", "specs": [spec]})))

    return act


def uncordon_amid_drain(rig: Rig) -> None:
    """An operator wants w2 back while its pods do not end; two seconds later they do."""
    await_cordon(rig)
    time.sleep(1)
    cordon(rig, "w2", on=False)
    time.sleep(2)
    list(ask(rig.directory, {"op": "fault-clear", "host": "w2"}))


def second_controller(rig: Rig) -> int:
    """From another machine, with a state folder of its own, while the first waits for pods that end only afterwards."""
    await_cordon(rig)
    other = Rig(rig.directory, {**rig.environment, "NIXKUBE_DEPLOY_STATE": str(rig.directory / "elsewhere")})
    try:
        done = other.deploy("apply", rig.inventory, "--yes")
    finally:
        list(ask(rig.directory, {"op": "fault-clear", "host": "w2"}))
    assert "Traceback" not in done.stderr
    return done.returncode


def precordoned(rig: Rig) -> None:
    cordon(rig, "w2")


def left_by_a_dead_run(rig: Rig) -> None:
    node = rig.kube("/api/v1/nodes/w3")
    node["spec"]["unschedulable"] = True
    node["metadata"].setdefault("annotations", {}).update({OWNER_ANNOTATION: DEAD, PRIOR_ANNOTATION: "false"})
    rig.kube("/api/v1/nodes/w3", node, "PUT")


def manifest(rig: Rig, path: str, version: str, kind: str, name: str, **more: object) -> None:
    """One object made in ``default``, or where ``more`` says."""
    meta = {"name": name, "namespace": "default", **more.pop("metadata", {})}
    rig.kube(path, {"apiVersion": version, "kind": kind, "metadata": meta, **more}, "POST")


def a_pod_on_w2(rig: Rig, name: str, **metadata: object) -> None:
    spec = {"nodeName": "w2", "containers": [{"name": "c", "image": "pause"}]}
    labelled = {"labels": {"app": name}, **metadata}
    manifest(rig, "/api/v1/namespaces/default/pods", "v1", "Pod", name, metadata=labelled, spec=spec)


def unmanaged_pod(rig: Rig) -> None:
    a_pod_on_w2(rig, "naked")


def two_budgets(rig: Rig) -> None:
    """Each of them would allow the eviction."""
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "twice", "uid": "1-2-3", "controller": True}
    a_pod_on_w2(rig, "twice", ownerReferences=[owner])
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    spec = {"selector": {"matchLabels": {"app": "twice"}}, "minAvailable": 0}
    for name in ("one", "two"):
        manifest(rig, budgets, "policy/v1", "PodDisruptionBudget", name, spec=spec)


def budget_closes(rig: Rig) -> None:
    """After the plan was made: the canary is through and w2 comes next."""
    before, end = machines(rig)["w1"]["current"], time.monotonic() + 60
    while machines(rig)["w1"]["current"] == before:
        assert time.monotonic() < end, "the canary never changed"
        time.sleep(0.02)
    assert "added" in next(iter(ask(rig.directory, {"op": "fault-add", "specs": ["w2:pdb-blocks"]})))


def api_restarts_amid_drain(rig: Rig) -> None:
    """Away for two seconds while pods of w2 do not end; they do when it is back."""
    await_cordon(rig)
    time.sleep(0.5)
    assert "added" in next(iter(ask(rig.directory, {"op": "fault-add", "specs": ["fleet:api-down=2s"]})))
    time.sleep(4)
    list(ask(rig.directory, {"op": "fault-clear", "host": "w2"}))


def not_ready(name: str) -> Script:
    """Its kubelet is not heard any more, long enough for the cluster to have noticed."""

    def act(rig: Rig) -> None:
        assert "added" in next(iter(ask(rig.directory, {"op": "fault-add", "specs": [f"{name}:lease-frozen"]})))
        end = time.monotonic() + 60
        while is_ready(rig.nodes()[name]):
            assert time.monotonic() < end, f"{name} stayed Ready"
            time.sleep(0.1)

    return act


def kubelet_stopped(rig: Rig) -> None:
    """On w2, by somebody: the host answers, its Node is unreachable, and only its new system starts a kubelet again."""
    done = rig.deploy("exec", "--on", "w2", rig.inventory, "--", "systemctl", "stop", "k3s.service")
    assert done.returncode == 0, done.stderr
    end = time.monotonic() + 60
    while is_ready(rig.nodes()["w2"]):
        assert time.monotonic() < end, "w2 stayed Ready"
        time.sleep(0.1)


def stale_lock(rig: Rig) -> None:
    """A Lease that nobody renews any more: watched once, then taken over."""
    old = "2026-01-01T00:00:00.000000Z"
    manifest(
        rig, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", "coordination.k8s.io/v1", "Lease",
        "nixkube-deploy", metadata={"namespace": "kube-system"},
        spec={"holderIdentity": f"root@elsewhere:{DEAD}", "leaseDurationSeconds": 5, "acquireTime": old,
              "renewTime": old, "leaseTransitions": 0},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One trouble and everything that must come of it. Hosts that are not named are untouched."""

    name: str
    faults: str = ""
    prepare: Script = nothing
    meanwhile: Script = nothing
    answer: object = None
    """What ``meanwhile`` comes back with."""
    exit_code: int = CONVERGED
    failed: str = ""
    """``host/step``."""
    kind: Kind | None = None
    says: str = ""
    new: str = ALL
    old: str = ""
    cordoned: str = ""
    ours: str = ""
    """Nodes that stay cordoned by us, because their hosts are not well."""
    setup: Setup = field(default_factory=Setup)
    long: bool = False

    def fate(self, host: str) -> str:
        fates = {"new": self.new, "old": self.old}
        return next((fate for fate, hosts in fates.items() if host in hosts.split()), "untouched")


def drained_too_long(name: str, faults: str, says: str, **more: object) -> Case:
    return Case(
        name=name, faults=faults, exit_code=HALTED, failed="w2/drain", kind=Kind.DRAIN, says=says,
        new="w1", old="w2", **more,
    )  # fmt: skip


CASES = (
    Case(
        name="stale Ready after a fast reboot",
        faults="w2:kubelet-dies",
        exit_code=TAKEN_BACK,
        failed="w2/gate",
        kind=Kind.GATE,
        new="w1",
        old="w2",
        setup=Setup(changes=REBOOT),
    ),
    Case(
        name="lease stale after a fast reboot",
        faults="w2:lease-stale",
        exit_code=TAKEN_BACK,
        failed="w2/gate",
        kind=Kind.GATE,
        says="bootID",
        new="w1",
        old="w2",
        setup=Setup(changes=REBOOT),
        long=True,
    ),
    Case(
        name="lease frozen",
        meanwhile=inject("w2:lease-frozen"),
        exit_code=HALTED,
        failed="w2/gate",
        kind=Kind.GATE,
        new="w1",
        old="w2",
        ours="w2",
        long=True,
    ),
    Case(
        name="Node object missing",
        meanwhile=inject("w2:node-missing"),
        exit_code=HALTED,
        failed="w2/gate",
        kind=Kind.GATE,
        says="no Node",
        new="w1",
        old="w2",
        long=True,
    ),
    Case(name="back under another address", faults="w2:other-address", setup=Setup(changes=REBOOT), long=True),
    drained_too_long("pods never end", "w2:pods-stuck", "waits for its containers to end", long=True),
    Case(
        name="pods never become ready",
        faults="w2:pods-never-ready",
        exit_code=HALTED,
        failed="w2/gate",
        kind=Kind.GATE,
        new="w1",
        old="w2",
        ours="w2",
        setup=Setup(changes=REBOOT),
        long=True,
    ),
    Case(name="evictions fail at first", faults="fleet:eviction-fails*3", setup=Setup(drain="15s"), long=True),
    drained_too_long(
        "evictions fail",
        "fleet:eviction-fails",
        'which fails: Internal error occurred: failed calling webhook "evictions.lab.nixkube-deploy.io"',
    ),
    Case(
        name="evictions are throttled at first",
        faults="fleet:eviction-throttled*3",
        setup=Setup(drain="15s"),
        long=True,
    ),
    drained_too_long(
        "evictions are throttled",
        "fleet:eviction-throttled",
        "the API to take its eviction: Too many requests",
        long=True,
    ),
    Case(name="API throttles at first", faults="fleet:api-throttled*10", setup=Setup(drain="15s"), long=True),
    Case(name="API throttles everything", faults="fleet:api-throttled", exit_code=REFUSED, new=NOBODY, long=True),
    Case(name="API silent for a while", faults="fleet:api-silent=3s", setup=Setup(drain="20s"), long=True),
    Case(
        name="etcd learner",
        faults="cp2:etcd-learner",
        exit_code=REFUSED,
        failed="cp1 cp2 cp3",
        kind=Kind.PREFLIGHT,
        says="is a learner",
        new=NOBODY,
        setup=Setup(changes=CONTROL),
    ),
    Case(
        name="etcd alarm",
        meanwhile=inject("cp2:etcd-alarm=NOSPACE"),
        exit_code=HALTED,
        failed="cp2/gate",
        kind=Kind.GATE,
        says="alarm NOSPACE",
        new="cp1 w1",
        old="cp2",
        ours="cp2",
        setup=Setup(changes=CONTROL),
        long=True,
    ),
    Case(
        name="etcd member down once another voter was changed",
        meanwhile=inject("cp3:etcd-member-down", at="cp1"),
        exit_code=HALTED,
        failed="cp2/etcd",
        kind=Kind.ETCD,
        says="cp2 is not touched: the etcd member of cp3 does not answer",
        new="cp1 w1",
        setup=Setup(changes=CONTROL),
    ),
    Case(
        name="operator uncordons amid the drain",
        faults="w2:pods-stuck",
        meanwhile=uncordon_amid_drain,
        setup=Setup(drain="30s"),
    ),
    Case(name="node was cordoned before", prepare=precordoned, cordoned="w2"),
    Case(
        name="second controller",
        faults="w2:pods-stuck",
        meanwhile=second_controller,
        answer=LOCKED,
        setup=Setup(drain="90s"),
    ),
    Case(name="cordon of a dead run", prepare=left_by_a_dead_run),
    Case(
        name="budget closes after the plan",
        meanwhile=budget_closes,
        exit_code=HALTED,
        failed="w2/drain",
        kind=Kind.DRAIN,
        says="PodDisruptionBudget default/stubborn-w2",
        new="w1",
        old="w2",
    ),
    Case(
        name="API restarts amid the drain",
        faults="w2:pods-stuck",
        meanwhile=api_restarts_amid_drain,
        setup=Setup(drain="30s"),
    ),
    Case(
        name="API down while the only control-plane host reboots",
        new="cp1 w1 w2",
        setup=Setup(changes={"cp1": "reboot", "w1": "live", "w2": "node"}, drain="15s"),
    ),
    Case(
        name="node not ready beforehand",
        prepare=not_ready("w2"),
        exit_code=HALTED,
        failed="w2/drain",
        kind=Kind.DRAIN,
        says="the Node is unreachable (Ready is Unknown",
        new=NOBODY,
        old="w2",
    ),
    Case(
        name="kubelet gone beforehand, and the change brings it back",
        prepare=kubelet_stopped,
        setup=Setup(drain="30s, grace_period: 1"),
    ),
    Case(
        name="node not ready beforehand and nothing to do there",
        prepare=not_ready("w3"),
        exit_code=HALTED,
        new=NOBODY,
        old="w3",
        setup=Setup(changes={**WORKERS, "w3": "none"}),
    ),
    Case(name="lock of a dead controller", prepare=stale_lock),
    Case(
        name="two budgets on one pod",
        prepare=two_budgets,
        exit_code=REFUSED,
        failed="w2",
        kind=Kind.DRAIN,
        says="covered by 2 PodDisruptionBudgets (default/one, default/two)",
        new=NOBODY,
    ),
    Case(
        name="pod without a controller",
        prepare=unmanaged_pod,
        exit_code=REFUSED,
        failed="w2",
        kind=Kind.DRAIN,
        says="nothing would start it again (no controller)",
        new=NOBODY,
    ),
)
Verdicts = dict[int, "Future[Observed]"]


@pytest.fixture(scope="module")
def observed(request, tmp_path_factory) -> Iterator[Verdicts]:
    """Every selected case, a few of them at a time, in the order in which the tests ask for them."""

    def run(number: int, folder: Path) -> Observed:
        case = CASES[number]
        return rehearse(folder, case.setup, tuple(case.faults.split()), case.prepare, case.meanwhile)

    wanted = [number for number in own_numbers(request) if LONG or not CASES[number].long]
    with side_by_side(run, wanted, tmp_path_factory.mktemp("cluster"), SIDE_BY_SIDE) as verdicts:
        yield verdicts


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number].name)
def test_trouble_of_a_cluster_ends_as_documented(number: int, observed: Verdicts):
    case = CASES[number]
    if case.long and not LONG:
        pytest.skip(f"{case.name}: takes long; NIXKUBE_LONG_FAULTS=1 runs it")
    seen = observed[number].result()
    assert seen.exit_code == case.exit_code, seen.output
    assert "Traceback" not in seen.output
    assert "a bug" not in seen.output
    assert seen.meanwhile == case.answer
    _assert_named(case, seen)
    assert {host: seen.fate(host) for host in seen.after} == {host: case.fate(host) for host in seen.after}, seen.output
    _assert_within_budget(case, seen)
    _assert_clean(case, seen)


def _assert_named(case: Case, seen: Observed) -> None:
    """The right host and step, and a failure that says what it should."""
    host = case.failed.partition("/")[0]
    if seen.report is None:
        assert case.exit_code == REFUSED
        hosts = case.failed.split()
        assert {name: problem["kind"] for name, problem in seen.refused.items()} == dict.fromkeys(hosts, case.kind)
        for each in hosts:
            assert case.says in " ".join(last_told(seen.output, each).values()), seen.output
        return
    failed = {each["host"]: each["failed"] or each["host"] for each in seen.report["hosts"] if each["failure"]}
    assert failed == ({host: case.failed} if host else {}), seen.output
    if host:
        assert seen.host(host)["failure"]["kind"] == case.kind
        told = last_told(seen.output, case.failed)
        assert {"expected", "seen", "did", "next"} <= told.keys(), told
        assert case.says in " ".join(told.values()), told


def _assert_within_budget(case: Case, seen: Observed) -> None:
    """No more hosts away at once than allowed; what was away already counts."""
    assert seen.blinks > SEEN_PER_SECOND * seen.seconds, "nobody looked"
    already = len(case.cordoned.split()) + (case.prepare is left_by_a_dead_run)
    assert {group: count for group, count in seen.away.items() if count > 1 + already} == {}
    assert set(seen.away) == set(map(group_of, seen.after))


def _assert_clean(case: Case, seen: Observed) -> None:
    """Nothing of ours stays: no cordon, mark, lock or timer, but on hosts that are not well."""
    ill, kept = case.ours.split(), case.cordoned.split()
    assert {name for name, node in seen.nodes.items() if node["spec"].get("unschedulable")} == {*ill, *kept}
    for name, node in seen.nodes.items():
        owned = {OWNER_ANNOTATION, PRIOR_ANNOTATION} & (node["metadata"].get("annotations") or {}).keys()
        assert not owned or name in ill, name
        assert TO_COME_TAINT not in {taint["key"] for taint in node["spec"].get("taints") or ()}, name
    assert seen.holder == ""
    left = {name: (host["timers"], host["transient"]) for name, host in seen.after.items() if name not in ill}
    assert {name: things for name, things in left.items() if any(things)} == {}
