"""One drain suite for two drainers, ours and the real kubectl, against the lab's API: same pods gone, same refusals.

Every scenario has a cluster of its own, and all those of a drainer run at the same time before the first test looks:
kubectl sleeps five seconds after a budget's refusal, and once is enough to wait for that. Left out is what the two do
differently on purpose: we look for pods under two budgets before evicting anything, and ask again after a server error.
"""

import base64
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import anyio
import pytest
import yaml

from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText
from nixkube_deploy.lab.kube import ADMIN, Accounts, KubeServer, KubeState, Timing, User, flow_control, seed
from nixkube_deploy.lab.kube.faults import EVICTIONS
from nixkube_deploy.lab.kube.objects import MIRROR, is_ready, is_terminating, node_of
from nixkube_deploy.lab.kube.store import Object, merged
from nixkube_deploy.lab.kube.tls import Authority, create_authority
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.strategy import DrainOptions
from nixkube_deploy.protocols.disruption import drain
from tests.fakes.cluster import LoopClock

KUBECTL = shutil.which("kubectl")
NODES = ("w1", "w2")
SPACE = "work"
START = 1_700_000_000.0
TIMING = Timing(pod_start=0.1, grace_scale=1 / 150)
READER = User(name="reader", groups=("readers",))
BLOCKED = 4
"""Seconds for a drain that cannot end: enough for the pods that can leave, less than kubectl sleeps."""
PATIENCE = 30


class Refusal(Enum):
    """Why a drain failed."""

    ORPHANED = "a DaemonSet is gone"
    EMPTYDIR = "emptyDir data"
    UNMANAGED = "no controller"
    BUDGET = "a budget"
    TWO_BUDGETS = "two budgets"
    TIMEOUT = "time ran out on a pod that ends"
    FORBIDDEN = "a right is missing"
    NO_NODE = "no such node"


