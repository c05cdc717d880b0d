"""How a member is asked, what its answers mean, and what happens before a voter is taken away."""

from dataclasses import dataclass, field, replace

import pytest
from trio.testing import MockClock

from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.etcd import Voice
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Distribution
from nixkube_deploy.ports.shell import CommandResult
from nixkube_deploy.protocols.etcd import Way, embedded, hear, voice_of, ways_of
from nixkube_deploy.protocols.quorum import spare, spare_to_go_back
from tests.builders import a_host
from tests.fakes.etcd import FakeEtcd, voices_of
from tests.fakes.shell import FakeShell

K3S = Distribution.K3S
HOSTS = tuple(a_host(name) for name in ("cp1", "cp2", "cp3"))
DOWN = Voice(trouble="Failed to connect", absent=True)

NIXOS_UNIT = """
[Service]
Environment="ETCD_ADVERTISE_CLIENT_URLS=https://etcd.local:2379"
Environment="ETCD_CERT_FILE=/var/lib/kubernetes/secrets/etcd.pem"
Environment="ETCD_CLIENT_CERT_AUTH=1"
Environment="ETCD_KEY_FILE=/var/lib/kubernetes/secrets/etcd-key.pem"
Environment="ETCD_LISTEN_CLIENT_URLS=https://0.0.0.0:2379"
Environment="ETCD_PEER_CERT_FILE=/var/lib/kubernetes/secrets/peer.pem"
Environment="ETCD_TRUSTED_CA_FILE=/var/lib/kubernetes/secrets/ca.pem"
ExecStart=/nix/store/x-etcd/bin/etcd
"""
API_SERVER = "ExecStart=/bin/kube-apiserver --etcd-certfile=/s/client.pem \\\n --etcd-keyfile=/s/client-key.pem\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@dataclass
class Bench:
    etcd: FakeEtcd = field(default_factory=FakeEtcd)
    shell: FakeShell = field(default_factory=FakeShell)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shell.answers("sh", "-c", with_=self.etcd.respond)

    async def spare(self, name: str = "cp1", others: tuple[str, ...] = ("cp1", "cp2", "cp3")) -> str:
        hosts = {host.name: host for host in HOSTS}
        return await spare(self.shell, hosts[name], [hosts[each] for each in others], K3S, self.said.append)

    async def refused(self, name: str = "cp1", others: tuple[str, ...] = ("cp1", "cp2", "cp3")) -> Failure:
        with pytest.raises(TaskError) as caught:
            await self.spare(name, others)
        return caught.value.failure


def test_the_nixos_module_says_where_and_with_which_certificates():
    ca = "/var/lib/kubernetes/secrets/ca.pem"
    ways = tuple(ways_of(NIXOS_UNIT, API_SERVER))
    assert ways[0] == Way(url="https://etcd.local:2379", ca=ca, cert="/s/client.pem", key="/s/client-key.pem")
    assert [way.cert.rpartition("/")[2] for way in ways[:3]] == [
        "client.pem",
        "etcd.pem",
        "kube-apiserver-etcd-client.pem",
    ]
    assert {way.url for way in ways} == {"https://etcd.local:2379", "https://127.0.0.1:2379"}


def test_flags_come_before_the_environment_and_plain_http_needs_no_certificate():
    unit = (
        'Environment="ETCD_LISTEN_CLIENT_URLS=http://10.0.0.1:1"\nExecStart=etcd --listen-client-urls http://[::]:2379,'
    )
    assert tuple(ways_of(unit, "")) == (Way(url="http://[::1]:2379"),)
    assert tuple(ways_of("ExecStart=/bin/etcd", "")) == (Way(url="http://127.0.0.1:2379"),)


def test_an_embedded_etcd_is_asked_on_its_http_port_first():
    assert [way.url.rpartition(":")[2] for way in embedded("/d")] == ["2382", "2382", "2379", "2379"]


@pytest.mark.parametrize(
    ("status", "trouble", "absent"),
    [
        ("\n7 000 Failed to connect", "Failed to connect", True),
        ("\n7 000 refused\n\n56 000 alert bad certificate", "alert bad certificate", False),
        ("\n56 000 alert bad certificate\n\n7 000 refused", "alert bad certificate", False),
        ("\n28 000 ", "curl ended with exit code 28", False),
        ("404 page not found\n0 404 ", "status 404, and no JSON: 404 page not found", False),
        ('{"message":"connection closed","code":14}\n0 503 ', "connection closed", False),
        ('{"reason":"x"}\n0 503 ', "x", False),
        ("{}\n0 500 ", "status 500", False),
        ("{}\n0 200 ", "its answer is not etcd's", False),
        ("0 200 ", "status 200, and no JSON: ", False),
        ("", "curl is not on the host, or said nothing", False),
    ],
)
def test_a_member_that_says_nothing_of_itself_has_said_why(status, trouble, absent):
    assert voice_of({"status": status}) == Voice(trouble=trouble, absent=absent)


def test_what_a_member_leaves_out_is_no_surprise():
    voice = voice_of({"status": '{"header":{"member_id":"7"},"raftIndex":"x","errors":["no space"]}\n0 200 '})
    assert (voice.id, voice.index, voice.members, voice.answers, voice.serves) == ("7", 0, (), True, False)


