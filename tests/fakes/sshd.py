"""Real SSH servers on loopback: scripted ones in this process, and OpenSSH's where it is installed.

They speak the protocol and run tiny programs; what a NixOS host would answer is the lab's business.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import asyncssh

from nixkube_deploy.model.fleet import Host, SshSettings
from nixkube_deploy.model.names import HostName

Process = asyncssh.SSHServerProcess
Program = Callable[[Process, list[str]], Awaitable[int | None]]
"""Gets the process and its argv; returns the exit code, or None when it ended the process itself."""


@dataclass
class Sshd:
    """A server that listens, and what a client needs to know of it."""

    port: int
    host_key: str
    """Public key, one line."""
    identity_file: str
    """A private key that may log in."""
    user: str = "root"
    commands: list[str] = field(default_factory=list)
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    """Every connection ever authenticated, dead ones too."""
    running: set[asyncio.Task[None]] = field(default_factory=set)
    handshakes: int = 0
    """Clients that are authenticating right now."""
    most_at_once: int = 0

    def host(self, name: str = "w1", **ssh: object) -> Host:
        """This server as a host of an inventory, its key pinned unless said otherwise."""
        settings = {
            "user": self.user,
            "port": self.port,
            "identity_file": self.identity_file,
            "host_key": self.host_key,
            "config": "none",
            "connect_timeout": 5.0,
            **ssh,
        }
        return Host(name=HostName(name), address="127.0.0.1", groups=(), ssh=SshSettings(**settings))

    @property
    def alive(self) -> int:
        return sum(not connection.is_closed() for connection in self.connections)


class _Server(asyncssh.SSHServer):
    def __init__(self, sshd: Sshd) -> None:
        self.sshd = sshd

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.conn = conn

    def begin_auth(self, username: str) -> bool:
        self.sshd.handshakes += 1
        self.sshd.most_at_once = max(self.sshd.most_at_once, self.sshd.handshakes)
        return True

    def auth_completed(self) -> None:
        self.sshd.connections.append(self.conn)
        self.sshd.handshakes -= 1

    def connection_requested(self, *_: object) -> bool:
        return True


@asynccontextmanager
async def scripted_sshd(
    directory: Path,
    programs: dict[str, Program] | None = None,
    *,
    name: str = "sshd",
    user: str = "root",
    host_key: object = None,
) -> AsyncIterator[Sshd]:
    """A server in this process. A command without a program gets 127; ``sh -c`` runs a real shell."""
    own_key = asyncssh.generate_private_key("ssh-ed25519")
    identity = directory / f"{name}-key"
    write_key(identity)
    sshd = Sshd(port=0, host_key=public_line(own_key), identity_file=str(identity), user=user)
    table = {**PROGRAMS, **(programs or {})}

    async def serve(process: Process) -> None:
        command = process.command or ""
        sshd.commands.append(command)
        task = asyncio.ensure_future(answer(process, command))
        sshd.running.add(task)
        task.add_done_callback(sshd.running.discard)
        await asyncio.wait({task})

    async def answer(process: Process, command: str) -> None:
        argv = shlex.split(command)
        program = table.get(argv[0]) if argv else None
        if program is None:
            process.stderr.write(f"sh: {command}: command not found\n".encode())
            process.exit(127)
            return
        try:
            code = await program(process, argv)
        except (asyncssh.Error, OSError):
            return
        if code is not None:
            process.exit(code)

    acceptor = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: _Server(sshd),
        server_host_keys=[host_key or own_key],
        authorized_client_keys=asyncssh.import_authorized_keys((directory / f"{name}-key.pub").read_text()),
        process_factory=serve,
        encoding=None,
        gss_host=None,
    )
    sshd.port = acceptor.get_port()
    try:
        yield sshd
    finally:
        acceptor.close()
        for connection in sshd.connections:
            connection.abort()
        await acceptor.wait_closed()
        await asyncio.gather(*sshd.running, return_exceptions=True)


# Programs.


async def echo(process: Process, argv: list[str]) -> int:
    process.stdout.write(" ".join(argv[1:]).encode() + b"\n")
    return 0


async def cat(process: Process, argv: list[str]) -> int:
    while data := await process.stdin.read(65536):
        process.stdout.write(data)
    return 0


async def true(process: Process, argv: list[str]) -> int:
    return 0


async def false(process: Process, argv: list[str]) -> int:
    return 1


async def die(process: Process, argv: list[str]) -> None:
    """The connection is lost in the middle of the command."""
    process.stdout.write(b"half\n")
    await asyncio.sleep(0.01)
    process.channel.get_connection().abort()


async def hang(process: Process, argv: list[str]) -> None:
    process.stdout.write(b"working\n")
    await process.stdin.read()
    await process.wait_closed()


async def keep(process: Process, argv: list[str]) -> int:
    """Says that it holds, and lets go when its input ends."""
    process.stdout.write(b"locked\n")
    await process.stdin.read()
    return 0


async def killed(process: Process, argv: list[str]) -> None:
    process.exit_with_signal("KILL")


async def flood(process: Process, argv: list[str]) -> int:
    """Prints argv[1] MiB of lines, then ``the end``."""
    block = (b"x" * 127 + b"\n") * 8192
    for _ in range(int(argv[1])):
        process.stdout.write(block)
        await process.stdout.drain()
    process.stdout.write(b"the end\n")
    return 0


async def sh(process: Process, argv: list[str]) -> int:
    """A real /bin/sh; what it runs is real too."""
    child = await asyncio.create_subprocess_exec(
        "/bin/sh",
        *argv[1:],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    stdin = await process.stdin.read()
    told = asyncio.ensure_future(child.communicate(stdin))
    closed = asyncio.ensure_future(process.channel.wait_closed())
    await asyncio.wait({told, closed}, return_when=asyncio.FIRST_COMPLETED)
    if not told.done():
        os.killpg(child.pid, signal.SIGKILL)
    closed.cancel()
    out, error = await told
    process.stdout.write(out)
    process.stderr.write(error)
    return child.returncode or 0


def sudo(password: str | None) -> Program:
    """A sudo that wants ``password`` (None: nothing), then runs ``cat``, ``echo`` or ``whoami``."""

    async def run(process: Process, argv: list[str]) -> int:
        command = argv[argv.index("--") + 1 :]
        if "-n" in argv and password is not None:
            process.stderr.write(b"sudo: a password is required\n")
            return 1
        if "-S" in argv and password is not None:
            said = await process.stdin.readline()
            if said != password.encode() + b"\n":
                process.stderr.write(b"Sorry, try again.\nsudo: 1 incorrect password attempt\n")
                return 1
        return await {"cat": cat, "echo": echo, "whoami": _root}[command[0]](process, command)

    return run


def says(stderr: str, exit_code: int = 1) -> Program:
    """A program that only complains."""

    async def run(process: Process, argv: list[str]) -> int:
        process.stderr.write(stderr.encode())
        return exit_code

    return run


async def _root(process: Process, argv: list[str]) -> int:
    process.stdout.write(b"root\n")
    return 0


PROGRAMS: dict[str, Program] = {
    "echo": echo,
    "cat": cat,
    "true": true,
    "false": false,
    "die": die,
    "hang": hang,
    "keep": keep,
    "killed": killed,
    "flood": flood,
    "sh": sh,
}


# Keys, and a wire that can be cut.


def write_key(path: Path, passphrase: str | None = None) -> asyncssh.SSHKey:
    """A new private key in ``path`` (0600) and its public half beside it."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment="test")
    key.write_private_key(path, "openssh" if passphrase is None else "pkcs8-pem", passphrase=passphrase)
    path.chmod(0o600)
    key.write_public_key(f"{path}.pub")
    return key


