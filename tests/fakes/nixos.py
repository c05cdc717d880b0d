"""One NixOS host behind a FakeShell: profile, running and booted system, our transient units, reboots.

It answers the commands of the activation protocols and nothing else; it has no real store and no clock: a unit takes
as many looks as the test says.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

from nixkube_deploy.model.error import OutcomeUnknown
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import Command, CommandResult
from tests.fakes.shell import FakeShell

BOOT_1 = "00000000-0000-4000-8000-000000000001"
BOOT_2 = "00000000-0000-4000-8000-000000000002"
BOOT_3 = "00000000-0000-4000-8000-000000000003"
OK = CommandResult(exit_code=0)


@dataclass(slots=True, kw_only=True)
class Switch:
    """How one run of switch-to-configuration goes: the exit code (None: killed), its output, how long it takes."""

    code: int | None = 0
    says: tuple[str, ...] = ()
    looks: int = 1
    at_end: Callable[[], None] = lambda: None


@dataclass(slots=True, kw_only=True)
class Unit:
    argv: tuple[str, ...]
    state: str = "activating"
    looks: int = 0
    switch: Switch = field(default_factory=Switch)

    def show(self) -> str:
        code = self.switch.code
        result = "success" if code == 0 else "signal" if code is None else "exit-code"
        sub = {"activating": "start", "active": "exited"}.get(self.state, self.state)
        status = 15 if code is None else code
        return (
            f"LoadState=loaded\nActiveState={self.state}\nSubState={sub}\n"
            f"Result={result if self.state == 'failed' else 'success'}\nExecMainStatus={status}\n"
        )


@dataclass(slots=True)
class NixosHost:
    """One host. ``switches`` are used up in order; after them every switch goes well at once."""

    system: str
    boot_id: str = BOOT_1
    current: str = ""
    booted: str = ""
    profile: str = ""
    loader: str = ""
    switches: list[Switch] = field(default_factory=list)
    units: dict[str, Unit] = field(default_factory=dict)
    timers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    journal: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    state: str = "running"

    def __post_init__(self) -> None:
        self.current = self.current or self.system
        self.booted = self.booted or self.system
        self.profile = self.profile or self.system
        self.loader = self.loader or self.system

    def shell(self) -> FakeShell:
        """A shell whose every command this host answers; tests add rules of their own on top."""
        return FakeShell().answers(with_=lambda _host, command: self.answer(command))

    # What happens to the host.

    def reboot(self, into: str | None = None) -> None:
        """Boot the loader's default (or ``into``): units and timers are gone."""
        self.booted = self.current = into or self.loader
        self.boot_id = BOOT_2 if self.boot_id == BOOT_1 else BOOT_3
        self.units.clear()
        self.timers.clear()

    def fire_dead_man(self) -> None:
        """The timers do what they were armed to do."""
        for name, argv in list(self.timers.items()):
            script = argv[-1]
            old = shlex.split(script)[-2].removesuffix("/bin/switch-to-configuration")
            self.current = self.profile = self.loader = old
            del self.timers[name]

    # The commands.

    def answer(self, command: Command) -> CommandResult:  # noqa: C901, PLR0912 (one arm a command)
        argv = command.argv
        match argv:
            case ("sh", "-c", script):
                return CommandResult(exit_code=0, stdout=self._script(script))
            case ("nix-env", "-p", _, "--set", path):
                self.profile = path
                return OK
            case ("systemd-run", *arguments):
                return self._systemd_run(arguments)
            case ("systemctl", "show", unit, _):
                return CommandResult(exit_code=0, stdout=self._show(unit))
            case ("systemctl", "stop", *names):
                return self._stop(names)
            case ("systemctl", "reset-failed", name):
                return self._reset_failed(name)
            case ("systemctl", "reboot"):
                self.reboot()
                raise lost("the connection went down")
            case ("systemctl", "is-system-running"):
                return CommandResult(exit_code=0, stdout=f"{self.state}\n")
            case ("journalctl", "-u", unit, *_):
                return CommandResult(exit_code=0, stdout="\n".join(self.journal.get(unit, ())) + "\n")
            case ("mkdir", *_) | ("chmod", *_):
                return OK
            case ("tee", path):
                self.files[path] = command.stdin or ""
                return CommandResult(exit_code=0, stdout=command.stdin or "")
            case ("readlink" | "cat" | "test", *_):
                out = self._one(shlex.join(argv))
                return CommandResult(exit_code=0 if out else 1, stdout=out)
            case _:
                return CommandResult(exit_code=127, stderr=f"sh: {argv[0]}: command not found\n")

    def _script(self, script: str) -> str:
        out = "Welcome to NixOS\r\n"
        for line in script.splitlines():
            out += f"\n{line.removeprefix('echo; echo ')}\n" if line.startswith("echo; ") else self._one(line)
        return out

    def _one(self, line: str) -> str:
        command = line.removesuffix(" 2>/dev/null")
        links = {"/run/current-system": self.current, "/run/booted-system": self.booted}
        links["/nix/var/nix/profiles/system"] = self.profile
        match shlex.split(command):
            case ["readlink", "-f", path] if path in links:
                return f"{links[path]}\n"
            case ["cat", "/proc/sys/kernel/random/boot_id"]:
                return f"{self.boot_id}\n"
            case ["systemctl", "list-units", "--failed", *_]:
                return "".join(f"{unit} loaded failed failed {unit}\n" for unit in self.failed)
            case ["systemctl", "list-units", "--all", *_]:
                return self._listing()
            case ["cat", path] if path in self.files:
                return self.files[path]
        return ""

    def _listing(self) -> str:
        services = [f"{name} loaded {unit.state} x {' '.join(unit.argv)}\n" for name, unit in self.units.items()]
        return "".join([*services, *(f"{name} loaded active waiting {name}\n" for name in self.timers)])

    def _systemd_run(self, arguments: list[str]) -> CommandResult:
        at = arguments.index("--")
        argv = tuple(arguments[at + 1 :])
        name = next(a.removeprefix("--unit=") for a in arguments if a.startswith("--unit="))
        timed = any(a.startswith("--on-active=") for a in arguments)
        full = f"{name}.timer" if timed else f"{name}.service"
        if full in self.units or full in self.timers:
            text = f"Failed to start transient unit: Unit {full} was already loaded or has a fragment file.\n"
            return CommandResult(exit_code=1, stderr=text)
        if timed:
            self.timers[full] = argv
        else:
            switch = self.switches.pop(0) if self.switches else Switch()
            self.units[full] = Unit(argv=argv, switch=switch, looks=switch.looks)
            self.journal[name] = switch.says
        return OK

    def _show(self, name: str) -> str:
        unit = self.units.get(f"{name}.service")
        if unit is None:
            return "LoadState=not-found\nActiveState=inactive\nSubState=dead\nResult=success\nExecMainStatus=0\n"
        if unit.state == "activating":
            if unit.looks > 0:
                unit.looks -= 1
            else:
                self._finish(name, unit)
        return self._show_or_gone(name)

    def _show_or_gone(self, name: str) -> str:
        unit = self.units.get(f"{name}.service")
        return unit.show() if unit else self._show(name)

    def _finish(self, name: str, unit: Unit) -> None:
        system = unit.argv[0].removesuffix("/bin/switch-to-configuration")
        code, verb = unit.switch.code, unit.argv[1]
        unit.state = "active" if code == 0 else "failed"
        if code in (0, 4, 100):
            self.loader = system
        if code in (0, 4) and verb == "switch":
            self.current = system
        unit.switch.at_end()

    def _stop(self, names: list[str]) -> CommandResult:
        for name in names:
            full = name if "." in name else f"{name}.service"
            if full in self.timers:
                del self.timers[full]
            elif full in self.units:
                if self.units[full].state != "failed":
                    del self.units[full]
            else:
                return CommandResult(exit_code=5, stderr=f"Failed to stop {full}: Unit {full} not loaded.\n")
        return OK

    def _reset_failed(self, name: str) -> CommandResult:
        full = name if "." in name else f"{name}.service"
        return OK if self.units.pop(full, None) else CommandResult(exit_code=1, stderr=f"Unit {full} not loaded.\n")


def lost(why: str) -> OutcomeUnknown:
    return OutcomeUnknown(Failure(kind=FailureKind.OUTCOME_UNKNOWN, message=why, transient=True))


def broken(answer: Callable[[], object]) -> Callable[[Host, Command], CommandResult]:
    """A rule for FakeShell: the host does it, and the connection breaks before it can say so."""

    def respond(_host: Host, _command: Command) -> CommandResult:
        answer()
        raise lost("the connection was lost while the command ran")

    return respond
