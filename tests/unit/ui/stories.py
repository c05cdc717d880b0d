"""Runs told by hand: a plan, a clock, and the records a controller would have written. Shared by the ui's tests."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nixkube_deploy.model.event import (
    Event,
    Outcome,
    Record,
    RunDraining,
    RunFinished,
    RunStarted,
    SkipCause,
    TaskInterrupted,
    TaskReported,
    TaskRetrying,
    TaskSettled,
    TaskStarted,
    Verdict,
)
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import HostName, RunId, TaskId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.model.strategy import HostPolicy, Strategy
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.rollout import rollout
from tests.builders import a_failure, a_flake, a_fleet, closures_for, facts_for
from tests.fakes.clock import ManualClock

GOLDEN = Path(__file__).parents[2] / "golden/ui"
RUN = RunId("20261123T030000Z-3fa9")

DRAIN = Failure(
    kind=FailureKind.DRAIN,
    message="2 pods were still on the node after 600 s",
    expected="every pod that can be evicted is gone",
    seen="default/web-1 is held by PodDisruptionBudget default/web (needs 2 healthy pods and has 2 currently)",
    evidence=("default/web-1  Running  PodDisruptionBudget default/web", "default/web-2  Terminating for 31 s"),
    did="evicted 3: default/api-1, default/api-2, kube-system/coredns-5f8",
    next="kubectl get pdb -n default web",
)
ACTIVATION = Failure(
    kind=FailureKind.ACTIVATION,
    message="the activation script failed",
    expected="switch-to-configuration exits with 0",
    seen="exit code 2",
    evidence=("setting up /etc...", "chown: invalid user: 'etcd:etcd'", "Activation script snippet 'etcd' failed (1)"),
    did="left the host's own timer armed",
    next="ssh w1 journalctl -u nixkube-deploy-switch-20261123T030000Z-3fa9-1f2e3d4c",
    command="/nix/store/1f2e3d4c-nixos-system-w1/bin/switch-to-configuration switch",
    exit_code=2,
)


@dataclass
class Story:
    """A run as it goes. ``listeners`` see every record and report as they happen."""

    plan: Plan
    clock: ManualClock = field(default_factory=ManualClock)
    records: list[Record] = field(default_factory=list)
    sinks: list[Any] = field(default_factory=list)

    def happen(self, event: Event) -> None:
        record = Record(seq=len(self.records), at=self.clock.now().timestamp(), event=event)
        self.records.append(record)
        for sink in self.sinks:
            sink.saw(record)

    def begin(self, *, resumed: bool = False) -> None:
        self.happen(RunStarted(run=RUN, fingerprint="f", resumed=resumed))

    def start(self, *tasks: str, attempt: int = 1) -> None:
        for task in tasks:
            self.happen(TaskStarted(task=TaskId(task), attempt=attempt))

    def ok(self, *tasks: str, detail: str = "", verdict: Verdict = Verdict.SUCCEEDED) -> None:
        for task in tasks:
            self.happen(TaskSettled(task=TaskId(task), verdict=verdict, detail=detail))

    def do(self, *tasks: str, seconds: float = 1.0, detail: str = "") -> None:
        """Start, take that long, succeed: one after the other."""
        for task in tasks:
            self.start(task)
            self.clock.advance(seconds)
            self.ok(task, detail=detail)

    def fail(self, task: str, failure: Failure = DRAIN) -> None:
        self.happen(TaskSettled(task=TaskId(task), verdict=Verdict.FAILED, failure=failure))

    def retry(self, task: str, failure: Failure, attempt: int = 1, delay: float = 5.0) -> None:
        self.happen(TaskRetrying(task=TaskId(task), attempt=attempt, failure=failure, delay=delay))

    def skip(self, *tasks: str, cause: SkipCause = SkipCause.DEPENDENCY, detail: str = "") -> None:
        for task in tasks:
            self.happen(TaskSettled(task=TaskId(task), verdict=Verdict.SKIPPED, skip=cause, detail=detail))

    def spare(self, host: str) -> None:
        """The steps that run only on a failure settle as not needed."""
        ways = [t.id for t in self.plan.graph.values() if t.host == host and t.id not in self.settled]
        self.skip(*ways, cause=SkipCause.NOT_NEEDED)

    def rest(self, host: str, cause: SkipCause, detail: str) -> None:
        """Every step of a host that has not settled is skipped for that cause."""
        left = [t.id for t in self.plan.graph.values() if t.host == host and t.id not in self.settled]
        self.skip(*left, cause=cause, detail=detail)

    @property
    def settled(self) -> set[TaskId]:
        return {r.event.task for r in self.records if isinstance(r.event, TaskSettled)}

    def say(self, task: str, line: str) -> None:
        for sink in self.sinks:
            sink.heard(TaskReported(task=TaskId(task), line=line))

    def drain(self, reason: str) -> None:
        self.happen(RunDraining(reason=reason))

    def interrupt(self, task: str) -> None:
        self.happen(TaskInterrupted(task=TaskId(task)))

    def end(self, outcome: Outcome = Outcome.CONVERGED) -> None:
        self.happen(RunFinished(outcome=outcome))


def a_plan(text: str = "cp1 | w1..w4", changed: str = "cp1=reboot w1=live w2=node-restart", problem: str = "") -> Plan:
    """A real plan of that fleet; hosts in ``problem`` could not be planned."""
    fleet = a_fleet(text, strategy=Strategy(host=HostPolicy(soak=0.0)))
    prepared = Prepared(
        facts=facts_for(fleet),
        closures=closures_for(fleet, changed=changed),
        problems={HostName(name): a_failure() for name in problem.split()},
        flake=a_flake(),
        voters=frozenset(),
    )
    return rollout(fleet, prepared, Choices())


def a_story(*sinks: Callable[[Plan, ManualClock], Any], problem: str = "w4") -> Story:
    """A story about ``a_plan``; each sink is made of the plan and the clock."""
    story = Story(a_plan(problem=problem))
    story.sinks = [make(story.plan, story.clock) for make in sinks]
    return story


def stage(story: Story) -> None:
    """Everything up to the barrier."""
    story.begin()
    story.start("w1/copy", "cp1/copy", "w2/copy")
    story.clock.advance(3.25)
    story.ok("w1/copy", detail="212 MiB")
    story.ok("cp1/copy", verdict=Verdict.UNCHANGED, detail="already there")
    story.clock.advance(1)
    story.retry("w2/copy", a_failure("connection reset by peer"), delay=4.8)
    story.clock.advance(4.8)
    story.start("w2/copy", attempt=2)
    story.clock.advance(2)
    story.ok("w2/copy", detail="212 MiB")
    story.start("fleet/staged")
    story.ok("fleet/staged")


def good_run(story: Story) -> None:
    """All well: a live switch, a node restart, a reboot."""
    stage(story)
    story.do("w1/activate", "w1/prove", "w1/gate", "w1/confirm", seconds=2)
    story.spare("w1")
    story.do("w2/cordon", seconds=0.2)
    story.do("w2/drain", seconds=14, detail="6 pods evicted")
    story.do("w2/activate", "w2/prove", "w2/gate", "w2/confirm", "w2/uncordon", seconds=3)
    story.spare("w2")
    story.do("cp1/cordon", "cp1/drain", "cp1/activate", seconds=4)
    story.do("cp1/reboot", seconds=71)
    story.do("cp1/prove", "cp1/gate", "cp1/confirm", "cp1/uncordon", seconds=2)
    story.spare("cp1")
    story.end()


def bad_run(story: Story) -> None:
    """A host is taken back, a drain fails, the rest is not touched."""
    stage(story)
    story.start("w1/activate")
    story.clock.advance(9)
    story.fail("w1/activate", ACTIVATION)
    story.skip("w1/prove", "w1/gate", "w1/confirm", detail="w1/activate failed")
    story.do("w1/rollback", seconds=5, detail="back on system-7")
    story.do("w1/rollback-gate", seconds=5)
    story.start("w2/cordon")
    story.ok("w2/cordon")
    story.start("w2/drain")
    story.clock.advance(600)
    story.fail("w2/drain")
    story.do("w2/undrain", seconds=0.3)
    story.rest("w2", SkipCause.DEPENDENCY, "w2/drain failed")
    story.rest("cp1", SkipCause.HALTED, "the canary w1 failed")
    story.end(Outcome.ROLLED_BACK)


def golden(name: str, text: str) -> None:
    """Compare with a golden file; UPDATE_GOLDEN=1 rewrites it."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(f"{text}\n")
    assert text == path.read_text().removesuffix("\n")
