"""The control socket of a running lab: one JSON line asks, JSON lines answer.

It carries requests of ``nixkube-lab`` and of the stand-ins; it decides nothing about the world itself.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nixkube_deploy.lab.faults import FaultError
from nixkube_deploy.lab.tools.table import TOOLS, run_tool
from nixkube_deploy.lab.tools.workshop import ToolCall, Workshop
from nixkube_deploy.lab.world import World

LONGEST_PATH = 100
"""Bytes that fit into a UNIX socket's address."""
_LIMIT = 1 << 22

Answer = dict[str, Any]


class NotRunning(Exception):  # noqa: N818 (reads as a sentence)
    """Nobody listens on the lab's socket."""


def socket_path(folder: Path) -> Path:
    """Where the socket of a lab lies: in its folder, or where paths are short enough for a socket."""
    short = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    own = f"nixkube-lab-{os.getuid()}-{short}"
    places = (folder, Path(tempfile.gettempdir()) / own, Path("/tmp") / own)  # noqa: S108 (private to its owner)
    paths = [place / "control.sock" for place in places]
    return next((path for path in paths if len(os.fsencode(path)) <= LONGEST_PATH), paths[-1])


def ask(folder: Path, request: Answer, *, timeout: float = 30.0) -> Iterator[Answer]:
    """Every answer to one request; raises NotRunning."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(timeout)
        try:
            link.connect(os.fspath(socket_path(folder)))
            link.sendall(json.dumps(request).encode() + b"\n")
            with link.makefile(encoding="utf-8") as lines:
                for line in lines:
                    yield json.loads(line)
        except OSError as error:
            raise NotRunning(str(error)) from None


@dataclass(slots=True)
class ControlServer:
    """The daemon's end."""

    world: World
    stop: Callable[[], None]
    _server: asyncio.Server | None = None
    _workshop: Workshop | None = field(default=None)

    async def start(self) -> None:
        """Listen; only the owner may connect."""
        path = socket_path(self.world.folder)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        world = self.world
        self._workshop = Workshop(
            store=world.store, faults=world.faults, hosts=world.hosts, keyring=world.keyring, changed=world.touch
        )
        self._server = await asyncio.start_unix_server(self._connection, path, limit=_LIMIT)
        path.chmod(0o600)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        socket_path(self.world.folder).unlink(missing_ok=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(await reader.readline() or b"{}")
            if request.get("op") == "tool":
                await self._tool(request, reader, writer)
            else:
                _send(writer, await self._answer(request))
            await writer.drain()
        except (ConnectionError, json.JSONDecodeError):
            pass  # Whoever asked is gone, or never was one of ours.
        finally:
            writer.close()

    async def _tool(self, request: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A stand-in ends when the program that started it is killed, as a child would."""
        assert self._workshop is not None
        if request["tool"] not in TOOLS:
            _send(writer, {"err": f"{request['tool']}: no such program\n"})
            _send(writer, {"exit": 127})
            return
        call = ToolCall(
            argv=tuple(request["argv"]),
            env=request["env"],
            cwd=Path(request["cwd"]),
            workshop=self._workshop,
            out=lambda text: _send(writer, {"out": text}),
            err=lambda text: _send(writer, {"err": text}),
        )
        work = asyncio.ensure_future(run_tool(request["tool"], call))
        gone = asyncio.ensure_future(reader.read(1))
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not work.done():
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            return
        _send(writer, {"exit": work.result()})

    async def _answer(self, request: Answer) -> Answer:
        world = self.world
        try:
            match request.get("op"):
                case "status":
                    return {
                        "hosts": world.status(),
                        "faults": [str(fault) for fault in world.faults.faults],
                        **_about(world),
                    }
                case "pulse":
                    return {"hosts": world.pulse()}
                case "fault-add":
                    added = [world.add_fault(spec) for spec in request["specs"]]
                    for fault in added:
                        await world.refresh(fault.host)
                    return {"added": [str(fault) for fault in added]}
                case "fault-clear":
                    gone = await world.clear_faults(request.get("host"), request.get("kind"))
                    return {"cleared": [str(fault) for fault in gone]}
                case "stop":
                    self.stop()
                    return {"stopping": True, "pid": os.getpid()}
                case other:
                    return {"error": f"no such request: {other}"}
        except FaultError as error:
            return {"error": str(error), "hint": error.hint}


def _about(world: World) -> Answer:
    return {"pid": os.getpid(), "kubernetes": world.kube_url, "wishes": asdict(world.wishes)}


def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(answer).encode() + b"\n")
