"""A tiny HTTP/1.1 server on loopback whose answers are scripted, and which can also behave badly on purpose."""

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from http.client import responses
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str

    @property
    def data(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """One answer; ``data`` becomes JSON, ``text`` plain text."""

    status: int = 200
    data: Any = None
    text: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str | None = "application/json"


class Behaves(Enum):
    """What a server may do instead of answering."""

    RESETS = "closes the connection"
    HANGS = "never answers"


Reaction = Says | Behaves
Script = Callable[[Asked], Reaction]


class HttpServer:
    """Answers from ``script``; ``asked`` lists every request."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script, self.tls = script, tls
        self.asked: list[Asked] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["HttpServer"]:
        """Listen for the length of the block; a second time it takes the same port again."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        async with listener, anyio.create_task_group() as group:
            self.port = listener.extra(SocketAttribute.local_port)
            group.start_soon(listener.serve, self._serve)
            yield self
            group.cancel_scope.cancel()

    async def _serve(self, plain: SocketStream) -> None:
        stream: ByteStream = plain
        async with plain:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ssl.SSLError):
                if self.tls is not None:
                    stream = await TLSStream.wrap(plain, ssl_context=self.tls, standard_compatible=False)
                await self._talk(stream)

    async def _talk(self, stream: ByteStream) -> None:
        while (asked := await _read(stream)) is not None:
            self.asked.append(asked)
            match self.script(asked):
                case Says() as says:
                    await stream.send(_wire(says))
                case Behaves.HANGS:
                    await anyio.sleep_forever()
                case Behaves.RESETS:
                    return


async def _read(stream: ByteStream) -> Asked | None:
    received = b""
    while b"\r\n\r\n" not in received:
        try:
            received += await stream.receive()
        except anyio.EndOfStream:
            return None
    head, _, body = received.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    while len(body) < int(headers.get("content-length", "0")):
        body += await stream.receive()
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query))
    return Asked(method=method, path=parts.path, query=query, headers=headers, body=body.decode())


def _wire(says: Says) -> bytes:
    body = (says.text if says.text is not None else json.dumps(says.data)).encode()
    headers = {"Content-Length": str(len(body)), **says.headers}
    if says.content_type is not None:
        headers["Content-Type"] = says.content_type
    lines = [f"HTTP/1.1 {says.status} {responses.get(says.status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
