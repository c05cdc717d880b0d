"""A host's store before a copy: what is there, what is missing, and whether there is room for it.

It deletes nothing unless the inventory says so, and never what runs, what was booted, or the current generation.
"""

import math
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from nixkube_deploy.backends.nix.copying.diagnosis import copy_failure
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.model.packages import StoredPath
from nixkube_deploy.model.size import size_text, told_apart
from nixkube_deploy.ports.shell import Command, OnLine, Shell

_LOOK: Final = """\
ls -d {path} >/dev/null 2>&1 && nix-store --check-validity {path} 2>/dev/null && exit 0
echo @disk
df -Pk /nix/store
xargs ls -d 2>/dev/null || true"""
"""A registered path has its whole closure, so one valid path is all there is to know; of one that is not there at all
that is known without starting Nix. What of its closure lies there is looked up in the file system, which costs a
tenth of what Nix takes: Nix itself asks, when it copies, which of that is valid.

The last line's answers come one a line, and thousands of paths fit on no command line.
"""
_LACKS: Final = "@disk"

_GENERATIONS: Final = """\
date +%s
readlink -f /run/booted-system
readlink -f /run/current-system
ls -l --time-style=+%s /nix/var/nix/profiles"""

_PROFILE: Final = "/nix/var/nix/profiles/system"
_LINK: Final = re.compile(r"\s(\d+) system-(\d+)-link -> (/nix/store/\S+)$")
_CURRENT: Final = re.compile(r"\ssystem -> system-(\d+)-link$")
_STORE_PATH: Final = re.compile(r"/nix/store/[0-9A-Za-z][0-9A-Za-z+._?=-]+")
_DF: Final = re.compile(r"^\S+\s+\d+\s+\d+\s+(-?\d+)\s+\d+%\s")

_LOOKING: Final = 300.0
_COLLECTING: Final = 3600.0
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a look showed."""

    missing: frozenset[StorePath]
    """Of what was asked about; empty: the host has it all."""
    free: int | None
    """Bytes; None when the host did not say, or was not asked."""


class HostStores:
    """Looks into hosts' stores over the kept connection."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def look(self, host: Host, path: StorePath, closure: Collection[StorePath]) -> Found:
        """What of a closure the host lacks, in one round trip, which is cheapest where nothing is.

        Raises:
            TaskError: COPY or PRIVILEGE when its Nix cannot say, and what ``Shell`` raises.
        """
        present: set[StorePath] = set()
        free: list[int] = []
        lacks = False

        def hear(line: str) -> None:
            nonlocal lacks
            if line.strip() == _LACKS:
                lacks = True
            elif _STORE_PATH.fullmatch(line.strip()):
                present.add(StorePath(line.strip()))
            elif match := _DF.match(line):
                free.append(int(match[1]) * 1024)

        asked = frozenset({path, *closure})
        argv = ("sh", "-c", _LOOK.format(path=shlex.quote(path)))
        stdin = "".join(f"{each}\n" for each in sorted(asked))
        command = Command(argv=argv, stdin=stdin, privileged=True, timeout=_LOOKING)
        result = await self._shell.run(host, command, hear)
        if not result.ok:
            raise TaskError(copy_failure(host, path, result))
        missing = (asked - present) | {path} if lacks else frozenset[StorePath]()
        return Found(missing=missing, free=free[-1] if free else None)

    async def collect_garbage(self, host: Host, on_line: OnLine) -> str:
        """Delete old generations, then what nothing needs any more; returns what was done, for people.

        Raises:
            TaskError: what ``Shell`` raises. A collection that fails is only said: the look after it decides.
        """
        age = host.copy.collect_garbage
        assert age is not None
        listed = await self._shell.run(host, Command(argv=("sh", "-c", _GENERATIONS), privileged=True))
        old = old_generations(listed.stdout, age)
        days = f"{age / _DAY:g} days"
        on_line(f"collecting garbage: {len(old)} generations older than {days}")
        lines = [f"nix-env -p {_PROFILE} --delete-generations {' '.join(map(str, old))}"] if old else []
        script = "\n".join([*lines, "nix-store --gc"])
        command = Command(argv=("sh", "-c", script), privileged=True, timeout=_COLLECTING)
        result = await self._shell.run(host, command)
        if not result.ok:
            on_line(f"the garbage collector ended with {result.exit_code}: {' '.join(result.tail(1))}")
        return f"deleted {len(old)} generations older than {days} and collected garbage"


def old_generations(listing: str, age: float) -> tuple[int, ...]:
    """Which generations may go. None, where it cannot be told which one was booted.

    A generation is as old as its link. As for ``nix-env``, the newest of the old ones stays: it was still in use when
    the first of the young ones came, and is the way back from that.
    """
    lines = listing.splitlines()
    if not lines or not lines[0].strip().isdigit():
        return ()
    now = int(lines[0])
    booted_and_running = [line.strip() for line in lines[1:3] if _STORE_PATH.fullmatch(line.strip())]
    in_use = set(booted_and_running)
    links = {int(m[2]): (int(m[1]), m[3]) for line in lines if (m := _LINK.search(line))}
    current = next((int(m[1]) for line in lines if (m := _CURRENT.search(line))), None)
    systems = {system for _, system in links.values()}
    if current is None or len(booted_and_running) < 2 or not in_use <= systems:  # noqa: PLR2004 (the two links)
        return ()
    old = [number for number, (at, _) in sorted(links.items()) if now - at > age]
    return tuple(number for number in old[:-1] if number != current and links[number][1] not in in_use)


def needed(found: Found, closure: Mapping[StorePath, StoredPath]) -> int:
    """Bytes that are missing; unknown paths count as nothing."""
    return sum(closure[path].size for path in found.missing if path in closure)


def check_room(host: Host, found: Found, size: int, did: str = "") -> None:
    """Refuse to begin what cannot end well.

    Raises:
        TaskError: DISK_FULL, with both numbers.
    """
    if found.free is None or size + host.copy.min_free <= found.free:
        return
    whole, need, free = told_apart(size + host.copy.min_free, size, found.free)
    kept = f", and {size_text(host.copy.min_free)} are to stay free (copy.min_free)" if host.copy.min_free else ""
    days = 14 if host.copy.collect_garbage is None else max(0, math.floor(host.copy.collect_garbage / _DAY) - 1)
    inventory = "  # or copy: {collect_garbage: 14d} in the inventory" if host.copy.collect_garbage is None else ""
    raise TaskError(
        Failure(
            kind=FailureKind.DISK_FULL,
            message=f"the closure does not fit on {host.name}: it needs {need}, and {free} are free{kept}",
            expected=f"{whole} free in /nix/store",
            seen=f"{free} free",
            did=did or "nothing was copied",
            next=f"{host.login} nix-collect-garbage --delete-older-than {days}d{inventory}",
        )
    )
