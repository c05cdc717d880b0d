"""The gates' GET against a real socket."""

import time

import pytest

from nixkube_deploy.backends.web.get import BODY_LIMIT, ThreadedWeb
from tests.fakes.http_server import Behaves, HttpServer, Says

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.mark.parametrize("status", [200, 204, 404, 500, 503])
async def test_every_status_is_an_answer(status: int) -> None:
    async with HttpServer(lambda _: Says(status=status, text="" if status == 204 else "body")).running() as server:
        answer = await ThreadedWeb().get(f"{server.url}/healthz?x=1", 5)

    assert (answer.status, answer.error) == (status, "")
    assert server.asked[0].query == {"x": "1"}


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    script = Says(status=302, text="", headers={"Location": "/elsewhere"})
    async with HttpServer(lambda _: script).running() as server:
        answer = await ThreadedWeb().get(server.url, 5)

    assert answer.status == 302
    assert server.lines == ["GET /"]


async def test_a_long_body_is_cut() -> None:
    async with HttpServer(lambda _: Says(text="x" * (BODY_LIMIT + 10))).running() as server:
        assert len((await ThreadedWeb().get(server.url, 5)).body) == BODY_LIMIT


async def test_nobody_listening_is_an_error_in_words() -> None:
    server = HttpServer(lambda _: Says())
    async with server.running():
        pass

    assert "refused" in (await ThreadedWeb().get(server.url, 5)).error


async def test_a_server_that_hangs_costs_the_timeout_and_no_more() -> None:
    began = time.monotonic()
    async with HttpServer(lambda _: Behaves.HANGS).running() as server:
        answer = await ThreadedWeb().get(server.url, 0.2)

    assert answer.error
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/", "data:,x", "nonsense", "http://[bad/"])
async def test_only_http_is_spoken(url: str) -> None:
    answer = await ThreadedWeb().get(url, 1)

    assert answer.status == 0
    assert answer.error
    assert "root:" not in answer.body
