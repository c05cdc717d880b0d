"""A NixosHost with an EFI system partition: entries, loader.conf, the two variables, and kernels that do not boot.

The boot loader follows systemd-boot's rule: the one-shot entry, which it uses up, then the pinned one, then the default
in loader.conf, then the newest. Power may be cut after any command.
"""

import json
import re
from dataclasses import dataclass, field

from nixkube_deploy.ports.shell import CommandResult
from tests.fakes.nixos import OK, NixosHost, lost

CONF = "/boot/loader/loader.conf"
RECORD = "/var/lib/nixkube-deploy/boot-entry.json"
_VARIABLE = re.compile(r"/sys/firmware/efi/efivars/LoaderEntry(OneShot|Default)-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")


@dataclass(slots=True)
class SystemdBootHost(NixosHost):
    """``entries`` are systems by their entry's id; ``broken`` are systems whose kernel panics and reboots."""

    entries: dict[str, str] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    one_shot: str = ""
    pinned: str = ""
    esp: str = "/boot"
    reads_variables: bool = True
    read_only: bool = False
    commands_left: int | None = None
    """The controller is killed, and the connection with it, after so many more commands."""
    done: list[tuple[str, ...]] = field(default_factory=list)
    listed_boots: str = ""
    last_words: str = ""

    def text(self) -> str:
        return self.files.get(CONF, "")

    @property
    def record(self) -> dict[str, object] | None:
        return json.loads(self.files[RECORD]) if RECORD in self.files else None

    @property
    def default(self) -> str | None:
        found = re.search(r"^default (\S+)$", self.text(), re.MULTILINE)
        return found[1] if found else None

    def install(self, default: str, *more: str) -> None:
        """What NixOS's installer of the boot loader writes."""
        lines = ("timeout 5", f"default {default}", "editor 0", *more, "console-mode keep")
        self.files[CONF] = "\n".join(lines) + "\n"

    def boots(self) -> str:
        """The system that the next boot starts; variables are used up as by the real loader."""
        wanted = [self.one_shot, self.pinned] if self.reads_variables else []
        if self.reads_variables:
            self.one_shot = ""
        known = [each for each in (*wanted, self.default) if each in self.entries]
        system = self.entries[known[0] if known else max(self.entries)]
        return self.boots() if system in self.broken else system

    def reboot(self, into: str | None = None) -> None:
        super(SystemdBootHost, self).reboot(into or self.boots())

    def perform(self, argv: tuple[str, ...]) -> CommandResult:
        if self.commands_left is not None and argv[0] != "echo":
            if self.commands_left == 0:
                raise lost("the controller was killed")
            self.commands_left -= 1
        self.done.append(argv)
        return self._of_booting(argv) or super(SystemdBootHost, self).perform(argv)

    def _of_booting(self, argv: tuple[str, ...]) -> CommandResult | None:  # noqa: C901, PLR0912 (one arm a command)
        if argv[0] in self.refuses:
            return None
        match argv:
            case ("bootctl", "--print-esp-path" | "--print-boot-path"):
                return CommandResult(exit_code=0 if self.esp else 1, stdout=self.esp and f"{self.esp}\n")
            case ("bootctl", "set-oneshot", entry) if entry and self.read_only:
                return CommandResult(exit_code=1, stderr="Failed to update EFI variable: Read-only file system\n")
            case ("bootctl", "set-oneshot", entry):
                self.one_shot = entry
                return OK
            case ("test", "-e", path) if found := _VARIABLE.fullmatch(path):
                value = self.one_shot if found[1] == "OneShot" else self.pinned
                return CommandResult(exit_code=0 if value else 1)
            case ("test", "-e", path):
                return CommandResult(exit_code=0 if path in self.files else 1)
            case ("grep", "-r", "-l", "-s", "-F", text, *_):
                ids = [name for name, system in self.entries.items() if f"init={system}/init" == text]
                return CommandResult(exit_code=0, stdout="".join(f"/boot/loader/entries/{name}\n" for name in ids))
            case ("printf", _, *lines):
                return CommandResult(exit_code=0, stdout="".join(f"{line}\n" for line in lines))
            case ("mv", source, target):
                self.files[target] = self.files.pop(source)
                return OK
            case ("sync" | "kexec", *_):
                return OK
            case ("journalctl", "--list-boots", *_):
                return CommandResult(exit_code=0, stdout=self.listed_boots)
            case ("journalctl", "-b", "-1", *_):
                return CommandResult(exit_code=0, stdout=self.last_words)
            case _:
                return None
