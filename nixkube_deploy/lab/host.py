"""A machine that lives: its processes, its power, its sshd's port, its kubelet. Built on the pure ``Machine``.

It knows no program itself; the table of commands is given to it.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from nixkube_deploy.lab.etcd import LabEtcd
from nixkube_deploy.lab.faults import Fault, FaultPlan
from nixkube_deploy.lab.filesystem import FileSystem
from nixkube_deploy.lab.kubelet import UNITS, Kubelet
from nixkube_deploy.lab.machine import Deed, Machine, Personality
from nixkube_deploy.lab.recipe import Recipe
from nixkube_deploy.lab.shell import Shell, Streams, Writer
from nixkube_deploy.lab.store import ControllerStore
from nixkube_deploy.lab.units import Unit

NOT_FOUND = 127
_BOOT_TRIES = 5
"""Panics in a row after which a machine is left alone: its default entry is broken, too."""
_DEBIAN_KERNEL = "6.12.57+deb13-amd64"
_WRAPPERS = frozenset({"bash", "doas", "env", "flock", "run0", "sh", "sudo", "systemd-run"})
_SWITCH = "switch-to-configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One program run by one user on one host."""

    host: "LabHost"
    argv: tuple[str, ...]
    user: str
    streams: Streams
    env: Mapping[str, str]

    @property
    def args(self) -> tuple[str, ...]:
        """Without the program's own name."""
        return self.argv[1:]

    @property
    def is_root(self) -> bool:
        """Whether the user may do anything."""
        return self.user == "root"

    @property
    def files(self) -> FileSystem:
        """The tree as it is now."""
        return self.host.filesystem(self.user)

    def out(self, text: str) -> None:
        """Write to standard output."""
        self.streams.out(text)

    def err(self, text: str) -> None:
        """Write to standard error."""
        self.streams.err(text)

    def fail(self, message: str, code: int = 1) -> int:
        """``program: message`` on standard error."""
        self.err(f"{self.argv[0].rpartition('/')[2]}: {message}\n")
        return code


Program = Callable[[Call], Awaitable[int]]


class Port(Protocol):
    """The host's SSH port."""

    async def open(self) -> None:
        """Listen."""
        ...

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        ...


@dataclass(slots=True, kw_only=True)
class Setting:
    """What every host shares: the rest of the world, as far as a host can see it."""

    store: ControllerStore
    faults: FaultPlan
    programs: Mapping[str, Program]
    now: Callable[[], float]
    changed: Callable[[], None]
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    """Starts something that outlives a host's boot."""
    provided: Callable[["LabHost"], dict[str, str]]
    peers: dict[str, "LabHost"] = field(default_factory=dict)
    etcd: LabEtcd = field(init=False)
    reboot_seconds: float = 0.5
    pace: float = 1.0
    """How long activations take, as a share of what they take by default."""

    def __post_init__(self) -> None:
        self.etcd = LabEtcd(self.peers, self.faults)


