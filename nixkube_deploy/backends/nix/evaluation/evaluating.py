"""One evaluation of many hosts: evaluators take hosts from a queue, and what becomes of each pass decides what is next.

It knows memory, culprits and progress; which flake this is and what is already known is the evaluator's business.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from nixkube_deploy.backends.nix.evaluation import diagnosis, expressions
from nixkube_deploy.backends.nix.evaluation.expressions import Wanted
from nixkube_deploy.backends.nix.evaluation.metadata import LockedFlake
from nixkube_deploy.backends.nix.evaluation.sizing import PER_KEPT_HOST, Room, Sizes
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import CommandResult, OnLine

LOCKED: Final = "--no-update-lock-file"
"""Not ``--no-write-lock-file``: that one evaluates with whatever the lock file lacks, fetched this minute."""
_REFUSED: Final = re.compile(r"getFlake|attribute 'nixosConfigurations' missing")
CONFIGURATIONS: Final = "nixosConfigurations"
EVALUATION_TIMEOUT: Final = 3600.0
_TOLD: Final = 4
"""Of how many hosts with errors that were caught the error is asked for, at the price of an evaluation each."""
_EACH: Final = 20
"""With more hosts than this, only every so many are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What came of one evaluator."""

    done: Mapping[str, Any]
    culprit: str | None
    """Whom it was busy with when it ended."""
    result: CommandResult
    answer: expressions.Answer | None
    failure: Failure | None = None
    """Of the evaluator itself: it did not end in time."""
    refused: bool = False
    """Whether a flake of its own for every host is what failed; ``nix eval FLAKE#...`` has the better words for it."""

    @property
    def starved(self) -> bool:
        """Whether memory was the end of it: our cap, or the kernel's."""
        killed = self.result.exit_code == diagnosis.KILLED and "error:" not in self.result.stderr
        return self.result.outgrew or killed


