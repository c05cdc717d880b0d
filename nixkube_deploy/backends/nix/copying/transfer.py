"""One copy while it runs: how far it is, in words for people, and whether anything still moves.

It moves nothing itself, and does not know how the bytes travel.
"""

import re
from collections.abc import Awaitable
from typing import Final

import anyio

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.size import size_text
from nixkube_deploy.ports.shell import CommandResult, OnLine

_PATHS: Final = re.compile(r"copying (\d+) paths")
_PATH: Final = re.compile(r"copying path '[^']+'")
_FETCHED: Final = re.compile(r"these (\d+) paths will be fetched")
_LISTED: Final = re.compile(r"\s*/nix/store/\S+$|warning: you did not specify '--add-root'|this path will be fetched")
_PAUSE: Final = 0.5
"""Seconds between two lines for people."""

_FETCH_RATE: Final = 1 << 20
"""Bytes a second: a host that fetches from a cache is silent meanwhile; one that is slower counts as stuck."""


class Transfer:
    """Hears of lines and bytes. ``fetches``: the host may get by itself what is missing, and says nothing then."""

    def __init__(self, host: Host, paths: int, size: int, on_line: OnLine | None, *, fetches: bool) -> None:
        self._host, self.paths, self.size = host, paths, size
        self._tell = on_line or (lambda _line: None)
        self._patience = host.copy.stall + (size / _FETCH_RATE if fetches else 0.0)
        self._scope = anyio.CancelScope()
        self._begun, self._moved, self._told = 0, 0, 0.0
        self._last = ""

    async def during(self, work: Awaitable[CommandResult]) -> CommandResult:
        """The copy's result.

        Raises:
            TaskError: COPY, transient: nothing moved for too long.
        """
        with self._scope:
            self._stir()
            return await work
        raise TaskError(self._stalled())

    def hear(self, line: str) -> None:
        """``on_line`` for whoever copies."""
        if _PATH.match(line):
            self._begun += 1
            self._progress()
        elif match := _PATHS.match(line):
            self.paths, self._patience = int(match[1]), self._host.copy.stall  # What is left comes from us.
        elif match := _FETCHED.match(line):
            self.paths = int(match[1])
        elif line.strip() and not _LISTED.match(line):
            self._tell(line)
        self._stir()

    def moved(self, count: int) -> None:
        """Bytes went by; 0 for the other direction's."""
        self._moved += count
        self._stir()
        self._progress()

    def end(self) -> None:
        """Say what came of it."""
        size = f", {size_text(self._moved)}" if self._moved else ""
        self._tell(f"copied {self._begun} path{'' if self._begun == 1 else 's'}{size}")

    def _stir(self) -> None:
        self._scope.deadline = anyio.current_time() + self._patience

    def _progress(self) -> None:
        now = anyio.current_time()
        if not self._begun or now - self._told < _PAUSE:
            return
        total = max(self.paths, self._begun)
        moved = min(self._moved, self.size)
        size = f", {size_text(moved)} of {size_text(self.size)}" if moved else ""
        line = f"copying {self._begun} of {total} paths{size}"
        if line != self._last:
            self._last, self._told = line, now
            self._tell(line)

    def _stalled(self) -> Failure:
        name, limit = self._host.name, f"{self._patience:g} s"
        return Failure(
            kind=FailureKind.COPY,
            message=f"the copy to {name} stalled: nothing moved for {limit}",
            expected=f"a byte or a line at least every {limit}",
            seen=f"{self._begun} of {max(self.paths, self._begun)} paths begun, {size_text(self._moved)} sent",
            did="it was ended; paths that had arrived whole are kept",
            next=f"{self._host.login} ps -ef  # is nix-store waiting for a lock, or the disk? "
            "Raise copy.stall if the link is only slow",
            transient=True,
        )
