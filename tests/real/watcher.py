"""Looks at every process of the machine, hosts' included, over and over, for a text that must not be there.

It sees what any user with ``ps`` would, many times a second; what it has seen is kept in numbers only.
"""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_PAUSE = 0.002


@dataclass
class ProcessWatcher:
    """For the length of a ``with`` block."""

    text: str
    folders: tuple[Path, ...] = ()
    """Also looked into, for files that live only for a moment."""
    source: int = 0
    """The process whose own environment is where the text comes from. A child is its image until it runs a program."""
    rounds: int = 0
    seen: set[str] = field(default_factory=set)
    """Every command line there was, its words joined by blanks."""
    found: list[str] = field(default_factory=list)
    """Where the text was."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _watch(self) -> None:
        needle, own = self.text.encode(), os.getpid()
        while not self._stop.is_set():
            for entry in os.scandir("/proc"):
                if entry.name.isdecimal() and int(entry.name) != own:
                    self._look_at(int(entry.name), needle)
            if self.rounds % 20 == 0:
                self.found += (f"file {path}" for path in holding(self.folders, self.text))
            self.rounds += 1
            time.sleep(_PAUSE)

    def _look_at(self, pid: int, needle: bytes) -> None:
        with suppress(OSError):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes()
            words = argv.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
            self.seen.add(words)
            if needle in argv:
                self.found.append(f"argv of {pid}: {words}")
            if needle in Path(f"/proc/{pid}/environ").read_bytes() and not self._is_source(pid, argv):
                self.found.append(f"environment of {pid}: {words}")

    def _is_source(self, pid: int, argv: bytes) -> bool:
        return pid == self.source or (self.source > 0 and argv == Path(f"/proc/{self.source}/cmdline").read_bytes())


def holding(folders: tuple[Path, ...], text: str) -> list[Path]:
    """The files under ``folders`` with the text in them; what vanishes or is no plain file is passed over."""
    needle = text.encode()
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            with suppress(OSError):
                if path.is_file() and not path.is_symlink() and needle in path.read_bytes():
                    found.append(path)
    return found
