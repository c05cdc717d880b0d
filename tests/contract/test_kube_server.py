"""The lab's API server as lightkube and plain HTTP see it: the client library the product uses, and the faults."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx2
import pytest
from lightkube import AsyncClient
from lightkube.config.kubeconfig import KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import Node, Pod
from lightkube.resources.policy_v1 import PodDisruptionBudget

from nixkube_deploy.lab.kube import ADMIN, Accounts, KubeServer, KubeState, Timing

START = 1_700_000_000.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def server() -> AsyncIterator[KubeServer]:
    state = KubeState(now=START, timing=Timing(pod_start=0.0))
    for name in ("w1", "w2", "w3"):
        state.register_node(name, machine_id=name, boot_id=name)
    state.seed(("w1", "w2", "w3"))
    for _ in range(10):
        state.tick(state.now + 0.1)
    server = KubeServer(state)
    yield server
    await server.close()


def client(url: str) -> AsyncClient:
    config = KubeConfig.from_dict(
        {
            "clusters": [{"name": "lab", "cluster": {"server": url}}],
            "users": [{"name": "lab", "user": {"token": "unused"}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "current-context": "lab",
        }
    )
    return AsyncClient(config=config, trust_env=False)


async def test_lightkube_lists_patches_and_evicts(server: KubeServer) -> None:
    lightkube = client(await server.start())
    nodes = [n.metadata.name async for n in lightkube.list(Node)]
    assert nodes == ["w1", "w2", "w3"]
    patched = await lightkube.patch(Node, "w1", {"spec": {"unschedulable": True}})
    assert patched.spec.unschedulable
    pods = [p async for p in lightkube.list(Pod, namespace="*", fields={"spec.nodeName": "w1"}, chunk_size=2)]
    assert len(pods) == len(server.state.store.pods_on("w1"))
    budgets = [b async for b in lightkube.list(PodDisruptionBudget, namespace="*")]
    assert budgets[0].status.disruptionsAllowed == 1
    webs = [p for p in server.state.store.all("pods") if p["metadata"]["labels"]["app"] == "web"]
    first, second = (p["metadata"]["name"] for p in webs[:2])
    eviction = Pod.Eviction(metadata=ObjectMeta(name=first, namespace="default"))
    await lightkube.create(eviction, first, namespace="default")
    with pytest.raises(ApiError) as refused:
        await lightkube.create(Pod.Eviction(metadata=ObjectMeta(name=second)), second, namespace="default")
    assert refused.value.status.code == 429
    assert refused.value.status.details.causes[0].reason == "DisruptionBudget"
    await lightkube.close()


async def test_lightkube_takes_and_loses_a_lease(server: KubeServer) -> None:
    lightkube = client(await server.start())
    meta = ObjectMeta(name="lock", namespace="kube-system")
    made = await lightkube.create(Lease(metadata=meta, spec=LeaseSpec(holderIdentity="a", leaseDurationSeconds=30)))
    made.spec.holderIdentity = "b"
    await lightkube.replace(made)
    with pytest.raises(ApiError) as late:
        await lightkube.replace(made)
    assert late.value.status.reason == "Conflict"
    await lightkube.close()


async def test_a_watch_tells_what_happens_from_a_revision_on(server: KubeServer) -> None:
    lightkube = client(await server.start())
    seen: list[tuple[str, str]] = []
    version = str(server.state.store.version)

    async def watch() -> None:
        async for kind, node in lightkube.watch(Node, resource_version=version):
            seen.append((kind, node.metadata.name))
            if len(seen) == 2:
                return

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            server.state.set_cordon("w2", unschedulable=True)
            server.state.store.remove(server.state.find("Node", "w3"))
    assert seen == [("MODIFIED", "w2"), ("DELETED", "w3")]
    await lightkube.close()


async def test_a_watch_with_a_selector_sees_objects_enter_and_leave(server: KubeServer) -> None:
    url = await server.start()
    lines: list[tuple[str, str]] = []

    async def watch(session: httpx2.AsyncClient, started: anyio.Event) -> None:
        query = {"watch": "1", "fieldSelector": "spec.unschedulable=true", "timeoutSeconds": "1"}
        async with session.stream("GET", f"{url}/api/v1/nodes", params=query) as answer:
            started.set()
            async for line in answer.aiter_lines():
                event = json.loads(line)
                lines.append((event["type"], event["object"]["metadata"]["name"]))

    async with httpx2.AsyncClient(trust_env=False) as session, anyio.create_task_group() as group:
        started = anyio.Event()
        group.start_soon(watch, session, started)
        await started.wait()
        server.state.set_cordon("w2", unschedulable=True)
        server.state.set_cordon("w2", unschedulable=False)
    assert lines == [("ADDED", "w2"), ("DELETED", "w2")]


async def watched(url: str, what: str, **query: str) -> list[dict[str, Any]]:
    """Everything a watch says within a moment."""
    async with httpx2.AsyncClient(trust_env=False) as session:
        answer = await session.get(f"{url}/api/v1/{what}", params={"watch": "1", "timeoutSeconds": "0.3", **query})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_watch_from_a_forgotten_revision_is_told_so_in_its_stream(server: KubeServer) -> None:
    url = await server.start()
    server.state.store.compact()
    server.state.set_cordon("w1", unschedulable=True)
    (event,) = await watched(url, "nodes", resourceVersion="5")
    assert event["type"] == "ERROR"
    assert (event["object"]["kind"], event["object"]["code"], event["object"]["reason"]) == ("Status", 410, "Expired")


async def test_lightkube_understands_that_a_revision_is_forgotten(server: KubeServer) -> None:
    lightkube = client(await server.start())
    server.state.store.compact()
    server.state.set_cordon("w1", unschedulable=True)
    with pytest.raises(ApiError) as expired:
        async for _ in lightkube.watch(Node, resource_version="5"):
            pass
    assert expired.value.status.code == 410
    await lightkube.close()


async def test_a_watch_goes_on_exactly_where_a_list_ended(server: KubeServer) -> None:
    url = await server.start()
    async with httpx2.AsyncClient(trust_env=False) as session:
        listed = (await session.get(f"{url}/api/v1/nodes")).json()["metadata"]["resourceVersion"]
    for cordoned in (True, False):
        server.state.set_cordon("w2", unschedulable=cordoned)
    events = await watched(url, "nodes", resourceVersion=listed)
    assert [(e["type"], e["object"]["spec"]["unschedulable"]) for e in events] == [
        ("MODIFIED", True),
        ("MODIFIED", False),
    ]
    versions = [int(e["object"]["metadata"]["resourceVersion"]) for e in events]
    assert versions == [int(listed) + 1, int(listed) + 2]
    assert await watched(url, "nodes", resourceVersion=str(versions[-1])) == []


async def test_a_streaming_list_ends_with_a_bookmark(server: KubeServer) -> None:
    url = await server.start()
    wants = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    *nodes, last = await watched(url, "nodes", **wants)
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in nodes] == [("ADDED", f"w{n}") for n in (1, 2, 3)]
    assert last["type"] == "BOOKMARK"
    assert last["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert last["object"]["metadata"]["resourceVersion"] == str(server.state.store.version)


async def test_a_quiet_watch_gets_bookmarks(server: KubeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nixkube_deploy.lab.kube.server._BOOKMARK_SECONDS", 0.0)
    url, version = await server.start(), str(server.state.store.version)
    server.state.store.put(server.state.find("Pod", "db-0", "default"))
    events = await watched(url, "nodes", resourceVersion=version, allowWatchBookmarks="true")
    assert {e["type"] for e in events} == {"BOOKMARK"}
    assert events[0]["object"]["metadata"]["resourceVersion"] == str(server.state.store.version)
    assert await watched(url, "nodes", resourceVersion=version) == []


@pytest.mark.parametrize("query", [{"resourceVersion": "x"}, {"sendInitialEvents": "true"}])
async def test_a_watch_that_makes_no_sense_is_a_bad_request(server: KubeServer, query: dict[str, str]) -> None:
    url = await server.start()
    async with httpx2.AsyncClient(trust_env=False) as session:
        answer = await session.get(f"{url}/api/v1/nodes", params={"watch": "1", **query})
    assert (answer.status_code, answer.json()["reason"]) == (400, "BadRequest")


async def test_a_server_that_is_down_resets_connections_and_comes_back(server: KubeServer) -> None:
    url = await server.start()
    async with httpx2.AsyncClient(trust_env=False) as session:
        assert (await session.get(f"{url}/healthz")).text == "ok"
        server.take_down(5)
        with pytest.raises(httpx2.TransportError):
            await session.get(f"{url}/healthz")
        server.state.tick(server.state.now + 6)
        assert (await session.get(f"{url}/healthz")).text == "ok"


async def test_scripted_errors_are_answered_and_used_up(server: KubeServer) -> None:
    url = await server.start()
    server.faults.throttled, server.faults.server_errors = 1, 1
    async with httpx2.AsyncClient(trust_env=False) as session:
        throttled = await session.get(f"{url}/api/v1/nodes")
        failed = await session.get(f"{url}/api/v1/nodes")
        fine = await session.get(f"{url}/api/v1/nodes")
    assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "1")
    assert throttled.headers["content-type"].startswith("text/plain")
    assert (failed.status_code, failed.json()["reason"]) == (500, "InternalError")
    assert fine.status_code == 200


async def test_a_token_is_needed_where_one_is_set() -> None:
    server = KubeServer(KubeState(now=START), accounts=Accounts(tokens={"sesame": ADMIN}))
    url = await server.start()
    async with httpx2.AsyncClient(trust_env=False) as session:
        assert (await session.get(f"{url}/api/v1/nodes")).status_code == 401
        right = await session.get(f"{url}/api/v1/nodes", headers={"Authorization": "Bearer sesame"})
        assert right.status_code == 200
    await server.close()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"400"),
        (b"POST /api/v1/nodes HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"POST /api/v1/nodes HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
    ],
)
async def test_bytes_that_are_no_request_are_answered_and_the_connection_is_closed(
    server: KubeServer, raw: bytes, status: bytes
) -> None:
    url = httpx2.URL(await server.start())
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(raw)
    answer = await reader.read()
    assert answer.split(b" ")[1] == status
    writer.close()


async def test_a_chunked_body_is_read(server: KubeServer) -> None:
    url = await server.start()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"metadata":'
        yield b'{"name":"tmp"}}'

    async with httpx2.AsyncClient(trust_env=False) as session:
        answer = await session.post(
            f"{url}/api/v1/namespaces", content=body(), headers={"Content-Type": "application/json"}
        )
    assert answer.status_code == 201


async def test_one_connection_serves_many_requests(server: KubeServer) -> None:
    url = await server.start()
    async with httpx2.AsyncClient(trust_env=False, limits=httpx2.Limits(max_connections=1)) as session:
        for _ in range(20):
            assert (await session.get(f"{url}/api/v1/nodes")).status_code == 200
