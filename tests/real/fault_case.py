"""A fault and everything that must come of it, as a table; and the judgement of what was seen.

Each case runs twice: with the fault, and again when it is lifted, which must converge and leave nothing of ours behind.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nixkube_deploy.model.failure import FailureKind as Kind
from tests.real.fault_scene import VICTIM, Done, HostState, Scene, Setup, a_scene
from tests.told import last_told

CONVERGED, REFUSED, HALTED, TAKEN_BACK, LOCKED = 0, 3, 4, 5, 6
TIMER = "timer"


def simply(scene: Scene) -> Done:
    return scene.apply()


def mend_the_closure(scene: Scene) -> None:
    """The fault was a property of the new system: it gets another one."""
    scene.breaks()


@dataclass(frozen=True, kw_only=True)
class Case:
    """Hosts that are not named are untouched afterwards."""

    name: str
    exit_code: int
    act: Callable[[Scene], Done] = simply
    breaks: dict[str, Any] = field(default_factory=dict)
    """How the new system of n2 fails."""
    failed: str = ""
    """``host/step``; the host alone when nothing was begun."""
    kind: Kind | None = None
    says: tuple[str, ...] = ()
    """Parts of what is printed about the failure (or of the whole output, when nothing failed)."""
    new: str = ""
    """Hosts that run their new system."""
    old: str = ""
    """Hosts that were worked on and run their old system."""
    off: str = ""
    activated: str = "new"
    """What n2 began to activate, in order, during the fault."""
    generation: int | None = None
    """The current one of n2; 2 where it is new, 1 where it is not, unless said otherwise."""
    rebooted: str = ""
    left: str = ""
    """What is left on n2 on purpose."""
    lift: Callable[[Scene], None] = mend_the_closure
    again: str = ""
    """Part of what the second apply says."""
    setup: Setup = field(default_factory=Setup)
    slow: bool = False
    """Only in ``nox -s real``."""

    def __str__(self) -> str:
        return self.name

    def fate(self, host: str) -> str:
        fates = {"new": self.new, "old": self.old, "off": self.off}
        return next((fate for fate, hosts in fates.items() if host in hosts.split()), "untouched")


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One case, seen."""

    first: str
    wanted: dict[str, str]
    before: dict[str, HostState]
    done: Done
    report: dict[str, Any] | None
    problems: dict[str, dict[str, Any]]
    after: dict[str, HostState]
    again: Done
    finally_wanted: dict[str, str]
    finally_: dict[str, HostState]

    def host(self, name: str) -> dict[str, Any]:
        assert self.report is not None, self.done.output
        return next(host for host in self.report["hosts"] if host["host"] == name)

    def fate(self, name: str) -> str:
        if name not in self.after:
            return "off"
        before, after = self.before[name], self.after[name]
        if after.current == self.wanted[name]:
            return "new"
        assert after.current == self.first, f"{name} runs neither its old nor its new system: {after}"
        same = (after.generations, after.activations, after.profile) == (
            before.generations,
            before.activations,
            before.profile,
        )
        return "untouched" if same else "old"


def observe(folder: Path, case: Case) -> Observed:
    """One bed, one fault, two applies."""
    with a_scene(folder, case.setup) as scene:
        if case.breaks:
            scene.breaks(**case.breaks)
        before = scene.states()
        done = case.act(scene)
        wanted = scene.wants()
        report = scene.show()
        problems = {} if report else scene.problems()
        after = scene.states()
        case.lift(scene)
        again = scene.apply()
        return Observed(
            first=scene.first,
            wanted=wanted,
            before=before,
            done=done,
            report=report,
            problems=problems,
            after=after,
            again=again,
            finally_wanted=scene.wants(),
            finally_=scene.states(),
        )


def judge(case: Case, seen: Observed) -> None:
    """Everything a case promises."""
    output = seen.done.output
    assert seen.done.exit_code == case.exit_code, output
    assert "Traceback" not in output
    assert "a bug" not in output
    _judge_words(case, seen)
    assert {host: seen.fate(host) for host in seen.before} == {host: case.fate(host) for host in seen.before}, output
    _judge_victim(case, seen)
    _judge_end(case, seen)


def _judge_words(case: Case, seen: Observed) -> None:
    """The right host and step, and a message with which a person can go on."""
    host = case.failed.partition("/")[0]
    if seen.report is None and case.failed:
        assert set(seen.problems) == {host}, seen.done.output
        assert seen.problems[host]["kind"] == case.kind
    elif seen.report is not None:
        failed = {h["host"]: h["failed"] or h["host"] for h in seen.report["hosts"] if h["failure"]}
        assert failed == ({host: case.failed} if host else {}), seen.done.output
        assert not host or seen.host(host)["failure"]["kind"] == case.kind, seen.done.output
    if not case.failed:
        for words in case.says:
            assert words in seen.done.output, seen.done.output
        return
    told = last_told(seen.done.output, case.failed)
    assert {"expected", "seen", "next"} <= told.keys(), told
    assert all(told.values()), told
    if "/" in case.failed:
        assert "did" in told, told
    for words in case.says:
        assert words in " ".join(told.values()), told


def _judge_victim(case: Case, seen: Observed) -> None:
    """Inside n2: what it did, and what it holds."""
    rebooted = {name for name, state in seen.after.items() if state.boot_id != seen.before[name].boot_id}
    assert rebooted == set(case.rebooted.split()), seen.done.output
    if VICTIM not in seen.after:
        return
    after = seen.after[VICTIM]
    if case.fate(VICTIM) != "untouched":
        assert " ".join(after.activations) == case.activated, seen.done.output
        generation = case.generation or (2 if case.fate(VICTIM) == "new" else 1)
        assert after.generation == generation, after
    left = {unit.rpartition(".")[2] for unit in after.units} - {"service"}
    assert left == set(case.left.split()), after.units
    assert not after.locked or case.exit_code == LOCKED, "our lock outlived us"


def _judge_end(case: Case, seen: Observed) -> None:
    """When the fault is lifted, one more apply makes everything what it should be, and nothing of ours is left."""
    assert seen.again.exit_code == CONVERGED, seen.again.output
    assert case.again in seen.again.output
    for name, state in seen.finally_.items():
        assert state.current == state.profile == seen.finally_wanted[name], (name, seen.again.output)
        assert (state.units, state.locked) == ((), False), (name, state.units)
        assert state.generation == max(state.generations), state
