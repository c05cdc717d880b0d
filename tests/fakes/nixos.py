"""One NixOS host behind a FakeShell: profile, running and booted system, our transient units, reboots.

It answers the commands of the activation protocols and nothing else; it has no real store and no clock: a unit takes
as many looks as the test says.
"""

import fnmatch
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
    """How one run of switch-to-configuration goes: the exit code (None: killed), its output, how many looks it lasts
    once systemd-run has given up waiting for it."""

    code: int | None = 0
    says: tuple[str, ...] = ()
    looks: int = 0
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
    generations: dict[int, str] = field(default_factory=dict)
    state: str = "running"
    refuses: dict[str, str] = field(default_factory=dict)
    """Programs that end with 1, and what they say."""
    started: list[str] = field(default_factory=list)
    """Services that systemd-run was told to start, and did."""
    restarted: list[str] = field(default_factory=list)
    """Timers that were told to count from now."""

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
            del self.timers[name]
            _Script(self).run(argv[-1])

    # The commands.

    def answer(self, command: Command) -> CommandResult:
        if command.argv[:2] == ("sh", "-c"):
            script = _Script(self)
            code = script.run(command.argv[2])
            return CommandResult(exit_code=code, stdout="Welcome to NixOS\r\n" + script.out, stderr=script.err)
        if command.argv[0] == "tee":
            self.files[command.argv[1]] = command.stdin or ""
            return CommandResult(exit_code=0, stdout=command.stdin or "")
        return self.perform(command.argv)

    def perform(self, argv: tuple[str, ...]) -> CommandResult:  # noqa: C901, PLR0912 (one arm a command)
        """One program."""
        if argv[0] in self.refuses:
            return CommandResult(exit_code=1, stderr=self.refuses[argv[0]])
        match argv:
            case ("nix-env", "-p", _, "--set", path):
                self.profile = path
                return OK
            case ("nix-env", "-p", _, "--switch-generation", number):
                self.profile = self.generations[int(number)]
                return OK
            case ("test", link, "-ef", path):
                return CommandResult(exit_code=0 if self.links.get(link, link) == self.links.get(path, path) else 1)
            case ("systemd-run", *arguments):
                return self._systemd_run(arguments)
            case ("systemctl", "show", unit, *_):
                return CommandResult(exit_code=0, stdout=self._show(unit))
            case ("systemctl", "stop", *names):
                return self._stop(names)
            case ("systemctl", "reset-failed", *names):
                return self._reset_failed(names)
            case ("systemctl", "try-restart", timer):
                self.restarted.append(timer)
                return OK
            case ("systemctl", "is-active", "--quiet", name):
                unit = self.units.get(name)
                return OK if unit is not None and unit.state == "active" else CommandResult(exit_code=3)
            case ("systemctl", "reboot"):
                self.reboot()
                raise lost("the connection went down")
            case ("systemctl", "is-system-running"):
                return CommandResult(exit_code=0, stdout=f"{self.state}\n")
            case ("systemctl", "list-units", *arguments):
                failed = "".join(f"{unit} loaded failed failed {unit}\n" for unit in self.failed)
                ours = "" if "--failed" in arguments else self._listing()
                return CommandResult(exit_code=0, stdout=ours + ("" if "nixkube-deploy-*" in arguments else failed))
            case ("journalctl", "-u", unit, *_):
                return CommandResult(exit_code=0, stdout="\n".join(self.journal.get(unit, ())) + "\n")
            case ("echo", *words):
                return CommandResult(exit_code=0, stdout=" ".join(words) + "\n")
            case ("printf", _, text):
                return CommandResult(exit_code=0, stdout=text + "\n")
            case ("mkdir", *_):
                return OK
            case ("true",):
                return OK
            case ("ls", "-d", pattern) if pattern == "/run/systemd/transient/nixkube-deploy-*":
                return OK if self.units or self.timers else CommandResult(exit_code=2)
            case ("test", "-d", "/run/systemd/transient"):
                return OK
            case ("grep", "-q", text, "/proc/sys/kernel/random/boot_id"):
                return OK if text in self.boot_id else CommandResult(exit_code=1)
            case ("test", "-e", path) if path in self.files:
                return OK
            case ("rm", "-f", path):
                self.files.pop(path, None)
                return OK
            case ("readlink", "-f", path) if path in self.links:
                return CommandResult(exit_code=0, stdout=f"{self.links[path]}\n")
            case ("readlink", "-m", *paths):
                return CommandResult(exit_code=0, stdout="".join(f"{self.links.get(path, path)}\n" for path in paths))
            case ("head", "-v", "-n", _, *paths):
                texts = {path: self.perform(("cat", path)) for path in paths}
                found = (f"==> {path} <==\n{text.stdout}\n" for path, text in texts.items() if text.ok)
                return CommandResult(exit_code=0, stdout="".join(found))
            case ("cat", "/proc/sys/kernel/random/boot_id"):
                return CommandResult(exit_code=0, stdout=f"{self.boot_id}\n")
            case ("cat", path) if path in self.files:
                return CommandResult(exit_code=0, stdout=self.files[path])
            case (program, verb) if program.endswith(_PROGRAM):
                self._switch(program.removesuffix(_PROGRAM), verb, Switch())
                return OK
            case ("readlink" | "cat" | "test", *_):
                return CommandResult(exit_code=1)
            case _:
                return CommandResult(exit_code=127, stderr=f"sh: {argv[0]}: command not found\n")

    @property
    def links(self) -> dict[str, str]:
        links = {"/run/current-system": self.current, "/run/booted-system": self.booted}
        generations = {f"/nix/var/nix/profiles/system-{n}-link": path for n, path in self.generations.items()}
        return {**links, **generations, "/nix/var/nix/profiles/system": self.profile}

    def _listing(self) -> str:
        services = [f"{name} loaded {unit.state} x {' '.join(unit.argv)}\n" for name, unit in self.units.items()]
        return "".join([*services, *(f"{name} loaded active waiting {name}\n" for name in self.timers)])

    def _systemd_run(self, arguments: list[str]) -> CommandResult:
        at = arguments.index("--")
        if "--refused" in arguments:
            return CommandResult(exit_code=1, stderr="Failed to start transient service unit: refused\n")
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
            self.started.append(full)
            self.journal[name] = switch.says
            if switch.looks == 0:
                unit = self.units[full]
                self._finish(name, unit)
                return CommandResult(exit_code=1, stderr="Job failed.\n") if unit.state == "failed" else OK
            return CommandResult(exit_code=1, stderr="Failed to wait for response: Connection reset by peer\n")
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

    def _finish(self, _name: str, unit: Unit) -> None:
        unit.state = "active" if unit.switch.code == 0 else "failed"
        if unit.argv[0] != "sh":
            self._switch(unit.argv[0].removesuffix(_PROGRAM), unit.argv[1], unit.switch)
        elif unit.switch.code in (0, 4):
            _Script(self).run(unit.argv[2])
        unit.switch.at_end()

    def _switch(self, system: str, verb: str, switch: Switch) -> None:
        if switch.code in (0, 4, 100) and verb != "test":
            self.loader = system
        if switch.code in (0, 4) and verb in ("switch", "test"):
            self.current = system

    def _stop(self, names: list[str]) -> CommandResult:
        missing = ""
        for name in names:
            full = name if "." in name else f"{name}.service"
            known = fnmatch.filter([*self.timers, *self.units], full)
            for each in known:
                self.timers.pop(each, None)
                if each in self.units and self.units[each].state != "failed":
                    del self.units[each]
            if not known and "*" not in full:
                missing += f"Failed to stop {full}: Unit {full} not loaded.\n"
        return CommandResult(exit_code=5 if missing else 0, stderr=missing)

    def _reset_failed(self, names: list[str]) -> CommandResult:
        gone = [self.units.pop(name if "." in name else f"{name}.service", None) for name in names]
        return OK if all(gone) else CommandResult(exit_code=1, stderr="Unit not loaded.\n")