def public_line(key: asyncssh.SSHKey) -> str:
    """``ssh-ed25519 AAAA...``."""
    return " ".join(key.export_public_key().decode().split()[:2])


@dataclass
class Wire:
    """A TCP proxy. Frozen, it stays connected and carries nothing more."""

    port: int = 0
    frozen: bool = False
    accepted: int = 0
    silenced: int = 0

    def silence(self) -> None:
        """Connections so far carry nothing more; new ones work. So looks a host that lost its state in a reboot."""
        self.silenced = self.accepted


@asynccontextmanager
async def wire(port: int, *, frozen: bool = False) -> AsyncIterator[Wire]:
    """A wire to a port on loopback."""
    state = Wire(frozen=frozen)
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pump(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not state.frozen and number > state.silenced:
                    writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.accepted += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, far_writer))
        for ends in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.ensure_future(pump(state.accepted, *ends))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        for writer in writers:
            writer.close()
        await asyncio.gather(*tasks, *(writer.wait_closed() for writer in writers), return_exceptions=True)


# OpenSSH.


def openssh_sshd() -> str | None:
    """The path of sshd, None when it is not installed."""
    return next(
        (path for path in ("/usr/sbin/sshd", "/run/current-system/sw/bin/sshd") if os.access(path, os.X_OK)), None
    )


@asynccontextmanager
async def real_sshd(directory: Path, settings: str = "", *, log: Path | None = None) -> AsyncIterator[Sshd]:
    """OpenSSH's server on a high port of loopback, as the current user, with keys of its own."""
    program = openssh_sshd()
    assert program is not None
    host_key = write_key(directory / "host-key")
    write_key(directory / "real-key")
    (directory / "authorized").write_text((directory / "real-key.pub").read_text())
    (directory / "authorized").chmod(0o600)
    port = _free_port()
    (directory / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {directory}/host-key\nPidFile {directory}/pid\n"
        f"AuthorizedKeysFile {directory}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n{settings}"
    )
    if os.geteuid() == 0:
        await anyio.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = await asyncio.create_subprocess_exec(
        program,
        *("-D", *(("-E", str(log)) if log is not None else ("-e",)), "-f", str(directory / "sshd_config")),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    user = os.environ.get("USER") or "root"
    try:
        await _listening(port, server)
        yield Sshd(port=port, host_key=public_line(host_key), identity_file=str(directory / "real-key"), user=user)
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()


async def _listening(port: int, server: asyncio.subprocess.Process) -> None:
    for _ in range(200):
        assert server.returncode is None, "sshd ended at once"
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)
    raise AssertionError("sshd does not listen")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


_LS = """\
#!/bin/sh
shift; code=0
for path in "$@"; do if [ -e "{root}$path" ]; then echo "$path"; else code=2; fi; done
exit $code
"""


def path_of_a_host_in(root: Path, programs: Path) -> str:
    """The PATH of a host whose store is a folder here: ``ls -d`` finds there what paths say is under ``/nix/store``."""
    programs.mkdir()
    (programs / "ls").write_text(_LS.format(root=root))
    (programs / "ls").chmod(0o755)
    return f"{programs}{os.pathsep}{os.environ['PATH']}"