@dataclass(slots=True)
class Progress:
    """What people are told while it lasts."""

    total: int
    on_line: OnLine
    done: int = 0
    _told: set[str] = field(default_factory=set)

    def finished(self, host: str) -> None:
        """One more host is evaluated, or has failed."""
        self.done += 1
        if self.total <= _EACH or self.done == self.total or self.done % (self.total // 10) == 0:
            self.on_line(f"evaluated {host} ({self.done} of {self.total})")

    def hear(self, line: str) -> None:
        """A warning of Nix or of the flake; every evaluator gives it again."""
        if "warning:" in line and line not in self._told:
            self._told.add(line)
            self.on_line(line)


class Evaluating:
    """The queue, and what has come of it so far."""

    def __init__(
        self, program: NixProgram, flake: LockedFlake, flags: Sequence[str], sizes: Sizes, progress: Progress
    ) -> None:
        self._program, self._flake, self._flags, self.sizes = program, flake, tuple(flags), sizes
        self._progress, self.fresh = progress, flake.pinned and tuple(flags) == (LOCKED,)
        self._room = Room(sizes.cap)
        self._queue: deque[Wanted] = deque()
        self._alone: set[HostName] = set()
        self._untold: list[Wanted] = []
        self._running = 0
        self._changed = anyio.Condition()
        self.found: dict[HostName, Evaluated] = {}
        self.failures: dict[HostName, Failure] = {}

    async def run(self, hosts: Sequence[Wanted]) -> None:
        """Evaluate them all; everything that goes wrong is some host's failure."""
        self._queue.extend(sorted(hosts, key=lambda each: (each.root, each.host.name)))
        async with anyio.create_task_group() as group:
            for _ in range(self.sizes.workers):
                group.start_soon(self._work)
        told = sorted(self._alone)
        for each in self._untold:
            self.failures[each.host.name] = diagnosis.untold_failure(each.host, self._flake.reference, told)

    async def _work(self) -> None:
        while hosts := await self._next():
            share = self.sizes.share
            await self._room.take(share)
            try:
                outcome = await self._pass(hosts, self.sizes.limit_of(share))
            finally:
                await self._room.give(share)
            self.sizes.saw(outcome.result.peak_memory, len(outcome.done), outgrew=outcome.result.outgrew)
            self._settle(hosts, outcome, share)
            async with self._changed:
                self._running -= len(hosts)
                self._changed.notify_all()

    async def _next(self) -> tuple[Wanted, ...]:
        """Hosts of one root for one evaluator; none when nothing is left to do."""
        async with self._changed:
            while not self._queue and self._running:
                await self._changed.wait()  # What runs may yet put something back.
            most, taken = self.sizes.chunk(len(self._queue), self._running), list[Wanted]()
            while self._queue and len(taken) < most:
                each = self._queue[0]
                alone = each.host.name in self._alone
                if taken and (alone or each.root != taken[0].root):
                    break
                taken.append(self._queue.popleft())
                if alone:
                    break
            fitting = expressions.fitting(taken)
            self._queue.extendleft(reversed(taken[fitting:]))
            self._running += fitting
            return tuple(taken[:fitting])

    async def _pass(self, hosts: Sequence[Wanted], limit: int) -> Pass:
        """One evaluator over some hosts."""
        done: dict[str, Any] = {}
        begun: list[str] = []

        def listen(line: str) -> None:
            match expressions.heard(line):
                case expressions.Begun(host=host):
                    begun.append(host)
                case expressions.Done(host=host, value=value):
                    done[host] = value
                    self._progress.finished(host)
                case None:
                    self._progress.hear(line)

        fresh = self.fresh and hosts[0].root == CONFIGURATIONS
        failure, result = None, CommandResult(exit_code=1)
        try:
            result = await self._program.run(
                *self._arguments(hosts, fresh=fresh), timeout=EVALUATION_TIMEOUT, on_line=listen, memory_limit=limit
            )
        except TaskError as error:
            failure = error.failure
        said = expressions.answer(result.stdout) if result.ok else None
        for name, value in (said.hosts if said else {}).items():
            if name not in done and isinstance(value, Mapping) and "drvPath" in value:
                done[name] = value
        culprit = begun[-1] if begun and begun[-1] not in done else None
        refused = fresh and not begun and bool(_REFUSED.search(result.stderr))
        return Pass(done=done, culprit=culprit, result=result, answer=said, failure=failure, refused=refused)

    def _arguments(self, hosts: Sequence[Wanted], *, fresh: bool) -> tuple[str, ...]:
        catching = len(hosts) > 1
        if fresh:
            value = expressions.select_hosts(hosts, catching=catching, url=self._flake.locked)
            return ("eval", "--json", "--expr", value)
        function = expressions.select_hosts(hosts, catching=catching)
        return ("eval", "--json", *self._flags, f"{self._flake.locked}#{hosts[0].root}", "--apply", function)

    def _settle(self, hosts: Sequence[Wanted], outcome: Pass, share: int) -> None:
        """Keep what was done, blame who is to blame, and put back the rest."""
        left: list[Wanted] = []
        for each in hosts:
            name = each.host.name
            one = expressions.evaluated(each.host, outcome.done.get(name))
            if one is not None:
                self.found[name] = one
            elif outcome.answer is not None:
                self._fate(each, outcome.answer.hosts.get(name), outcome)
            else:
                left.append(each)
        if outcome.answer is None and left:
            self._put_back(left, outcome, share)

    def _fate(self, each: Wanted, value: Any, outcome: Pass) -> None:
        """A host that a pass came through without."""
        match value:
            case {"caught": True} if len(self._alone) < _TOLD:
                self._alone.add(each.host.name)
                self._queue.append(each)
            case {"caught": True}:
                self._untold.append(each)
            case {"missing": True} if outcome.answer is not None:
                self._fail(each, diagnosis.missing_failure(each.host, self._flake.reference, outcome.answer.names))
            case _:
                self._fail(each, self._why(each, outcome))

    def _put_back(self, left: list[Wanted], outcome: Pass, share: int) -> None:
        if outcome.refused:
            self.fresh, self.sizes.per_host = False, max(self.sizes.per_host, PER_KEPT_HOST)
            self._queue.extendleft(reversed(left))
            return
        if outcome.starved and (outcome.done or share < self.sizes.cap):
            if not outcome.done and share == self.sizes.share:
                self.sizes.grow()
            self._queue.extendleft(reversed(left))
            return
        culprits = [each for each in left if each.host.name == outcome.culprit]
        for each in culprits or left:
            self._fail(each, self._why(each, outcome))
        if culprits:
            self._queue.extendleft(each for each in reversed(left) if each not in culprits)

    def _why(self, each: Wanted, outcome: Pass) -> Failure:
        if outcome.failure is not None:
            return outcome.failure
        if outcome.result.outgrew:
            return diagnosis.memory_failure(each.host, self.sizes.cap, outcome.result)
        if diagnosis.rootless(outcome.result, each.root):
            return diagnosis.missing_failure(each.host, self._flake.reference, ())
        return diagnosis.evaluation_failure(each.host, self._flake.reference, outcome.result, self._flake.source)

    def _fail(self, each: Wanted, failure: Failure) -> None:
        self.failures[each.host.name] = failure
        self._progress.finished(each.host.name)