class LabHost:
    """One host, powered or not."""

    def __init__(self, machine: Machine, setting: Setting, *, user: str, privilege: str = "sudo") -> None:
        self.machine = machine
        self.setting = setting
        self.user = user
        self.privilege = privilege
        self.password: str | None = None
        self.role = "worker"
        self.kubelet: Kubelet | None = None
        self.port: Port | None = None
        self.flocks: set[str] = set()
        self.switching = False
        self.rebooting = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._mains: dict[str, asyncio.Task[int]] = {}
        self._pid = 800

    @property
    def name(self) -> str:
        """As the inventory calls it."""
        return self.machine.name

    @property
    def users(self) -> frozenset[str]:
        """Who may log in now. The installer lets root in and nobody else."""
        if self.machine.personality is Personality.INSTALLER:
            return frozenset({"root"})
        return frozenset({"root", self.user})

    def filesystem(self, user: str) -> FileSystem:
        """A look at the tree."""
        return FileSystem(
            machine=self.machine,
            store=self.setting.store,
            provided=lambda: self.setting.provided(self),
            uid=0 if user == "root" else 1000,
            cwd=home_of(user),
        )

    def fault(self, kind: str, *, system: str | None = None) -> Fault | None:
        """The fault that hits this host now; one of its times is used up."""
        return self.setting.faults.take(self.name, kind, system=system)

    def next_pid(self) -> int:
        """A process id nobody has."""
        self._pid += 7
        return self._pid

    # --- processes -----------------------------------------------------------------------------------------------

    def shell(self, user: str, *, name: str = "bash") -> Shell:
        """A new shell process of this user."""

        async def run(argv: tuple[str, ...], streams: Streams, env: Mapping[str, str]) -> int:
            return await self.run_program(user, argv, streams, env)

        env = {
            "HOME": home_of(user),
            "USER": user,
            "LOGNAME": user,
            "PATH": "/run/current-system/sw/bin",
            "PWD": home_of(user),
        }
        return Shell(run, files=_LiveFiles(self, user), name=name, env=env)

    async def execute(self, user: str, command: str, streams: Streams) -> int:
        """One command line of a login, with its place in the record."""
        deed = Deed(at=self.setting.now(), user=user, command=command)
        self.machine.record_command(deed)
        deed.exit_code = await self.shell(user).run(command, streams)
        self.setting.changed()
        return deed.exit_code

    async def run_program(self, user: str, argv: tuple[str, ...], streams: Streams, env: Mapping[str, str]) -> int:
        """Find a program and run it."""
        program = self._find(user, argv[0])
        if program is None:
            where = "No such file or directory" if "/" in argv[0] else "command not found"
            streams.err(f"bash: line 1: {argv[0]}: {where}\n")
            return NOT_FOUND
        if argv[0] not in _WRAPPERS and not argv[0].endswith(f"/{_SWITCH}"):  # That one hangs with its lock held.
            await self.perhaps_hang(argv)
        return await program(Call(host=self, argv=argv, user=user, streams=streams, env=env))

    async def perhaps_hang(self, argv: tuple[str, ...]) -> None:
        """Wait for ever, if a fault says so."""
        if self.setting.faults.take_text(self.name, "hang", " ".join(argv)):
            await asyncio.Event().wait()

    def _find(self, user: str, name: str) -> Program | None:
        base = name.rpartition("/")[2]
        program = self.setting.programs.get(base)
        if program is None or not _is_there(base, self.machine.personality):
            return None
        if "/" in name and not name.startswith(("/run/current-system/sw/bin/", "/bin/", "/usr/bin/")):
            return program if isinstance(self.filesystem(user).stat(name), str) else None
        return None if base == _SWITCH else program

    def process(self, work: Coroutine[Any, Any, int]) -> asyncio.Task[int]:
        """Run something that ends when the power goes."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- units ---------------------------------------------------------------------------------------------------

    def load_units(self, recipe: Recipe) -> None:
        """What systemd does at boot: everything the system has is started."""
        versions = recipe.configuration.all_units
        for name, path in recipe.units.items():
            self.machine.units[name] = self.fresh_unit(name, versions[name], path)
            self.machine.log(name, f"Started {self.machine.units[name].description}.")

    def fresh_unit(self, name: str, version: str, path: str) -> Unit:
        """A unit as systemd loads it from a unit file."""
        return Unit(
            name=name,
            version=version,
            description=name.removesuffix(".service"),
            fragment=f"{path}/{name}",
            since=self.setting.now(),
            pid=self.next_pid(),
        )

    def replace_unit(self, name: str, recipe: Recipe) -> None:
        """A unit's file changed: it is restarted from the new one."""
        restarts = 0
        self.machine.units[name] = self.fresh_unit(name, recipe.configuration.all_units[name], recipe.units[name])
        self.machine.units[name].restarts = restarts
        self.started(name)

    def started(self, name: str) -> None:
        """A unit's process began."""
        unit = self.machine.units[name]
        unit.run(self.setting.now(), self.next_pid())
        self.machine.log(name, f"Started {unit.description}.")
        if name in UNITS and self.kubelet is not None:
            self.kubelet.stop()
            self.kubelet.start(self.setting.now())

    def stopped(self, name: str) -> None:
        """A unit's process was stopped: one that still runs is killed."""
        main = self._mains.pop(name, None)
        if main is not None:
            main.cancel()
        self.machine.units[name].stop(self.setting.now())
        self.machine.log(name, f"Stopped {self.machine.units[name].description}.")
        if name in UNITS and self.kubelet is not None:
            self.kubelet.stop()

    # --- power ---------------------------------------------------------------------------------------------------

    def request_reboot(self, *, kexec: bool = False) -> None:
        """Reboot soon; whoever asked still gets an answer. With ``kexec``: into the kernel that is held, if any."""
        if not self.rebooting:
            self.rebooting = True
            self.setting.spawn(self._reboot(kexec=kexec))

    async def _reboot(self, *, kexec: bool) -> None:
        await asyncio.sleep(0.1)
        loaded = self.machine.loader.loaded if kexec else None
        await self.go_down()
        before = self.machine.booted
        system = loaded or self.machine.take_boot_entry()
        if self.fault("reboot-never-returns"):
            self.rebooting = False
            return
        await asyncio.sleep(self.setting.reboot_seconds)
        await self._boot(before if self.fault("reboot-old-kernel") else system)

    async def _boot(self, system: str | None) -> None:
        """Bring a system up. A kernel that panics reboots (``panic=``), so that the loader has another turn."""
        for _ in range(_BOOT_TRIES):
            broken = self.fault("boot-fails", system=system)
            if broken is None:
                await self.come_up(system)
                return
            if broken.argument == "hang":
                break
            await asyncio.sleep(self.setting.reboot_seconds)
            system = self.machine.take_boot_entry()
        self.rebooting = False

    def abandon(self) -> None:
        """End every process, as the end of the world does."""
        for task in tuple(self._tasks):
            task.cancel()

    async def go_down(self) -> None:
        """Power off: every process, connection and mount is gone."""
        self.abandon()
        if self.kubelet is not None:
            self.kubelet.stop()
        if self.port is not None:
            await self.port.close()
        self.flocks.clear()
        self.switching = False
        self.machine.shut_down()
        self.setting.changed()

    async def power_on(self) -> None:
        """After a lost reboot: somebody pressed the button."""
        if not self.machine.powered and not self.rebooting:
            await self._boot(self.machine.take_boot_entry())

    async def come_up(self, system: str | None) -> None:
        """Boot this system, or what is on a disk without NixOS."""
        recipe = self.setting.store.system(system) if system else None
        release = recipe.configuration.kernel if recipe else _DEBIAN_KERNEL
        if self.machine.personality is Personality.INSTALLER:
            release = "6.12.58"
        toplevel = recipe.toplevel if recipe else None
        self.machine.start_up(toplevel, boot_id=str(uuid.uuid4()), kernel_release=release, now=self.setting.now())
        if recipe is not None:
            self.load_units(recipe)
        if self.port is not None:
            await self.port.open()
        self.rebooting = False
        if recipe is not None and self.kubelet is not None:
            self.kubelet.start(self.setting.now())
        self.setting.changed()

    # --- time ----------------------------------------------------------------------------------------------------

    def step(self, now: float) -> None:
        """Whatever is due: timers, the kubelet."""
        if not self.machine.powered:
            return
        if self.kubelet is not None:
            self.kubelet.step(now)
        for timer in [t for t in self.machine.timers.values() if t.due <= now]:
            del self.machine.timers[timer.name]
            self.start_transient(Unit(name=timer.service, description=" ".join(timer.argv)), timer.argv)

    def start_transient(
        self, unit: Unit, argv: tuple[str, ...], streams: Streams | None = None, env: Mapping[str, str] | None = None
    ) -> asyncio.Task[int]:
        """Run a command as a unit of its own: nobody's connection can end it."""
        machine = self.machine
        machine.units[unit.name] = unit
        unit.run(self.setting.now(), self.next_pid())

        def log(text: str) -> None:
            machine.log(unit.name, text)

        async def main() -> int:
            code = await self.run_program("root", argv, streams or Streams(out=log, err=log), env or {})
            self._mains.pop(unit.name, None)
            unit.end(code, self.setting.now())
            if unit.collect or (not code and not unit.remain):
                machine.units.pop(unit.name, None)
            self.setting.changed()
            return code

        self._mains[unit.name] = task = self.process(main())
        return task


class _LiveFiles:
    """Redirections see the tree as it is at that moment."""

    def __init__(self, host: LabHost, user: str) -> None:
        self._host = host
        self._user = user

    def open_write(self, path: str, *, append: bool) -> Writer:
        return self._host.filesystem(self._user).open_write(path, append=append)

    def open_read(self, path: str) -> str:
        return self._host.filesystem(self._user).open_read(path)


def home_of(user: str) -> str:
    """A user's home directory."""
    return "/root" if user == "root" else f"/home/{user}"


_NIXOS_ONLY = frozenset({"bootctl", "curl", "etcdctl", "kexec", "nixos-rebuild", "nixos-version", "run0", _SWITCH})


def _is_there(program: str, personality: Personality) -> bool:
    """A foreign system has no Nix; the installer has Nix but is not a NixOS that could be switched."""
    if program.startswith("nix") and not personality.has_nix:
        return False
    return personality is Personality.NIXOS or program not in _NIXOS_ONLY
