"""The etcd gate against a real etcd of three members, plain and with client certificates."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Distribution
from nixkube_deploy.protocols import quorum
from nixkube_deploy.protocols.etcd import hear
from nixkube_deploy.protocols.quorum import spare
from tests.real.etcd.members import RealEtcd, a_real_etcd, an_embedded_etcd

KUBERNETES = Distribution.KUBERNETES


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def etcd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealEtcd]:
    with a_real_etcd(tmp_path, tls=request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not mend itself need not be looked at four times."""
    monkeypatch.setattr(quorum, "LOOKS", 2)
    monkeypatch.setattr(quorum, "BETWEEN_LOOKS", 0.5)


async def spared(etcd: RealEtcd, name: str) -> str:
    return await spare(etcd, etcd.members[name].host, etcd.hosts, KUBERNETES, print)


async def refused(etcd: RealEtcd, name: str) -> Failure:
    with pytest.raises(TaskError) as caught:
        await spared(etcd, name)
    failure = caught.value.failure
    assert failure.kind is FailureKind.ETCD
    assert failure.next
    return failure


async def test_a_healthy_cluster_spares_any_voter_and_another_one_leads_from_then_on(etcd: RealEtcd):
    leader = etcd.leader()
    follower = next(name for name in etcd.members if name != leader)
    assert "leadership" not in await spared(etcd, follower)
    assert etcd.leader() == leader, "who does not lead is taken away without a move"
    told = await spared(etcd, leader)
    assert "leadership moved to" in told
    assert etcd.leader() == told.rpartition(" ")[2] != leader


async def test_a_member_that_was_killed_keeps_the_others_where_they_are(etcd: RealEtcd):
    etcd.members["cp2"].kill()
    etcd.settle(2)
    failure = await refused(etcd, "cp1")
    assert "cp1 is not touched: the etcd member of cp2 does not answer" in failure.message
    assert "2 of 3 voters serve" in failure.expected
    assert "cp2: " in failure.seen
    heard = await hear(etcd, etcd.members["cp2"].host, KUBERNETES)
    assert heard is not None, "a dead member is a dead member, not none"
    assert heard.voice.absent
    assert await spared(etcd, "cp2") == "its etcd member is down: taking it away costs no vote"
    etcd.members["cp2"].start()
    etcd.settle(3)
    assert "stay: cp2, cp3" in await spared(etcd, "cp1")


async def test_a_member_that_hangs_is_told_from_one_that_is_down(etcd: RealEtcd):
    etcd.members["cp3"].freeze()
    try:
        assert "the etcd member of cp3 does not answer" in (await refused(etcd, "cp1")).message
        assert "its own etcd member does not answer" in (await refused(etcd, "cp3")).message
    finally:
        etcd.members["cp3"].thaw()


async def test_without_a_quorum_nobody_is_touched(etcd: RealEtcd):
    etcd.members["cp2"].kill()
    etcd.members["cp3"].kill()
    assert "the etcd member of cp2 does not answer" in (await refused(etcd, "cp1")).message


async def test_a_member_on_no_host_of_ours_is_asked_at_its_client_address(etcd: RealEtcd):
    others = [host for host in etcd.hosts if host.name != "cp3"]
    cp1 = etcd.members["cp1"].host
    assert "cp3 (http" in await spare(etcd, cp1, others, KUBERNETES, print)
    etcd.members["cp3"].kill()
    with pytest.raises(TaskError) as caught:
        await spare(etcd, cp1, others, KUBERNETES, print)
    assert "the etcd member of cp3 (http" in caught.value.failure.message


async def test_a_learner_keeps_everybody_where_they_are(etcd: RealEtcd):
    net = etcd.members["cp1"].address.rpartition(".")[0]
    etcd.learner("cp4", f"http://{net}.4:2380")
    assert "has never started" in (await refused(etcd, "cp1")).message
    cluster = ",".join(f"{n}=http://{m.address}:2380" for n, m in etcd.members.items())
    etcd.add("cp4", f"{net}.4", f"{cluster},cp4=http://{net}.4:2380", "existing").start()
    deadline = time.monotonic() + 20
    while True:
        failure = await refused(etcd, "cp1")
        if "is a learner" in failure.message or time.monotonic() > deadline:
            break
    assert failure.message == "cp1 is not touched: the etcd member of cp4 is a learner"
    assert "etcdctl member promote" in failure.next
    heard = await hear(etcd, etcd.members["cp4"].host, KUBERNETES)
    assert heard is not None
    assert heard.voice.learner
    assert not heard.voice.serves


async def test_a_full_database_raises_an_alarm_that_keeps_everybody_where_they_are(tmp_path: Path):
    quota = {"ETCD_QUOTA_BACKEND_BYTES": str(4 * 1024 * 1024)}
    with a_real_etcd(tmp_path, tls=True, settings=quota) as etcd:
        assert "stay" in await spared(etcd, "cp1")
        said = ""
        for at in range(60):
            said = etcd.etcdctl("put", f"key-{at}", "x" * 100_000)
            if "space exceeded" in said:
                break
        assert "space exceeded" in said
        failure = await refused(etcd, "cp1")
        assert "alarm NOSPACE" in failure.message
        assert "etcdctl alarm disarm" in failure.next
        heard = await hear(etcd, etcd.members["cp2"].host, KUBERNETES)
        assert heard is not None
        assert str(heard.voice) == "alarm NOSPACE"


async def test_certificates_that_the_member_refuses_are_told(tmp_path: Path):
    with a_real_etcd(tmp_path, tls=True) as etcd:
        for pair in ("client", "etcd"):
            (etcd.members["cp1"].folder / "secrets" / f"{pair}.pem").unlink()
        failure = await refused(etcd, "cp1")
        assert "its own etcd member does not answer" in failure.message
        assert "certificate" in failure.seen


async def test_an_etcd_in_k3s_is_found_by_its_data_and_asked_with_its_certificates(tmp_path: Path):
    with an_embedded_etcd(tmp_path) as etcd:
        host = etcd.members["cp1"].host
        heard = await hear(etcd, host, Distribution.K3S)
        assert heard is not None
        assert str(heard.voice) == "the leader"
        assert await spare(etcd, host, etcd.hosts, Distribution.K3S, print) == "etcd voters that stay: none"
        etcd.members["cp1"].kill()
        heard = await hear(etcd, host, Distribution.K3S)
        assert heard is not None, "its data is still there"
        assert heard.voice.absent
        shutil.rmtree(tmp_path / "cp1" / "rancher" / "db")
        assert await hear(etcd, host, Distribution.K3S) is None, "a k3s on SQLite has no member"


async def test_a_host_without_etcd_is_asked_once_and_never_waits(etcd: RealEtcd):
    (etcd.members["cp1"].folder / "units" / "etcd.service").unlink()
    before = etcd.calls
    assert await spared(etcd, "cp1") == "it has no etcd member"
    assert etcd.calls == before + 1
