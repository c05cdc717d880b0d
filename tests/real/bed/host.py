"""One real host: its power, its link, its files and what it has seen. How tests reach it without ssh.

It changes nothing by itself; the product is what changes hosts.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.real.bed.fleet import RealFleet

HERE = Path(__file__).resolve().parent
SSH_PORT = 22
_LISTEN = "0A"
_BOOT = 60.0
_PROFILE = "/nix/var/nix/profiles/system"
_LIST = f"nix-env -p {_PROFILE} --list-generations"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def wait_until(true: Callable[[], bool], what: str, seconds: float = _BOOT) -> None:
    """Look again and again; AssertionError when it takes too long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


@dataclass
class RealHost:
    """A machine with namespaces for walls."""

    name: str
    address: str
    tier: int
    number: int
    bed: Path
    fleet: "RealFleet | None" = None
    started: subprocess.Popen[bytes] | None = None
    cgroup: str = ""
    host_key: str = ""
    """The public half, as known_hosts has it."""

    # --- where it is -------------------------------------------------------------------------------------------------

    @property
    def link(self) -> str:
        """The bridge's end of its cable."""
        return f"v{self.number}"

    @property
    def directory(self) -> Path:
        """Its disk, in the bed's mount namespace; from here: ``fleet.path(host.directory)``."""
        return self.bed / "run" / "hosts" / self.name

    @property
    def disk(self) -> Path:
        """Its disk, from here."""
        assert self.fleet is not None
        return self.fleet.path(self.directory)

    @property
    def mains(self) -> subprocess.Popen[bytes]:
        """What keeps it powered; holds its network namespace."""
        assert self.started is not None
        return self.started

    @property
    def known_hosts_line(self) -> str:
        return f"{self.address} {self.host_key}\n"

    @property
    def console(self) -> str:
        """What it said while it booted."""
        return (self.bed / "logs" / f"{self.name}.console").read_text(errors="replace")

    def file(self, path: str) -> Path:
        """A file of the running host, from here. Absolute links in it lead astray: use ``run`` for these."""
        return Path(f"/proc/{self.init}/root") / path.lstrip("/")

    # --- power -------------------------------------------------------------------------------------------------------

    def start(self, fleet: "RealFleet") -> None:
        """Plug it in. Its network is not connected yet."""
        assert fleet.keeper is not None
        self.fleet = fleet
        spaces = (f"--net=/proc/{fleet.keeper.pid}/ns/net", f"--mount=/proc/{fleet.keeper.pid}/ns/mnt")
        power = ("bash", str(HERE / "power.sh"), str(self.tier), str(self.directory), self.name, self.cgroup)
        argv = ["nsenter", *spaces, "--", "setpriv", "--pdeathsig", "KILL", "unshare", "--net", *power]
        with (self.bed / "logs" / f"{self.name}.console").open("ab") as console:
            self.started = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                env={"PATH": PATH, "LANG": "C.UTF-8"},
            )

    def has_own_network(self) -> bool:
        """Whether ``start`` has come to the point where a cable can be plugged in."""
        assert self.fleet is not None
        assert self.fleet.keeper is not None
        if self.mains.poll() is not None:
            raise AssertionError(f"{self.name} does not start:\n{self.console}")
        own = _space(self.mains.pid, "net")
        return own not in {_space(pid, "net") for pid in ("self", self.fleet.keeper.pid)}

    @property
    def init(self) -> int:
        """Its first process, as a process id out here; 0 while it is off."""
        try:
            for child in _children(self.mains.pid):
                for first in _children(child):
                    if _space(first, "pid") != _space("self", "pid"):
                        return first
        except FileNotFoundError:
            pass
        return 0

    def is_listening(self) -> bool:
        """Whether its sshd listens; asked of its kernel, not by a connection."""
        if self.mains.poll() is not None:
            raise AssertionError(f"{self.name} does not boot:\n{self.console}")
        init = self.init
        if not init:
            return False
        try:
            rows = [row.split() for row in Path(f"/proc/{init}/net/tcp").read_text().splitlines()[1:]]
        except OSError:
            return False
        return any(row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == SSH_PORT for row in rows)

    def wait_for_ssh(self, seconds: float = _BOOT) -> None:
        """Until somebody could log in."""
        wait_until(self.is_listening, f"sshd of {self.name}", seconds)

    def wait_for_boot(self, before: str, seconds: float = _BOOT) -> None:
        """Until it has booted anew (``before``: the boot id it had) and somebody could log in."""
        wait_until(lambda: self.boot_id not in {"", before}, f"a new boot of {self.name}", seconds)
        self.wait_for_ssh(seconds)

    def reboot(self) -> None:
        """As somebody on its console would; returns when it is back."""
        before = self.boot_id
        self.run("systemctl reboot", check=False)
        self.wait_for_boot(before)

    def cut_power(self, *, stay_off: bool = False) -> None:
        """Kill everything on it at once. It boots again at once too, unless it is to stay off (see ``plug_in``)."""
        if stay_off:
            (self.disk / "off").touch()
        if init := self.init:
            (self.disk / "cut").touch()
            os.kill(init, signal.SIGKILL)
            wait_until(lambda: not _is_alive(init), f"the end of {self.name}")

    def keep_off(self) -> None:
        """Let its next reboot be its last, until ``plug_in``: a machine that hangs on its way up."""
        (self.disk / "off").touch()

    def plug_in(self) -> None:
        """Boot a host that was kept off."""
        (self.disk / "off").unlink(missing_ok=True)

    @property
    def boot_delay(self) -> float:
        """Seconds it is dark between two boots."""
        return float((self.disk / "boot-delay").read_text())

    @boot_delay.setter
    def boot_delay(self, seconds: float) -> None:
        (self.disk / "boot-delay").write_text(f"{seconds}\n")

    @contextmanager
    def pinned(self) -> Iterator[Callable[[], list[int]]]:
        """Its processes out here, asked for again and again, also after it was killed.

        Namespaces are told apart by a number that is given away again as soon as it is free: one is held meanwhile.
        """
        with ExitStack() as stack:
            space = ""
            if init := self.init:
                with suppress(FileNotFoundError):
                    stack.enter_context(Path(f"/proc/{init}/ns/pid").open("rb"))
                    space = _space(init, "pid")
            yield lambda: [pid for pid in _processes() if space and _is_in(pid, space)]

    def kill(self) -> None:
        """Take it away, with everything on it; see ``pinned``."""
        self.mains.kill()
        self.mains.wait()

    # --- network -----------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Pull its cable."""
        assert self.fleet is not None
        self.fleet.inside(f"ip link set {self.link} down")

    def mend(self) -> None:
        """Plug its cable in again."""
        assert self.fleet is not None
        self.fleet.inside(f"ip link set {self.link} up")

    def change_host_key(self) -> None:
        """Let its sshd show another key than the one that is pinned, as a machine does that was installed anew."""
        key = "/etc/ssh/ssh_host_ed25519_key"
        self.run(f"rm {key}; ssh-keygen -q -t ed25519 -N '' -C new -f {key}")
        self.run("systemctl restart ssh")
        self.wait_for_ssh()

    @property
    def sshd_log(self) -> str:
        """Everything its sshd has said since the bed was made."""
        if self.tier == 2:
            return self.run("journalctl -u ssh -o cat --no-pager -q", check=False)
        return (self.disk / "var/log/sshd.log").read_text(errors="replace")

    @property
    def sshd_connections(self) -> int:
        """How many connections its sshd has accepted so far."""
        return len(re.findall(r"^Connection from ", self.sshd_log, re.MULTILINE))

    # --- looking -----------------------------------------------------------------------------------------------------

    def run(self, command: str, *, check: bool = True, timeout: float = 60) -> str:
        """What a shell command prints on it (as root), entered by its namespaces."""
        init = self.init
        assert init, f"{self.name} is off"
        spaces = ["--mount", "--net", "--pid", "--uts", "--ipc", *(["--cgroup"] if self.tier == 2 else [])]
        argv = ["nsenter", "--target", str(init), *spaces, "--", "env", "-i", "-C", "/", f"PATH={PATH}", "HOME=/root"]
        done = subprocess.run(
            [*argv, "sh", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0 or not check, (
            f"{self.name}: {command}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout.strip()

    @property
    def boot_id(self) -> str:
        """Of its running kernel; empty while it is off or has not come that far."""
        try:
            return self.file("/proc/sys/kernel/random/boot_id").read_text().strip() if self.init else ""
        except OSError:
            return ""

    @property
    def current(self) -> str:
        """The system it runs."""
        return self.run("readlink -f /run/current-system")

    @property
    def booted(self) -> str:
        return self.run("readlink -f /run/booted-system")

    @property
    def profile(self) -> str:
        return self.run(f"readlink -f {_PROFILE}")

    @property
    def generations(self) -> dict[int, str]:
        """What ``nix-env --list-generations`` says, number to system; see also ``generation``."""
        script = f"{_LIST} | while read number _; do echo $number $(readlink -f {_PROFILE}-$number-link); done"
        rows = (line.split() for line in self.run(script).splitlines())
        return {int(number): system for number, system in rows}

    @property
    def generation(self) -> int:
        """The one ``nix-env --list-generations`` calls current."""
        return next(int(line.split()[0]) for line in self.run(_LIST).splitlines() if "(current)" in line)

    def settled(self) -> str:
        """systemd's word for the whole once booting is over: ``running`` or ``degraded``."""
        return self.run("systemctl is-system-running --wait", check=False)

    @property
    def failed_units(self) -> list[str]:
        listed = self.run("systemctl list-units --failed --plain --no-legend --no-pager")
        return [line.split()[0] for line in listed.splitlines()]

    def journal(self, unit: str) -> str:
        """What a unit has said."""
        return self.run(f"journalctl -u '{unit}' -o cat --no-pager", check=False)

    def has(self, path: str) -> bool:
        """Whether its store holds a path whole."""
        return self.run(f"nix-store --check-validity {path} 2>/dev/null && echo yes", check=False) == "yes"


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _space(pid: int | str, kind: str) -> str:
    """A process's namespace; OSError when it is gone."""
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


def _processes() -> Iterator[int]:
    return (int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal())


def _is_in(pid: int, space: str) -> bool:
    try:
        return _space(pid, "pid") == space and _is_alive(pid)
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    """Whether it runs; what is dead and waits for a parent to notice does not."""
    try:
        return not re.search(r"^State:\s+[ZX]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False
