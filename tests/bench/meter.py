"""What one command cost: seconds, processor time here and on the hosts, and SSH logins by the hosts' own account.

It starts one program at a time and waits until nothing of it is left; what the figures mean is said elsewhere.
"""

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One run of one program."""

    seconds: float
    here: float
    """Processor seconds of the program and everything it started here."""
    there: float
    """Processor seconds of all hosts meanwhile."""
    logins: int
    """SSH logins that the hosts accepted."""
    exit_code: int
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """Measures programs against one bed of hosts."""

    inits: Callable[[], Sequence[int]]
    """The hosts' first processes, as seen from here."""
    logins: Callable[[], int]
    """How many logins the hosts have accepted since they started."""

    def measure(self, argv: Sequence[str], env: Mapping[str, str]) -> Cost:
        """Run to the end. What stays behind (a shared ssh connection) is ended and counted too."""
        adopt_orphans()
        ours = frozenset(_children(os.getpid()))
        logins, there, here = self.logins(), self._of_hosts(), _of_children()
        begin = time.perf_counter()
        with TemporaryFile("w+", errors="replace") as output:  # No pipe: a shared ssh connection would keep it open.
            done = subprocess.run(
                argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
            )
            seconds = time.perf_counter() - begin
            end_orphans(ours)
            output.seek(0)
            said = output.read()
        return Cost(
            seconds=seconds,
            here=_of_children() - here,
            there=self._of_hosts() - there,
            logins=self.logins() - logins,
            exit_code=done.returncode,
            output=said,
        )

    def _of_hosts(self) -> float:
        return sum(processor_seconds(self.inits()))


def adopt_orphans() -> None:
    """Become the parent of whatever our children leave behind, so that its processor time is ours to read."""
    ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans(ours: Collection[int]) -> None:
    """End what a program left behind: children of this process that it did not have before."""
    for pid in set(_children(os.getpid())) - set(ours):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def processor_seconds(inits: Sequence[int]) -> Iterator[float]:
    """Of whole process trees: what lives, and what its parents have waited for."""
    parents, spent = _table()
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    todo = list(inits)
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        yield spent.get(pid, 0.0)


def _table() -> tuple[dict[int, int], dict[int, float]]:
    parents: dict[int, int] = {}
    spent: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(entry)):
            parents[int(entry.name)] = int(fields[1])
            spent[int(entry.name)] = sum(map(int, fields[11:15])) / _TICKS
    return parents, spent


def _children(parent: int) -> list[int]:
    parents, _ = _table()
    return [pid for pid, its in parents.items() if its == parent]


def _stat(process: Path) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the command's name."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
