"""The lab's API server on a loopback socket: connections, watches as streams, and the faults of a server.

It deliberately decides nothing about objects; ``api`` and ``KubeState`` do. It does not tick the state either.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

from nixkube_deploy.lab.kube.api import Watch, error_response, handle, wrap
from nixkube_deploy.lab.kube.errors import ApiError
from nixkube_deploy.lab.kube.faults import KubeFaults
from nixkube_deploy.lab.kube.http import BadHttp, Request, Response, json_response, read_request, write_response
from nixkube_deploy.lab.kube.listing import chosen, events_since, page, wants_initial, watch_start
from nixkube_deploy.lab.kube.routes import Target
from nixkube_deploy.lab.kube.selectors import Predicate
from nixkube_deploy.lab.kube.state import KubeState
from nixkube_deploy.lab.kube.store import Change, Object
from nixkube_deploy.lab.kube.users import Accounts

_WATCH_SECONDS = 1800.0
_BOOKMARK_SECONDS = 5.0
_READ_LIMIT = 1024 * 1024
_LOOK_SECONDS = 0.05


class KubeServer:
    """Serves one ``KubeState`` over HTTP, or HTTPS with ``tls``. Without accounts everybody is the administrator."""

    def __init__(
        self, state: KubeState, *, accounts: Accounts | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.state = state
        self.faults = KubeFaults()
        self.accounts = accounts or Accounts(open_to_all=True)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Event()
        self._unsubscribe = state.subscribe(self._wake)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; the answer is the URL."""
        self._server = await asyncio.start_server(self._connection, host, port, limit=_READ_LIMIT, ssl=self._tls)
        address, bound = self._server.sockets[0].getsockname()[:2]
        return f"{'http' if self._tls is None else 'https'}://{address}:{bound}"

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        self._unsubscribe()
        if self._server is not None:
            self._server.close()
        self.drop_connections()
        if self._server is not None:
            await self._server.wait_closed()

    def take_down(self, seconds: float) -> None:
        """The server is gone for a while: what is open breaks, what is tried is reset."""
        self.faults.api_down_until = self.state.now + seconds
        self.drop_connections()

    def drop_connections(self) -> None:
        """Reset everything that is open."""
        for writer in tuple(self._connections):
            _abort(writer)

    def fall_silent(self, seconds: float) -> None:
        """The server is there and says nothing for a while, as over a half-open connection."""
        self.faults.silent_until = self.state.now + seconds

    @property
    def is_silent(self) -> bool:
        """Whether requests wait for their answers now."""
        return self.state.now < self.faults.silent_until

    @property
    def is_down(self) -> bool:
        """Whether connections are reset now."""
        return self.state.now < self.faults.api_down_until

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while not self.is_down and await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # The client went away, which is its right.
        finally:
            self._connections.discard(writer)
            if self.is_down:
                _abort(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection stays."""
        try:
            request = await read_request(reader, writer)
        except BadHttp as error:
            status = ApiError(error.status, "BadRequest", str(error)).status()
            await write_response(writer, json_response(error.status, status, Connection="close"))
            return False
        if request is None or self.is_down:
            return False
        if self.faults.delay:
            await asyncio.sleep(self.faults.delay)
        await self._be_silent(reader)
        if self.is_down:
            return False
        answer = self._answer(request, reader, writer.get_extra_info("peercert"))
        await write_response(writer, answer)
        return request.keeps_alive

    async def _be_silent(self, reader: asyncio.StreamReader) -> None:
        while self.is_silent:
            if self.is_down or reader.at_eof():
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _answer(self, request: Request, reader: asyncio.StreamReader, certificate: Any) -> Response:
        """Authentication first, then the faults, before any object is looked at."""
        try:
            user = self.accounts.user_of(request, certificate, self.state.store)
            if (scripted := self.faults.answer(request)) is not None:
                return scripted
            answer = handle(self.state, request, user)
            if isinstance(answer, Response):
                return answer
            return Response(stream=self._stream(answer, watch_start(answer.query), reader))
        except ApiError as error:
            return error_response(error)

    async def _stream(self, watch: Watch, start: int | None, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """Events as JSON lines until the time is up or the client is gone.

        A revision that is forgotten is told in the stream, too, as a server does once it has accepted the watch.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + float(watch.query.get("timeoutSeconds") or _WATCH_SECONDS)
        selects, bookmarks = chosen(watch.target, watch.query), watch.query.get("allowWatchBookmarks") in {"1", "true"}
        seen = self.state.store.version if start is None else start
        if start is None:
            plain = {k: v for k, v in watch.query.items() if k in {"fieldSelector", "labelSelector"}}
            for obj in page(self.state, watch.target, plain).items:
                yield self._line("ADDED", watch, obj)
            if bookmarks and wants_initial(watch.query):
                yield _bookmark(watch.target, seen, {"k8s.io/initial-events-end": "true"})
        bookmark = loop.time() + _BOOKMARK_SECONDS
        while loop.time() < ends and not reader.at_eof() and not self.is_down:
            changed = self._changed
            # Both in one breath: what is written while the lines go out belongs to the next round.
            try:
                news = self._news(watch, seen, selects)
                seen = max(seen, self.state.store.version)
            except ApiError as error:
                yield _event("ERROR", error.status())
                return
            for kind, obj in news:
                yield self._line(kind, watch, obj)
            if bookmarks and loop.time() >= bookmark:
                bookmark = loop.time() + _BOOKMARK_SECONDS
                yield _bookmark(watch.target, seen)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(1.0, max(0.0, ends - loop.time())))

    def _news(self, watch: Watch, seen: int, selects: Predicate) -> list[tuple[str, Object]]:
        return list(events_since(self.state, watch.target.resource.plural, seen, selects))

    def _line(self, kind: str, watch: Watch, obj: dict[str, Any]) -> bytes:
        shown = wrap(self.state, watch.target, obj, as_table=watch.as_table)
        return _event(kind, shown)

    def _wake(self, _change: Change) -> None:
        """Let every waiting watch look at the log."""
        if not self._changed.is_set():
            self._changed.set()
            self._changed = asyncio.Event()


def _bookmark(target: Target, version: int, annotations: Mapping[str, str] | None = None) -> bytes:
    meta: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = annotations
    obj = {"kind": target.resource.kind, "apiVersion": target.resource.api_version, "metadata": meta}
    return _event("BOOKMARK", obj)


def _event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"


def _abort(writer: asyncio.StreamWriter) -> None:
    """Reset rather than close, as a server that died does."""
    writer.transport.abort()