async def test_a_host_is_heard_in_one_round_trip():
    bench = Bench()
    heard = await hear(bench.shell, HOSTS[1], K3S)
    assert heard is not None
    assert heard.voice == bench.etcd.voices["cp2"]
    assert len(bench.shell.ran) == 1
    assert bench.shell.ran[0].command.privileged


async def test_a_host_without_an_etcd_has_no_member():
    bench = Bench()
    bench.shell.answers("sh", "-c", stdout="", holding="test -d")
    bench.shell.answers("sh", "-c", stdout="@files\n@end\n", holding="etcd.service")
    assert await hear(bench.shell, HOSTS[0], K3S) is None
    assert await bench.spare() == "it has no etcd member"
    await spare_to_go_back(bench.shell, HOSTS[0], HOSTS, K3S)


async def test_trouble_on_the_way_to_a_member_is_told_as_its_own_and_a_wrong_host_key_is_not():
    shell = FakeShell()
    shell.unreachable("cp1")
    heard = await hear(shell, HOSTS[0], K3S)
    assert heard is not None
    assert not heard.voice.absent
    assert not heard.ways

    def wrong_key(*_: object) -> CommandResult:
        raise task_error(FailureKind.HOST_KEY, "another key")

    shell.answers("sh", "-c", with_=wrong_key)
    with pytest.raises(TaskError, match="another key"):
        await hear(shell, HOSTS[1], K3S)


async def test_without_the_right_to_ask_the_reason_is_told():
    shell = FakeShell()
    shell.answers("sh", "-c", stderr="sudo: a password is required", exit_code=1)
    heard = await hear(shell, HOSTS[0], K3S)
    assert heard is not None
    assert heard.voice.trouble == "exit code 1: sudo: a password is required"


async def test_a_follower_is_taken_away_without_a_move():
    bench = Bench()
    assert await bench.spare("cp2") == "etcd voters that stay: cp1, cp3"
    assert not bench.etcd.moves


async def test_a_leader_hands_over_first():
    bench = Bench()
    bench.etcd.voices["cp3"] = replace(bench.etcd.voices["cp3"], applied=101)
    assert await bench.spare() == "etcd voters that stay: cp2, cp3; leadership moved to cp3"
    assert bench.etcd.moves == ["cp1 to 3"]
    assert bench.said == ["etcd: leadership moved to cp3"]


async def test_a_leader_that_stays_is_not_touched():
    bench = Bench(etcd=FakeEtcd(stubborn=True))
    failure = await bench.refused()
    assert failure.message == "cp1 is not touched: the leadership of etcd did not move to cp2"
    assert failure.seen == "the leader"
    assert failure.next == "ssh cp1.lan etcdctl move-leader 2"


async def test_a_dead_member_is_waited_for_then_refused_with_what_everybody_said():
    bench = Bench()
    bench.etcd.voices["cp2"] = DOWN
    failure = await bench.refused()
    assert "the etcd member of cp2 does not answer" in failure.message
    assert failure.evidence == ("cp1: the leader", "cp2: it does not answer: Failed to connect", "cp3: a voter")
    assert bench.said == ["waiting for etcd: cp2: Failed to connect"] * 3
    assert await bench.spare("cp2") == "its etcd member is down: taking it away costs no vote"


async def test_a_member_that_comes_back_while_it_is_waited_for_is_enough():
    bench = Bench()
    well = bench.etcd.voices["cp2"]
    bench.etcd.voices["cp2"] = DOWN

    def report(line: str) -> None:
        bench.etcd.voices["cp2"] = well

    assert "cp2, cp3" in await spare(bench.shell, HOSTS[0], HOSTS, K3S, report)


async def test_a_member_on_no_host_that_can_be_reached_is_asked_at_its_own_address():
    bench = Bench()
    bench.shell.unreachable("cp3")
    assert "cp3 (https://cp3:2379)" in await bench.spare("cp2")
    bench.etcd.voices["cp3"] = DOWN
    failure = await bench.refused("cp2", ("cp1",))
    assert "the etcd member of cp3 (https://cp3:2379) does not answer" in failure.message


async def test_a_member_without_an_address_cannot_be_asked():
    voices = voices_of("cp1 cp2 x")
    nowhere = tuple(replace(m, clients=()) if m.name == "x" else m for m in voices["cp1"].members)
    bench = Bench(etcd=FakeEtcd(voices={n: replace(v, members=nowhere) for n, v in voices.items() if n != "x"}))
    assert "it names no address that could be asked" in (await bench.refused(others=("cp1", "cp2"))).seen


async def test_a_way_back_may_cost_anything_but_the_quorum():
    bench = Bench()
    bench.etcd.voices = {n: replace(v, alarms=(("1", "NOSPACE"),)) for n, v in bench.etcd.voices.items()}
    await spare_to_go_back(bench.shell, HOSTS[0], HOSTS, K3S)
    bench.etcd.voices["cp2"] = DOWN
    with pytest.raises(TaskError, match="etcd would lose its quorum") as caught:
        await spare_to_go_back(bench.shell, HOSTS[0], HOSTS, K3S)
    assert caught.value.failure.did == "left cp1 as it is"
    await spare_to_go_back(bench.shell, HOSTS[1], HOSTS, K3S)