_PROGRAM = "/bin/switch-to-configuration"


class _Script:
    """The shell subset that scripts for hosts keep to: ``;``, ``&&``, ``||``, ``exit`` and redirections."""

    def __init__(self, host: NixosHost) -> None:
        self.host, self.out, self.err = host, "", ""

    def run(self, script: str) -> int:
        code = 0
        for line in script.splitlines():
            code = self._line(line)
            if code >= 1000:
                return code - 1000
        return code

    def _line(self, line: str) -> int:
        code, operator = 0, ";"
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ("&&", "||", ";"):
                words.append(word)
                continue
            if operator == ";" or (code == 0) == (operator == "&&"):
                code = self._simple(words)
            words, operator = [], word
            if code >= 1000:
                break
        return code

    def _simple(self, words: list[str]) -> int:
        if words[:1] == ["exit"]:
            return 1000 + int(words[1])
        if not words or "=" in words[0]:
            return 0
        if words[0] == "!":
            return 0 if self._simple(words[1:]) else 1
        if words[-5:] == [">", "/dev/null", "2", ">&", "1"]:
            return self.host.perform(tuple(words[:-5])).exit_code
        silent = words[-3:] == ["2", ">", "/dev/null"]
        words = words[:-3] if silent else words
        into = words[-1] if words[-2:-1] == [">"] else None
        words = words[:-2] if into else words
        result = self.host.perform(tuple(words))
        if into:
            self.host.files[into] = result.stdout
        else:
            self.out += result.stdout
        self.err += "" if silent else result.stderr
        return result.exit_code


def lost(why: str) -> OutcomeUnknown:
    return OutcomeUnknown(Failure(kind=FailureKind.OUTCOME_UNKNOWN, message=why, transient=True))


def broken(answer: Callable[[], object]) -> Callable[[Host, Command], CommandResult]:
    """A rule for FakeShell: the host does it, and the connection breaks before it can say so."""

    def respond(_host: Host, _command: Command) -> CommandResult:
        answer()
        raise lost("the connection was lost while the command ran")

    return respond