KUBECTL_SAYS = (
    (Refusal.ORPHANED, r'daemonsets\.apps ".*" not found'),
    (Refusal.EMPTYDIR, r"cannot delete Pods with local storage"),
    (Refusal.UNMANAGED, r"cannot delete.* Pods that declare no controller"),
    (Refusal.TWO_BUDGETS, r"more than one PodDisruptionBudget"),
    (Refusal.FORBIDDEN, r"is forbidden: User"),
    (Refusal.BUDGET, r"violate the pod's disruption budget"),
    (Refusal.NO_NODE, r'nodes ".*" not found'),
    (Refusal.TIMEOUT, r"global timeout reached|did not complete within"),
)
WE_SAY = (
    (Refusal.ORPHANED, r"its DaemonSet .* is gone"),
    (Refusal.EMPTYDIR, r"it has emptyDir data"),
    (Refusal.UNMANAGED, r"no controller"),
    (Refusal.TWO_BUDGETS, r"covered by \d PodDisruptionBudgets"),
    (Refusal.FORBIDDEN, r"forbids us to create pods/eviction"),
    (Refusal.BUDGET, r"is held by PodDisruptionBudget"),
    (Refusal.NO_NODE, r"there is no Node"),
    (Refusal.TIMEOUT, r"waits for its containers to end"),
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a drainer."""

    node: str = "w1"
    force: bool = False
    emptydir: bool = False
    past_budgets: bool = False
    timeout: int = PATIENCE
    token: str = "admin"


@dataclass
class Lab:
    """A small cluster in real time; its node ``w2`` takes what ``w1`` has to give."""

    state: KubeState
    server: KubeServer
    url: str
    home: Path
    authority: Authority

    def add(self, *manifests: Object) -> None:
        for manifest in manifests:
            self.state.apply(manifest)

    def pods(self, app: str) -> list[Object]:
        return [p for p in self.state.store.all("pods") if p["metadata"]["labels"]["app"] == app]

    def the(self, app: str) -> Object:
        (pod,) = (p for p in self.pods(app) if node_of(p) == "w1")
        return pod

    def here(self) -> dict[str, str]:
        """App to UID, of the pods on ``w1``."""
        return {p["metadata"]["labels"]["app"]: p["metadata"]["uid"] for p in self.state.store.pods_on("w1")}

    @property
    def is_cordoned(self) -> bool:
        node = self.state.find("Node", "w1")
        return node is not None and bool(node["spec"].get("unschedulable"))

    def kubeconfig(self, token: str) -> str:
        trusted = base64.b64encode(self.authority.pair.certificate.encode()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": self.url, "certificate-authority-data": trusted}}],
            "users": [{"name": "lab", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "current-context": "lab",
        }
        return yaml.safe_dump(config)


# The two drainers: None when the drain succeeded, else why not.

Drainer = Callable[[Lab, Wanted], Awaitable[Refusal | None]]


async def our_drain(lab: Lab, wanted: Wanted) -> Refusal | None:
    options = DrainOptions(
        timeout=wanted.timeout,
        force=wanted.force,
        delete_emptydir_data=wanted.emptydir,
        disable_eviction=wanted.past_budgets,
    )
    config = KubeconfigText(lab.kubeconfig(wanted.token))
    async with open_cluster(config, None, clock=LoopClock(), patience=PATIENCE) as cluster:
        try:
            await drain(cluster, LoopClock(), wanted.node, options, RunId("run-1"), lambda _: None)
        except TaskError as error:
            return named(WE_SAY, error.failure.message)
    return None


async def kubectl_drain(lab: Lab, wanted: Wanted) -> Refusal | None:
    config = lab.home / "config"
    config.write_text(lab.kubeconfig(wanted.token))
    flags = {
        "--ignore-daemonsets": True,
        "--force": wanted.force,
        "--delete-emptydir-data": wanted.emptydir,
        "--disable-eviction": wanted.past_budgets,
        f"--timeout={wanted.timeout}s": True,
    }
    command = [str(KUBECTL), "--kubeconfig", str(config), "drain", wanted.node, *(f for f, on in flags.items() if on)]
    environment = {"HOME": str(lab.home), "KUBECACHEDIR": str(lab.home / "cache"), "PATH": "/usr/bin:/bin"}
    done = await anyio.run_process(command, env=environment, check=False, stdout=PIPE, stderr=PIPE)
    if done.returncode == 0:
        assert f"node/{wanted.node} drained" in done.stdout.decode()
        return None
    return named(KUBECTL_SAYS, done.stderr.decode())


def named(phrases: tuple[tuple[Refusal, str], ...], text: str) -> Refusal:
    found = next((refusal for refusal, phrase in phrases if re.search(phrase, text)), None)
    assert found is not None, f"a refusal nobody expected: {text}"
    return found


DRAINERS: Mapping[str, Drainer] = {"ours": our_drain, "kubectl": kubectl_drain}


# What is on the node.


def workload(app: str, kind: str = "Deployment", **spec: Any) -> Object:
    return seed.workload(kind, app, SPACE, replicas=None if kind == "DaemonSet" else 1, pod=spec)


def pod(app: str, *, owner: Mapping[str, str] | None = None, **annotations: str) -> Object:
    """A pod that nothing but the test made."""
    owners = [{**owner, "apiVersion": "apps/v1", "uid": f"gone-{app}", "controller": True}] if owner else []
    spec = {"nodeName": "w1", "containers": [{"name": "main", "image": "pause"}], "terminationGracePeriodSeconds": 30}
    meta = {"name": app, "namespace": SPACE, "labels": {"app": app}, "annotations": annotations}
    return {"kind": "Pod", "metadata": {**meta, "ownerReferences": owners}, "spec": spec, "status": {}}


def orphan(app: str) -> Object:
    """A pod whose DaemonSet is gone, in the moment before the garbage collector sees it."""
    return pod(app, owner={"kind": "DaemonSet", "name": "gone"})


def with_emptydir(manifest: Object) -> Object:
    return merged(manifest, spec={"volumes": [{"name": "cache", "emptyDir": {}}]})


def finished(lab: Lab, app: str, phase: str) -> None:
    lab.state.store.put(merged(lab.the(app), status={"phase": phase}))


def budget(app: str, name: str = "", allowed: int = 0) -> Object:
    return seed.budget(name or app, {"app": app}, {"maxUnavailable": allowed}, SPACE)


def hold(lab: Lab, app: str) -> None:
    lab.state.store.put(merged(lab.the(app), metadata={"finalizers": ["example.org/hold"]}))


def let_go(lab: Lab, app: str) -> None:
    (held,) = (p for p in lab.pods(app) if p["metadata"].get("finalizers"))
    lab.state.deletion.settle(lab.state.store.put(merged(held, metadata={"finalizers": []})))


def allow_one(lab: Lab, app: str) -> None:
    found = lab.state.find("PodDisruptionBudget", app, SPACE)
    assert found is not None
    lab.state.store.put(merged(found, spec={"maxUnavailable": 1}))


def end_namespace(lab: Lab) -> None:
    found = lab.state.find("Namespace", SPACE)
    assert found is not None
    lab.state.deletion.delete(found)


def may_not_evict(lab: Lab) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["get"]},
        {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ["list"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]},
    ]
    lab.add({"kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": rules})
    binding = {"roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "Group", "name": "readers"}]}
    lab.add({"kind": "ClusterRoleBinding", "metadata": {"name": "reader"}, **binding})


# The scenarios.

Change = Callable[[Lab], object]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is on the node, what is asked, what happens meanwhile, and how it has to end."""

    on: tuple[Object, ...]
    before: Change = lambda _: None
    """Once everything runs."""
    meanwhile: tuple[tuple[float, Change], ...] = ()
    """Seconds after the drain cordoned the node, and what happens then."""
    wanted: Wanted = field(default_factory=Wanted)
    gone: frozenset[str] = frozenset()
    refused: Refusal | None = None
    elsewhere: frozenset[str] = frozenset()
    """Apps that have to run on the other node afterwards, under a name that was on this one."""


PLAIN = workload("plain")
NOTHING: frozenset[str] = frozenset()

SCENARIOS: Mapping[str, Scenario] = {
    "ordinary pods leave": Scenario(on=(PLAIN,), gone=frozenset({"plain"})),
    "a static pod's mirror stays": Scenario(on=(PLAIN, pod("etcd", **{MIRROR: "x"})), gone=frozenset({"plain"})),
    "a DaemonSet's pod stays, with its emptyDir": Scenario(
        on=(PLAIN, workload("agent", "DaemonSet", volumes=[{"name": "cache", "emptyDir": {}}])),
        gone=frozenset({"plain"}),
    ),
    "a pod whose DaemonSet is gone is refused": Scenario(on=(PLAIN, orphan("agent")), refused=Refusal.ORPHANED),
    "a pod whose DaemonSet is gone leaves by force": Scenario(
        on=(PLAIN, orphan("agent")), wanted=Wanted(force=True), gone=frozenset({"plain", "agent"})
    ),
    "a finished pod whose DaemonSet is gone leaves": Scenario(
        on=(PLAIN, orphan("agent")),
        before=lambda lab: finished(lab, "agent", "Failed"),
        gone=frozenset({"plain", "agent"}),
    ),
    "emptyDir data is refused": Scenario(
        on=(PLAIN, workload("cache", volumes=[{"name": "cache", "emptyDir": {}}])), refused=Refusal.EMPTYDIR
    ),
    "emptyDir data goes when that is allowed": Scenario(
        on=(PLAIN, workload("cache", volumes=[{"name": "cache", "emptyDir": {}}])),
        wanted=Wanted(emptydir=True),
        gone=frozenset({"plain", "cache"}),
    ),
    "an unmanaged pod is refused": Scenario(on=(PLAIN, pod("bare")), refused=Refusal.UNMANAGED),
    "an unmanaged pod leaves by force": Scenario(
        on=(PLAIN, pod("bare")), wanted=Wanted(force=True), gone=frozenset({"plain", "bare"})
    ),
    "a pod of an unknown controller leaves": Scenario(
        on=(pod("foreign", owner={"kind": "CloneSet", "name": "x"}),), gone=frozenset({"foreign"})
    ),
    "a succeeded pod leaves, unmanaged and with emptyDir": Scenario(
        on=(PLAIN, with_emptydir(pod("job"))),
        before=lambda lab: finished(lab, "job", "Succeeded"),
        gone=frozenset({"plain", "job"}),
    ),
    "a failed pod leaves past a budget that blocks": Scenario(
        on=(PLAIN, with_emptydir(pod("job")), seed.budget("job", {"app": "job"}, {"minAvailable": 1}, SPACE)),
        before=lambda lab: finished(lab, "job", "Failed"),
        gone=frozenset({"plain", "job"}),
    ),
    "a pod that is terminating already is waited for, whatever its budget": Scenario(
        on=(workload("slow", terminationGracePeriodSeconds=120), budget("slow")),
        before=lambda lab: lab.state.deletion.delete(lab.the("slow")),
        gone=frozenset({"slow"}),
    ),
    "a budget that blocks holds its pod and no other": Scenario(
        on=(PLAIN, workload("web"), budget("web")),
        wanted=Wanted(timeout=BLOCKED),
        gone=frozenset({"plain"}),
        refused=Refusal.BUDGET,
    ),
    "a budget that allows later lets its pod go": Scenario(
        on=(PLAIN, workload("web"), budget("web")),
        meanwhile=((1.0, lambda lab: allow_one(lab, "web")),),
        gone=frozenset({"plain", "web"}),
    ),
    "a pod held by a budget that somebody else deletes is gone": Scenario(
        on=(workload("web"), budget("web")),
        meanwhile=((1.0, lambda lab: lab.state.deletion.delete(lab.the("web"), grace=0)),),
        gone=frozenset({"web"}),
    ),
    "budgets are passed over when that is asked for": Scenario(
        on=(workload("web"), budget("web")), wanted=Wanted(past_budgets=True), gone=frozenset({"web"})
    ),
    "a pod under two budgets is refused": Scenario(
        on=(workload("web"), budget("web", allowed=1), budget("web", "again", allowed=1)), refused=Refusal.TWO_BUDGETS
    ),
    "a pod that never started leaves past its budget": Scenario(
        on=(workload("web", nodeSelector={"kubernetes.io/hostname": "w1"}), budget("web")),
        before=lambda lab: lab.state.store.put(merged(lab.the("web"), status={"phase": "Pending"})),
        gone=frozenset({"web"}),
    ),
    "a finalizer holds a pod and the drain until it goes": Scenario(
        on=(workload("web"),),
        before=lambda lab: hold(lab, "web"),
        meanwhile=((1.5, lambda lab: let_go(lab, "web")),),
        gone=frozenset({"web"}),
    ),
    "a finalizer that stays ends the drain by its time": Scenario(
        on=(PLAIN, workload("web")),
        before=lambda lab: hold(lab, "web"),
        wanted=Wanted(timeout=BLOCKED),
        gone=frozenset({"plain"}),
        refused=Refusal.TIMEOUT,
    ),
    "a StatefulSet's pod that comes back elsewhere under its name is gone from here": Scenario(
        on=(PLAIN, workload("db", "StatefulSet")), gone=frozenset({"plain", "db"}), elsewhere=frozenset({"db"})
    ),
    "pods of a namespace that is terminating are waited for": Scenario(
        on=(workload("slow", terminationGracePeriodSeconds=120), budget("slow")),
        before=end_namespace,
        gone=frozenset({"slow"}),
    ),
    "a namespace that ends during the drain takes its held pods along": Scenario(
        on=(workload("web"), budget("web")), meanwhile=((1.0, end_namespace),), gone=frozenset({"web"})
    ),
    "flow control only delays": Scenario(
        on=(PLAIN,),
        before=lambda lab: lab.server.faults.scripted.append(flow_control(2, path=EVICTIONS)),
        gone=frozenset({"plain"}),
    ),
    "a missing right to evict is refused": Scenario(
        on=(PLAIN,), before=may_not_evict, wanted=Wanted(token="reader"), refused=Refusal.FORBIDDEN
    ),
    "a node that is not there is refused": Scenario(on=(PLAIN,), wanted=Wanted(node="w9"), refused=Refusal.NO_NODE),
}


# Running them.


@dataclass(frozen=True)
class Seen:
    """How it ended: the refusal, and of the pods that were on the node, by app, who is gone and who is left."""

    refused: Refusal | None
    gone: frozenset[str]
    left: frozenset[str]
    elsewhere: frozenset[str]
    cordoned: bool
    seconds: float


Results = Mapping[tuple[str, str], Seen | BaseException]


@asynccontextmanager
async def a_lab(home: Path, authority: Authority) -> AsyncIterator[Lab]:
    await anyio.Path(home).mkdir()
    state = KubeState(now=START, timing=TIMING)
    for name in NODES:
        state.register_node(name, machine_id=name, boot_id=name)
    for name in (*seed.NAMESPACES, SPACE):
        state.apply(seed.namespace(name))
    accounts = Accounts(tokens={"admin": ADMIN, "reader": READER})
    server = KubeServer(state, accounts=accounts, tls=authority.context(authority.server()))
    lab = Lab(state, server, await server.start(), home, authority)
    async with anyio.create_task_group() as group:
        group.start_soon(pass_time, lab)
        yield lab
        group.cancel_scope.cancel()
    await server.close()


async def pass_time(lab: Lab) -> None:
    began = anyio.current_time()
    while True:
        for name in NODES:
            lab.state.heartbeat(name, ready=True)
        lab.state.tick(START + anyio.current_time() - began)
        await anyio.sleep(0.03)


async def play(scenario: Scenario, drainer: Drainer, home: Path, authority: Authority) -> Seen:
    async with a_lab(home, authority) as lab:
        lab.state.set_cordon("w2", unschedulable=True)
        lab.add(*scenario.on)
        with anyio.fail_after(20):
            while not (lab.here() and all(map(is_ready, lab.state.store.all("pods")))):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        lab.state.set_cordon("w2", unschedulable=False)
        await anyio.sleep(0.1)
        scenario.before(lab)
        before, names = lab.here(), {p["metadata"]["name"] for p in lab.state.store.pods_on("w1")}
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            for after, change in scenario.meanwhile:
                group.start_soon(once_cordoned, lab, after, partial(change, lab))
            refused = await drainer(lab, scenario.wanted)
            took = anyio.current_time() - began
        now = {p["metadata"]["uid"] for p in lab.state.store.all("pods")}
        there = [p for p in lab.state.store.pods_on("w2") if p["metadata"]["name"] in names and not is_terminating(p)]
        return Seen(
            refused=refused,
            gone=frozenset(app for app, uid in before.items() if uid not in now),
            left=frozenset(app for app, uid in before.items() if uid in now),
            elsewhere=frozenset(p["metadata"]["labels"]["app"] for p in there),
            cordoned=lab.is_cordoned,
            seconds=took,
        )


async def once_cordoned(lab: Lab, seconds: float, change: Callable[[], object]) -> None:
    """Nothing happens before the drain is at work, however long a busy machine takes to start it."""
    with anyio.fail_after(PATIENCE):
        while not lab.is_cordoned:  # noqa: ASYNC110
            await anyio.sleep(0.02)
    await anyio.sleep(seconds)
    change()


async def play_all(home: Path) -> Results:
    results: dict[tuple[str, str], Seen | BaseException] = {}
    authority = create_authority()

    async def one(title: str, name: str) -> None:
        folder = home / f"{name}-{list(SCENARIOS).index(title)}"
        try:
            results[title, name] = await play(SCENARIOS[title], DRAINERS[name], folder, authority)
        except Exception as error:  # noqa: BLE001 (each belongs to the test that asks for its result)
            results[title, name] = error

    for name in DRAINERS:
        if name == "kubectl" and KUBECTL is None:
            continue
        async with anyio.create_task_group() as group:
            for title in SCENARIOS:
                group.start_soon(one, title, name)
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return anyio.run(play_all, tmp_path_factory.mktemp("drains"))


WITHOUT = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")


@pytest.mark.parametrize("drainer", ["ours", pytest.param("kubectl", marks=WITHOUT)])
@pytest.mark.parametrize("title", SCENARIOS)
def test_a_drain_ends_as_kubectls_does(results: Results, title: str, drainer: str) -> None:
    scenario, seen = SCENARIOS[title], results[title, drainer]
    if isinstance(seen, BaseException):
        raise seen

    assert (seen.refused, seen.gone) == (scenario.refused, scenario.gone)
    assert seen.elsewhere >= scenario.elsewhere
    assert seen.cordoned == (scenario.wanted.node == "w1"), "a node is cordoned even when its drain fails"
    if scenario.refused is None:
        assert seen.seconds >= max((after for after, _ in scenario.meanwhile), default=0.0)
