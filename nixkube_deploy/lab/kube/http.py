"""As much HTTP/1.1 as an API server on loopback needs: requests with bodies, keep-alive, chunked streams.

It deliberately knows no Kubernetes, no TLS and no HTTP/2.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

JSON = "application/json"

_MAX_HEAD = 64 * 1024
_MAX_BODY = 3 * 1024 * 1024
_REASONS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    409: "Conflict",
    410: "Gone",
    413: "Payload Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class BadHttp(Exception):  # noqa: N818 (what arrived)
    """The bytes are no request this server takes; the connection is closed after the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. Header names are lower case; of a repeated query parameter the last counts."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def keeps_alive(self) -> bool:
        """Whether the client wants the connection to stay."""
        return self.headers.get("connection", "").lower() != "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer: a whole body, or a stream that is sent in chunks as it comes."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None


def json_response(status: int, data: Any, **headers: str) -> Response:
    """An answer of JSON."""
    body = json.dumps(data, separators=(",", ":")).encode()
    return Response(status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """The next request of a connection; None when the client is done.

    Raises:
        BadHttp: what came is not HTTP/1.1, or too large.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except asyncio.LimitOverrunError as error:
        raise BadHttp(400, "the request head is too large") from error
    method, target, headers = _parse_head(head)
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await _read_body(reader, headers)
    url = urlsplit(target)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return Request(method=method, path=unquote(url.path), query=query, headers=headers, body=body)


async def write_response(writer: asyncio.StreamWriter, response: Response) -> None:
    """Send an answer, streaming it when it is a stream."""
    head = {"Content-Type": response.content_type, "Cache-Control": "no-cache, private", **response.headers}
    if response.stream is None:
        head["Content-Length"] = str(len(response.body))
    else:
        head["Transfer-Encoding"] = "chunked"
    lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in head.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + response.body)
    await writer.drain()
    if response.stream is not None:
        async for chunk in response.stream:
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    if len(head) > _MAX_HEAD:
        raise BadHttp(400, "the request head is too large")
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):  # noqa: PLR2004 (method, target, version)
        raise BadHttp(400, "malformed request line")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadHttp(400, "malformed header")
        headers[name.strip().lower()] = value.strip()
    return parts[0], parts[1], headers


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await _read_chunks(reader)
        length = int(headers.get("content-length", "0"))
        if length > _MAX_BODY:
            raise BadHttp(413, "the request body is too large")
        return await reader.readexactly(length)
    except (ValueError, asyncio.IncompleteReadError) as error:
        raise BadHttp(400, "the request body is malformed") from error


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        chunk = await reader.readexactly(size + 2)
        if size == 0:
            return body
        body += chunk[:-2]
        if len(body) > _MAX_BODY:
            raise BadHttp(413, "the request body is too large")
