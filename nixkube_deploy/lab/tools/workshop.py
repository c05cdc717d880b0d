"""What a stand-in works with: its command line, its streams, and the world it acts on.

It parses options the strict way: what the real program would not know is refused.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nixkube_deploy.lab.faults import FaultPlan
from nixkube_deploy.lab.host import LabHost
from nixkube_deploy.lab.keyring import Keyring
from nixkube_deploy.lab.store import ControllerStore

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """The world, as far as programs on the controller reach it."""

    store: ControllerStore
    faults: FaultPlan
    hosts: Mapping[str, LabHost]
    keyring: Keyring
    changed: Callable[[], None]

    def host_at(self, port: int) -> LabHost | None:
        """Whose SSH port this is."""
        return next((host for host in self.hosts.values() if host.machine.port == port), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One run of a stand-in."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    workshop: Workshop
    out: Say
    err: Say


class ToolError(Exception):
    """The program ends with this code; the text went, or goes, to standard error."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


@dataclass(slots=True)
class Parsed:
    """A command line taken apart."""

    words: list[str] = field(default_factory=list)
    switches: set[str] = field(default_factory=set)
    values: dict[str, list[str]] = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        """Whether one of these switches was given."""
        return any(name in self.switches for name in names)

    def value(self, *names: str) -> str | None:
        """The last value of an option."""
        found = [value for name in names for value in self.values.get(name, [])]
        return found[-1] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a program knows: switches, and options with so many values."""

    switches: Collection[str]
    values: Mapping[str, int]
    unknown: Callable[[str], str]
    """The real program's words for an option it does not know."""
    code: int = 1

    def parse(self, argv: tuple[str, ...]) -> Parsed:
        """Take a command line apart; raises ToolError."""
        parsed = Parsed()
        words = list(argv)
        while words:
            word = words.pop(0)
            name, equals, inline = word.partition("=")
            if word == "--":
                parsed.words += words
                break
            if not word.startswith("-") or word == "-":
                parsed.words.append(word)
            elif word in self.switches:
                parsed.switches.add(word)
            elif word in self.values:
                count = self.values[word]
                if len(words) < count:
                    raise ToolError(f"error: flag '{word}' requires {count} argument(s)\n", self.code)
                parsed.values.setdefault(word, []).extend(words[:count])
                del words[:count]
            elif equals and name.startswith("--") and name in self.values:
                parsed.values.setdefault(name, []).append(inline)
            else:
                raise ToolError(self.unknown(word), self.code)
        return parsed
