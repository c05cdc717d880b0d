"""The health gate on a host whose every answer can be switched, in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import anyio
import pytest
from trio.testing import MockClock

from nixkube_deploy.model.action import OpenGate, Soak
from nixkube_deploy.model.cluster import Node, Pod
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.etcd import Voice
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Distribution, Host, Role
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.strategy import (
    CommandGate,
    Gates,
    HttpGate,
    KubeletGate,
    PodsGate,
    PrometheusGate,
    SelectedPods,
)
from nixkube_deploy.ports.shell import Command, CommandResult
from nixkube_deploy.ports.web import Answer
from nixkube_deploy.protocols.etcd import UNIT_FILE
from nixkube_deploy.protocols.gate import SOAK_TOLERANCE, GateWorld, open_gate, soak
from tests.builders import a_host
from tests.fakes.cluster import FakeCluster, LoopClock
from tests.fakes.etcd import FakeEtcd, voices_of
from tests.fakes.shell import FakeShell

OLD, NEW = "11111111-old", "22222222-new"
W1 = HostName("w1")
LOG = "journalctl -u k3s.service -o cat --no-pager -n 20"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


AT_ONCE, HTTP = KubeletGate(ready_for=0), (HttpGate(url="http://x/"),)


@dataclass
class FakeWeb:
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def get(self, url: str, timeout: float) -> Answer:
        self.asked.append(url)
        return self.answers.get(url, Answer(error="connection refused"))


@dataclass
class Bench:
    """One healthy, freshly rebooted host; tests break it."""

    boot_id: str = NEW
    kernel: str = "6.12.8"
    kubelet: CommandResult = field(default_factory=lambda: CommandResult(exit_code=0, stdout="ok"))
    host: Host = field(default_factory=a_host)
    shell: FakeShell = field(default_factory=FakeShell)
    web: FakeWeb = field(default_factory=FakeWeb)
    cluster: FakeCluster | None = None
    said: list[str] = field(default_factory=list)
    known: bool = True
    etcd: Voice = field(default_factory=lambda: voices_of("w1 cp1 cp2")["w1"])

    def __post_init__(self) -> None:
        self.cluster = FakeCluster(
            [Node(name="n1", ready="True", boot_id=NEW, kernel_version="6.12.8", machine_id="m1")],
            [a_pod("cni", owner_kind="DaemonSet", owner_name="cni"), a_pod("app")],
        )
        self.cluster.heartbeats("n1", 10)
        self.shell.answers("sh", "-c", with_=self._look)
        self.shell.answers("journalctl", stdout="kubelet: last words\n")

    def _look(self, host: Host, command: Command) -> CommandResult:
        if "etcd.service" in command.argv[2]:
            return CommandResult(exit_code=0, stdout=f"@files\n==> {UNIT_FILE} <==\nExecStart=/bin/etcd\n@end\n")
        if "/v3/" in command.argv[2]:
            return FakeEtcd(voices={host.name: self.etcd}).respond(host, command)
        told = f"@boot\n{self.boot_id}\n@kernel\n{self.kernel}\n@machine\nm1\n"
        if "10248" not in command.argv[2]:
            return CommandResult(exit_code=0, stdout=told)
        return replace(self.kubelet, stdout=f"{told}@kubelet\n{self.kubelet.stdout}")

    @property
    def node(self) -> Node:
        assert self.cluster is not None
        return self.cluster.nodes_by_name["n1"]

    def change_node(self, **fields: object) -> None:
        assert self.cluster is not None
        self.cluster.put_node(replace(self.node, **fields))  # type: ignore[arg-type]

    def world(self, distribution: Distribution = Distribution.K3S) -> GateWorld:
        return GateWorld(
            shell=self.shell,
            cluster=self.cluster,
            web=self.web,
            clock=LoopClock(),
            node_of=lambda _: "n1" if self.known else None,
            hosts={W1: self.host, HostName("cp1"): a_host("cp1")},
            resolve=lambda selector: frozenset({HostName("cp1")}) if selector == "@control-plane" else frozenset(),
            distribution=distribution,
        )

    async def open(self, distribution: Distribution = Distribution.K3S, **fields: object) -> str:
        gates = fields.pop("gates", Gates())
        action = OpenGate(host=W1, gates=gates, **({"rebooted_from": OLD} | fields))  # type: ignore[arg-type]
        return await open_gate(self.world(distribution), self.host, action, self.said.append)

    async def failure(self, distribution: Distribution = Distribution.K3S, **fields: object) -> Failure:
        with pytest.raises(TaskError) as caught:
            await self.open(distribution, **fields)
        return caught.value.failure

    async def soak(self, seconds: float = 60, **fields: object) -> None:
        await soak(self.world(), self.host, Soak(host=W1, seconds=seconds, **fields), self.said.append)  # type: ignore[arg-type]


def a_pod(name: str, **fields: object) -> Pod:
    return Pod(namespace="kube-system", name=name, uid=name, node="n1", **fields)  # type: ignore[arg-type]


async def test_a_member_that_etcd_had_must_be_healthy_again():
    assert "healthy" in await Bench().open(expect_etcd=True)
    well = Bench().etcd
    for etcd, seen in (
        (replace(well, trouble="RANGE ERROR"), "it is not healthy: RANGE ERROR"),
        (replace(well, alarms=(("1", "NOSPACE"),)), "alarm NOSPACE"),
        (replace(well, learner=True), "it is a learner: it does not vote yet"),
        (replace(well, index=9000), "8900 entries behind its log"),
        (Voice(trouble="refused", absent=True), "it does not answer: refused"),
    ):
        failure = await Bench(etcd=etcd).failure(expect_etcd=True)
        assert (failure.kind, failure.seen) == (FailureKind.GATE, seen)
        assert failure.next == "ssh w1.lan journalctl -u k3s.service -n 50"
    assert "healthy" in await Bench(etcd=Voice(trouble="refused")).open()


async def test_the_kubelet_must_be_of_the_version_the_new_system_brings():
    bench = Bench()
    bench.change_node(kubelet_version="v1.31.4+k3s1")
    assert "healthy" in await bench.open(kubernetes="1.31.4")
    failure = await bench.failure(kubernetes="1.32.0+k3s1")
    assert (failure.expected, failure.seen) == ("a kubelet of version 1.32.0+k3s1", "v1.31.4+k3s1")
    assert "version: v1.31.4+k3s1" in failure.message
    bench.change_node(kubelet_version="")
    assert (await bench.failure(kubernetes="1.32.0")).seen == "(none)"


async def test_the_storage_drivers_of_before_must_be_registered_again():
    bench = Bench()
    assert bench.cluster is not None
    bench.cluster.drivers = {"n1": frozenset({"rbd", "new"})}
    assert "healthy" in await bench.open(csi_drivers=("rbd",))
    failure = await bench.failure(csi_drivers=("cephfs", "rbd"))
    assert (failure.expected, failure.seen) == ("every storage driver of before", "not registered: cephfs")
    assert failure.message.endswith("csi: not registered: cephfs")


async def after(seconds: float, act: Callable[[], object]) -> None:
    await anyio.sleep(seconds)
    act()


# Opening.


async def test_a_healthy_host_opens_after_two_renewals_and_the_holding_time() -> None:
    bench = Bench()

    assert (await bench.open()).startswith("healthy after ")
    assert 20 + 30 <= anyio.current_time() < 20 + 30 + 5, "two renewals ten seconds apart, then ready_for"
    assert bench.said[-1] == "everything holds"


async def test_the_host_is_asked_in_one_round_trip() -> None:
    bench = Bench()
    await bench.open()

    (script,) = {ran.command.argv for ran in bench.shell.ran}
    assert script[:2] == ("sh", "-c")
    assert "/proc/sys/kernel/random/boot_id" in script[2]
    assert "curl -fsS --max-time 5 http://127.0.0.1:10248/healthz" in script[2]
    assert not set("|$`") & set(script[2])


async def test_looks_come_quickly_at_first_and_every_two_seconds_later() -> None:
    bench = Bench()
    times: list[float] = []
    look = bench._look
    bench.shell.answers("sh", "-c", with_=lambda h, c: times.append(anyio.current_time()) or look(h, c))
    await bench.open()

    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] == pytest.approx(0.15)
    assert max(pauses) == pytest.approx(2.0)
    assert pauses[1] > pauses[0]


async def test_a_proxy_that_is_not_allowed_is_noted_and_does_not_close_the_gate() -> None:
    bench = Bench()
    bench.cluster.healthz["n1"] = None

    assert "proxy not asked: not allowed" in await bench.open()


async def test_a_host_without_curl_is_judged_by_the_rest() -> None:
    bench = Bench(kubelet=CommandResult(exit_code=127, stderr="sh: curl: command not found"))

    assert "kubelet not asked: curl is not on the host" in await bench.open()


async def test_a_host_that_was_just_installed_is_found_by_its_machine_id() -> None:
    bench = Bench(known=False)

    await bench.open(rebooted_from=None)


async def test_an_opening_flap_only_starts_the_holding_time_anew() -> None:
    bench = Bench()
    async with anyio.create_task_group() as group:
        group.start_soon(after, 30, lambda: bench.change_node(ready="False", ready_reason="KubeletNotReady"))
        group.start_soon(after, 33, lambda: bench.change_node(ready="True"))
        await bench.open()

    assert 33 + 30 <= anyio.current_time() < 33 + 30 + 5
    assert any("ready: Ready=False (KubeletNotReady)" in line for line in bench.said)


async def test_a_flap_between_two_looks_is_noticed_by_the_condition_s_own_time() -> None:
    bench = Bench()
    async with anyio.create_task_group() as group:
        group.start_soon(after, 40, lambda: bench.change_node(ready_since="later"))
        await bench.open()

    assert 40 + 30 <= anyio.current_time() < 40 + 30 + 5


async def test_a_restart_of_the_api_is_waited_for() -> None:
    bench = Bench()
    bench.cluster.down_for(100)

    await bench.open()
    assert any("api: the Kubernetes API refused the connection" in line for line in bench.said)


async def test_a_plain_host_needs_ssh_and_the_users_gates_only() -> None:
    bench = Bench(kubelet=CommandResult(exit_code=7))
    bench.cluster.down_for(10_000)
    bench.web.answers["http://x/"] = Answer(status=200)

    await bench.open(
        expect_node=False, gates=Gates(kubelet=KubeletGate(ready_for=5), http=(HttpGate(url="http://x/"),))
    )
    assert anyio.current_time() < 7


@pytest.mark.parametrize(("gates", "looks"), [(Gates(kubelet=AT_ONCE), 1), (Gates(kubelet=AT_ONCE, http=HTTP), 2)])
async def test_the_proof_of_a_plain_host_is_its_first_pass_unless_the_user_asks_for_more(gates, looks) -> None:
    bench = Bench()
    bench.web.answers["http://x/"] = Answer(status=200)

    await bench.open(expect_node=False, gates=gates)
    assert len(bench.shell.ran) == looks


async def test_without_a_cluster_there_is_no_node_to_expect() -> None:
    bench = Bench()
    bench.cluster = None

    await bench.open()


# Staying closed.


@pytest.mark.parametrize(
    ("break_it", "conjunct"),
    [
        (lambda b: setattr(b, "boot_id", OLD), "rebooted: boot 11111111-old, as before the reboot"),
        (lambda b: b.change_node(boot_id=OLD), "boot: 11111111-old"),
        (lambda b: b.change_node(kernel_version="6.12.7"), "kernel: 6.12.7"),
        (lambda b: b.cluster.heartbeats("n1", None), "lease: renewed 0 of 2 times"),
        (lambda b: b.change_node(ready="Unknown"), "ready: Ready=Unknown"),
        (
            lambda b: b.change_node(taints=("node.kubernetes.io/unreachable:NoExecute",)),
            "taints: node.kubernetes.io/unreachable:NoExecute",
        ),
        (
            lambda b: setattr(b, "kubelet", CommandResult(exit_code=7, stderr="curl: (7) Failed to connect")),
            "kubelet: curl: (7) Failed to connect",
        ),
        (lambda b: setattr(b, "kubelet", CommandResult(exit_code=22)), "kubelet: curl ended with exit code 22"),
        (lambda b: b.cluster.healthz.update(n1="status 500: [-]syncloop failed"), "proxy: status 500"),
        (
            lambda b: b.cluster.put_pod(a_pod("cni", owner_kind="DaemonSet", owner_name="cni", ready=False)),
            "daemonsets: not ready: kube-system/cni",
        ),
        (
            lambda b: b.cluster.put_pod(a_pod("dns", priority_class="system-cluster-critical", ready=False)),
            "critical: not ready: kube-system/dns",
        ),
        (lambda b: b.cluster.nodes_by_name.clear(), "node: no Node is this host"),
        (lambda b: b.shell.unreachable("w1"), "ssh: w1 does not answer"),
    ],
)
async def test_anything_missing_keeps_it_closed_and_is_named(break_it: Callable[[Bench], None], conjunct: str) -> None:
    bench = Bench()
    break_it(bench)

    failure = await bench.failure(gates=Gates(kubelet=KubeletGate(timeout=120)))

    assert failure.kind is FailureKind.GATE
    assert failure.message.startswith(f"w1 is not back after 120 s: {conjunct}")
    assert failure.expected
    assert failure.evidence[0].endswith("(for 120 s)")
    assert failure.next == "kubectl describe node n1"
    assert not failure.transient


async def test_the_kubelets_last_words_are_the_evidence() -> None:
    bench = Bench()
    bench.change_node(ready="False")

    failure = await bench.failure()

    assert failure.evidence[-1] == "kubelet: last words"
    assert bench.shell.lines()[-1] == LOG


async def test_the_log_is_read_from_the_unit_the_kubelet_lives_in() -> None:
    bench = Bench(host=a_host(role=Role.CONTROL_PLANE))
    bench.change_node(ready="False")

    await bench.failure(Distribution.RKE2)
    assert "rke2-server.service" in bench.shell.lines()[-1]


async def test_what_closed_later_is_closed_for_less_long() -> None:
    bench = Bench()
    async with anyio.create_task_group() as group:
        group.start_soon(after, 35, lambda: bench.change_node(ready="False"))
        failure = await bench.failure(gates=Gates(kubelet=KubeletGate(timeout=60, ready_for=60)))

    assert failure.evidence[0].startswith("ready: Ready=False (for 2")


async def test_a_host_that_never_holds_long_enough_is_not_called_broken() -> None:
    failure = await Bench().failure(gates=Gates(kubelet=KubeletGate(timeout=40, ready_for=35)))

    assert "does not stay healthy" in failure.message
    assert failure.expected == "everything to hold for 35 s"


async def test_a_lease_that_moved_before_the_node_knew_the_new_boot_does_not_count() -> None:
    bench = Bench()
    bench.change_node(boot_id=OLD)
    async with anyio.create_task_group() as group:
        group.start_soon(after, 100, lambda: bench.change_node(boot_id=NEW))
        await bench.open()

    assert anyio.current_time() >= 100 + 10 + 30


async def test_a_wrong_host_key_is_not_waited_for() -> None:
    bench = Bench()

    def refuse(host: Host, command: Command) -> CommandResult:
        raise task_error(FailureKind.HOST_KEY, "the host key changed")

    bench.shell.answers("sh", "-c", with_=refuse)

    assert (await bench.failure()).kind is FailureKind.HOST_KEY
    assert anyio.current_time() == 0


async def test_a_connection_lost_during_a_look_is_made_anew() -> None:
    bench = Bench()
    bench.shell.loses("sh", "-c", times=1)

    await bench.open()
    assert bench.shell.forgotten == ["w1"]


async def test_a_host_that_answers_nonsense_is_closed() -> None:
    bench = Bench()
    bench.shell.answers("sh", "-c", stdout="Please log in\n", stderr="nologin\n", exit_code=1)

    assert "ssh: it answers, but not with its boot_id" in (await bench.failure()).message


async def test_an_api_that_hangs_does_not_hang_the_gate() -> None:
    bench = Bench()

    async def hang(name: str) -> Node | None:
        await anyio.sleep_forever()
        raise AssertionError

    bench.cluster.node = hang  # type: ignore[method-assign]
    failure = await bench.failure(gates=Gates(kubelet=KubeletGate(timeout=90)))

    assert "api: no answer within 20 s" in failure.message
    assert anyio.current_time() == pytest.approx(90)


async def test_pods_are_not_asked_for_when_the_inventory_does_not_care() -> None:
    bench = Bench()
    bench.cluster.put_pod(a_pod("cni", owner_kind="DaemonSet", owner_name="cni", ready=False))

    await bench.open(gates=Gates(pods=PodsGate(daemonsets=False, critical=False)))


# The user's gates.


async def test_user_gates_are_asked_only_when_everything_else_holds() -> None:
    bench = Bench()
    bench.web.answers["http://x/"] = Answer(status=200)
    bench.change_node(ready="False")
    gates = Gates(kubelet=KubeletGate(timeout=30), http=(HttpGate(url="http://x/"),))

    await bench.failure(gates=gates)
    assert bench.web.asked == []


@pytest.mark.parametrize(
    ("gate", "answer", "seen"),
    [
        (HttpGate(url="http://x/"), Answer(status=503), "status 503"),
        (HttpGate(url="http://x/"), Answer(error="connection refused"), "connection refused"),
        (HttpGate(url="http://x/", expect=204), Answer(status=200), "status 200"),
    ],
)
async def test_an_http_gate_wants_its_status(gate: HttpGate, answer: Answer, seen: str) -> None:
    bench = Bench()
    bench.web.answers["http://x/"] = answer

    failure = await bench.failure(gates=Gates(kubelet=KubeletGate(timeout=60), http=(gate,)))
    assert (failure.seen, failure.expected) == (seen, f"status {gate.expect} from http://x/")


async def test_a_command_gate_runs_on_the_hosts_it_names() -> None:
    bench = Bench()
    bench.shell.answers("sh", "-c", "etcdctl endpoint health", host="cp1")
    gates = Gates(command=(CommandGate(run="etcdctl endpoint health", on="@control-plane"),))

    await bench.open(gates=gates)
    assert "sh -c etcdctl endpoint health" in bench.shell.lines("cp1")


async def test_a_command_gate_without_hosts_runs_on_the_host_itself_and_tells_its_last_line() -> None:
    bench = Bench()
    bench.shell.answers("sh", "-c", "check", exit_code=3, stderr="one\nnot yet\n")

    failure = await bench.failure(gates=Gates(kubelet=KubeletGate(timeout=60), command=(CommandGate(run="check"),)))
    assert failure.seen == "w1: exit code 3: not yet"


async def test_a_command_gate_that_names_nobody_stays_closed() -> None:
    gates = Gates(kubelet=KubeletGate(timeout=60), command=(CommandGate(run="true", on="@nobody"),))

    assert (await Bench().failure(gates=gates)).seen == "no host matches @nobody"


async def test_a_command_gate_whose_host_is_away_stays_closed() -> None:
    bench = Bench()
    bench.shell.unreachable("cp1")
    gates = Gates(kubelet=KubeletGate(timeout=60), command=(CommandGate(run="true", on="@control-plane"),))

    assert (await bench.failure(gates=gates)).seen == "cp1: cp1 does not answer"


def prometheus(expect: str = "empty") -> Gates:
    gate = PrometheusGate(url="http://p:9090/", query='ALERTS{severity="critical"}', expect=expect)
    return Gates(kubelet=KubeletGate(timeout=60), prometheus=(gate,))


QUERY = "http://p:9090/api/v1/query?query=ALERTS%7Bseverity%3D%22critical%22%7D"
EMPTY = '{"status": "success", "data": {"resultType": "vector", "result": []}}'
FIRING = EMPTY.replace("[]", "[{}, {}]")


@pytest.mark.parametrize(("expect", "body"), [("empty", EMPTY), ("nonempty", FIRING)])
async def test_a_prometheus_gate_opens_on_the_expected_result(expect: str, body: str) -> None:
    bench = Bench()
    bench.web.answers[QUERY] = Answer(status=200, body=body)

    await bench.open(gates=prometheus(expect))


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (Answer(status=200, body=FIRING), "2 series"),
        (Answer(status=400, body='{"status": "error", "error": "parse error"}'), "Prometheus says: parse error"),
        (Answer(status=502, body="<html>"), "status 502, and no Prometheus answer in the body"),
        (Answer(status=200, body="[]"), "status 200, and no Prometheus answer in the body"),
        (Answer(error="timed out"), "timed out"),
    ],
)
async def test_a_prometheus_gate_stays_closed_on_anything_else(answer: Answer, seen: str) -> None:
    bench = Bench()
    bench.web.answers[QUERY] = answer

    failure = await bench.failure(gates=prometheus())
    assert failure.seen == seen


MONS = SelectedPods(selector="app=mon", namespace="rook", at_least=2)


def a_mon(name: str, **fields: object) -> Pod:
    return replace(Pod(namespace="rook", name=name, uid=name, node="n2", labels={"app": "mon"}), **fields)  # type: ignore[arg-type]


def selected(gate: SelectedPods = MONS) -> Gates:
    return Gates(kubelet=KubeletGate(timeout=60), pods=PodsGate(selected=(gate,)))


async def test_a_gate_of_selected_pods_opens_when_enough_are_there_and_all_are_ready() -> None:
    bench = Bench()
    assert bench.cluster is not None
    for pod in (a_mon("a"), a_mon("b"), a_mon("old", deleting_since=1.0), a_mon("job", phase="Succeeded", ready=False)):
        bench.cluster.put_pod(pod)
    bench.cluster.put_pod(replace(a_mon("elsewhere", ready=False), namespace="test"))

    await bench.open(gates=selected())


@pytest.mark.parametrize(
    ("pods", "seen"),
    [
        ((a_mon("a"), a_mon("b"), a_mon("c", ready=False)), "not ready: rook/c"),
        ((a_mon("a"), a_mon("b", deleting_since=1.0)), "1 ready"),
        ((), "0 ready"),
    ],
)
async def test_a_gate_of_selected_pods_stays_closed_while_one_is_missing(pods: tuple[Pod, ...], seen: str) -> None:
    bench = Bench()
    assert bench.cluster is not None
    for pod in pods:
        bench.cluster.put_pod(pod)

    failure = await bench.failure(gates=selected())
    assert (failure.seen, failure.expected) == (seen, "all pods app=mon in rook Ready, at least 2")
    assert "pods app=mon in rook" in failure.message


async def test_pods_that_cannot_be_asked_for_keep_their_gate_closed() -> None:
    bench = Bench()
    assert bench.cluster is not None
    bench.cluster.fails("selected_pods", *[task_error(FailureKind.CLUSTER, "may not list pods")] * 500)
    assert (await bench.failure(gates=selected())).seen == "may not list pods"

    bench = Bench()
    bench.cluster = None
    failure = await bench.failure(gates=selected(SelectedPods(selector="app=mon")))
    assert (failure.seen, failure.expected) == ("there is no Kubernetes API to ask", "at least 1 Ready")


# Soak.


async def test_a_healthy_host_soaks_for_its_time() -> None:
    await Bench().soak(60)

    assert 60 <= anyio.current_time() < 63


async def test_a_flap_during_the_soak_is_forgiven() -> None:
    bench = Bench()
    async with anyio.create_task_group() as group:
        group.start_soon(after, 20, lambda: bench.change_node(ready="False"))
        group.start_soon(after, 20 + SOAK_TOLERANCE / 2, lambda: bench.change_node(ready="True"))
        await bench.soak(60)


async def test_a_host_that_breaks_during_the_soak_fails_it() -> None:
    bench = Bench()
    async with anyio.create_task_group() as group:
        group.start_soon(after, 20, lambda: bench.change_node(ready="False", ready_reason="KubeletNotReady"))
        with pytest.raises(TaskError) as caught:
            await bench.soak(60)

    failure = caught.value.failure
    assert failure.kind is FailureKind.GATE
    assert failure.message == "w1 became unhealthy 20 s into its soak: ready: Ready=False (KubeletNotReady)"
    assert 20 + SOAK_TOLERANCE < anyio.current_time() < 20 + SOAK_TOLERANCE + 5


async def test_a_short_soak_does_not_end_on_a_sick_host() -> None:
    bench = Bench()
    bench.change_node(ready="False")

    with pytest.raises(TaskError, match="became unhealthy 0 s into its soak"):
        await bench.soak(1)


async def test_a_dead_kubelet_is_noticed_though_ready_still_says_true() -> None:
    bench = Bench()
    broken = CommandResult(exit_code=7, stderr="curl: (7) refused")
    async with anyio.create_task_group() as group:
        group.start_soon(after, 5, lambda: setattr(bench, "kubelet", broken))
        with pytest.raises(TaskError, match=r"kubelet: curl: \(7\) refused"):
            await bench.soak(60)


async def test_an_api_that_is_away_says_nothing_about_the_host() -> None:
    bench = Bench()
    bench.cluster.down_for(100)

    await bench.soak(60)
    assert 100 <= anyio.current_time() < 105


async def test_a_plain_host_soaks_over_ssh_alone() -> None:
    bench = Bench(kubelet=CommandResult(exit_code=7))

    await bench.soak(10, expect_node=False)


async def test_soaking_not_at_all_still_looks_once() -> None:
    bench = Bench()
    await bench.soak(0)

    assert len(bench.shell.ran) == 1
