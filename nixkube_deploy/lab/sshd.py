"""One host's SSH server: real protocol, real host key, public-key logins, forwarding for jump hosts.

It runs commands through the host's shell and knows none of them. A reboot closes the port; a fault may too.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from nixkube_deploy.lab.host import LabHost, home_of
from nixkube_deploy.lab.shell import Exit, Streams

VERSION = "OpenSSH_10.2"
_LOOPBACK = "127.0.0.1"
_DISCONNECT_AFTER = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Host keys by name, and the one public key that may log in."""

    host_key: Callable[[str], asyncssh.SSHKey]
    wrong: asyncssh.SSHKey
    authorized: asyncssh.SSHKey


@dataclass(slots=True)
class SshPort:
    """The port of one host. Open and closed many times, always with the same number."""

    host: LabHost
    keys: Keys
    may_forward_to: Callable[[str, int], bool]
    _acceptor: asyncssh.SSHAcceptor | None = None
    _silent: asyncio.Server | None = None
    connections: set[asyncssh.SSHServerConnection] = field(default_factory=set)

    async def open(self) -> None:
        """Listen, unless a fault forbids it."""
        await self._stop_listening()
        fault = self.host.setting.faults.peek(self.host.name, "unreachable")
        port = self.host.machine.port
        if fault is not None and fault.remaining is None:
            if fault.argument == "silent":
                self._silent = await asyncio.start_server(_say_nothing, _LOOPBACK, port)
            return
        self._acceptor = await asyncssh.listen(
            _LOOPBACK,
            port,
            server_factory=lambda: _Server(self),
            process_factory=self._serve,
            server_host_keys=[self._host_key()],
            server_version=VERSION,
            encoding="utf-8",
            errors="replace",
            agent_forwarding=False,
            gss_host=None,
            login_timeout=60,
            reuse_address=True,
        )

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        await self._stop_listening()
        for connection in tuple(self.connections):
            connection.abort()
        self.connections.clear()

    async def _stop_listening(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
            self._acceptor = None
        if self._silent is not None:
            self._silent.close()
            self._silent = None

    def _host_key(self) -> asyncssh.SSHKey:
        if self.host.setting.faults.peek(self.host.name, "wrong-host-key"):
            return self.keys.wrong
        return self.keys.host_key(self.host.machine.host_key)

    async def _serve(self, process: "asyncssh.SSHServerProcess[str]") -> None:
        """One session: a command, or a shell."""
        user = str(process.get_extra_info("username"))
        session = _Session(self, process, user)
        with contextlib.suppress(asyncio.CancelledError, BrokenPipeError, ConnectionError, asyncssh.Error):
            await session.run()


@dataclass(slots=True)
class _Session:
    """One channel of one connection."""

    port: SshPort
    process: "asyncssh.SSHServerProcess[str]"
    user: str

    async def run(self) -> None:
        host = self.port.host
        slow = host.fault("slow")
        if slow is not None:
            await asyncio.sleep(slow.seconds)
        command = self.process.command
        if command is None:
            work = self._interactive() if self.process.term_type else self._from_input()
        elif host.setting.faults.take_text(host.name, "disconnect-during", command):
            await self._disconnect_during(command)
            return
        else:
            work = host.execute(self.user, command, self._streams())
        # The process belongs to the machine, not to the connection: it ends with its boot.
        code = await host.process(work)
        self.process.exit(code & 255)

    async def _disconnect_during(self, command: str) -> None:
        """The command goes on without its audience."""
        self.port.host.process(self.port.host.execute(self.user, command, Streams(stdin=_Silence())))
        await asyncio.sleep(_DISCONNECT_AFTER)
        self.process.channel.get_connection().abort()

    def _streams(self) -> Streams:
        return Streams(
            stdin=_ChannelInput(self.process.stdin),
            out=_writer(self.process.stdout),
            err=_writer(self.process.stderr),
        )

    async def _from_input(self) -> int:
        """A login without terminal and command: a script on standard input."""
        streams = self._streams()
        script = await streams.stdin.read()
        return await self.port.host.execute(self.user, script, Streams(out=streams.out, err=streams.err))

    async def _interactive(self) -> int:
        host, streams = self.port.host, self._streams()
        shell = host.shell(self.user)
        home = home_of(self.user)
        prompt = f"[{self.user}@{host.machine.hostname}:{'~' if shell.env['PWD'] == home else home}]"
        prompt += "# " if self.user == "root" else "$ "
        while True:
            streams.out(prompt)
            try:
                line = await self.process.stdin.readline()
            except asyncssh.BreakReceived:
                streams.out("^C\n")
                continue
            except asyncssh.TerminalSizeChanged:
                continue
            if not line:
                streams.out("logout\n")
                return shell.status
            try:
                await shell.interpret(line, streams)
            except Exit as request:
                streams.out("logout\n")
                return request.code


class _Silence:
    """Input from a connection that is gone."""

    async def read(self) -> str:
        return ""

    async def readline(self) -> str:
        return ""


@dataclass(slots=True)
class _ChannelInput:
    """A channel's input; a lost connection is its end."""

    reader: "asyncssh.SSHReader[str]"

    async def read(self) -> str:
        parts: list[str] = []
        try:
            while chunk := await self.reader.read(65536):
                parts.append(chunk)
        except (OSError, asyncssh.Error, asyncssh.BreakReceived, asyncssh.SignalReceived):
            pass
        return "".join(parts)

    async def readline(self) -> str:
        try:
            return await self.reader.readline()
        except (OSError, asyncssh.Error, asyncssh.BreakReceived, asyncssh.SignalReceived):
            return ""


def _writer(stream: "asyncssh.SSHWriter[str]") -> Callable[[str], None]:
    """Output that nobody reads any more is dropped: the program goes on until it ends by itself."""

    def write(text: str) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            stream.write(text)

    return write


class _Server(asyncssh.SSHServer):
    """One connection's questions: who may log in, what may be forwarded."""

    def __init__(self, port: SshPort) -> None:
        self._port = port
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._port.connections.add(conn)
        if self._port.host.fault("unreachable"):
            conn.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncssh's signature)
        if self._connection is not None:
            self._port.connections.discard(self._connection)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        host = self._port.host
        if username not in host.users or key.public_data != self._port.keys.authorized.public_data:
            return False
        return host.setting.faults.peek(host.name, "auth-refused") is None

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:  # noqa: ARG002
        if self._port.may_forward_to(dest_host, dest_port):
            return True
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "Connection refused")


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A host that is there for TCP and for nothing else."""
    with contextlib.suppress(OSError):
        await reader.read()
    writer.close()
