"""From one host's intent to its tasks: the chain, what runs when a step of it fails, and the section around both.

Retries and time-outs per action live here and nowhere else. It deliberately knows nothing of other hosts; the barrier
``fleet/staged`` is the one thing its tasks share with theirs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from nixkube_deploy.model.action import (
    Action,
    AwaitBlockers,
    ConfirmActivation,
    CopyClosure,
    CordonNode,
    DrainNode,
    InstallNixos,
    InstallPhase,
    OpenGate,
    PromoteEntry,
    ProveHost,
    RebootHost,
    RollBack,
    Soak,
    SpareVoter,
    Stage,
    SwitchConfiguration,
    SwitchMode,
    UncordonNode,
    WayBack,
)
from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.fleet import Activator, BootstrapSettings, InstallDeadlines
from nixkube_deploy.model.names import HostName, TaskId
from nixkube_deploy.model.strategy import Gates, RebootMethod, RetryPolicy
from nixkube_deploy.model.task import Pool, Section, Task
from nixkube_deploy.plan.intent import Intent

STAGED = TaskId("fleet/staged")
"""The barrier: every closure is where it belongs, or was given up on."""

ONCE = RetryPolicy()
"""For what is not worth, or not safe, repeating by itself."""
API_CALL = RetryPolicy(attempts=5, backoff=2.0)
COPY = RetryPolicy(attempts=3, backoff=5.0)
ACTIVATE = RetryPolicy(attempts=2, backoff=5.0)
"""Only transient failures are repeated, and an activation looks before it acts."""
LOOK = RetryPolicy(attempts=3, backoff=5.0)
AWAIT_BOOT = RetryPolicy(attempts=60, backoff=1.0, factor=1.5, ceiling=15.0)
"""nixos-anywhere returns when the machine is gone; until it is back, looking fails."""

ROLLED_BACK = frozenset({"activate", "reboot", "prove", "gate", "promote", "confirm", "soak"})
"""Steps whose failure takes the host back."""

WAITED = frozenset({"blockers", "etcd"})
"""Steps that only wait for a good moment: their failure leaves the host as it was."""
EMPTIED = WAITED | {"cordon", "drain"}
"""Steps whose failure gives the Node back untouched."""
BOOT_PREPARED = EMPTIED | {"activate"}
"""The same where activating only prepares the next boot: whatever became of that, the host still is what it was."""

WAIT_MARGIN = 60.0
"""Seconds beyond the action's own deadline, so that the action reports it and not the engine."""
SILENCE = 240.0
"""The same for steps that change a host: they ask a host that fell silent for three minutes before they say so."""
SHORT, ETCD, COPYING = 60.0, 300.0, 3900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The tasks of one host and the section that holds them."""

    tasks: tuple[Task, ...]
    section: Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every host's chain has in common."""

    gates: Gates
    rolls_back: bool
    staged: bool
    """Whether there is a barrier to wait for."""

    @property
    def gate_deadline(self) -> float:
        """The gate's own, and half as much for a Node that has yet to appear."""
        return 1.5 * self.gates.kubelet.timeout + WAIT_MARGIN


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A task before it has a place."""

    name: str
    action: Action
    pool: Pool
    timeout: float
    retry: RetryPolicy = ONCE


def stage(copies: Iterable[Task]) -> Task:
    """The barrier behind all copies. It waits for them to settle, not to succeed: one full disk holds nobody else."""
    after = frozenset(task.id for task in copies)
    return Task(id=STAGED, action=Stage(), pool=Pool.WAIT, after=after, timeout=SHORT)


def copy(intent: Intent) -> Task:
    """Bring the closure to the host, outside its section: this disturbs nobody."""
    assert intent.target is not None
    return Task(
        id=task_id(intent.host.name, "copy"),
        action=CopyClosure(host=intent.host.name, closure=intent.profile or intent.target),
        host=intent.host.name,
        pool=Pool.COPY,
        retry=COPY,
        timeout=COPYING,
    )


def steps(intent: Intent, wave: int, settings: Settings) -> Steps:
    """Everything a host goes through once its section opens, and what is done when it fails."""
    host = intent.host.name
    waits = settings.staged and not intent.finishes
    main = _chained(host, _main(intent, settings), _first_requires(intent), frozenset({STAGED} if waits else ()))
    exits = [main[-1].id]
    asides: list[Task] = []
    if intent.drains:
        before = BOOT_PREPARED if intent.kind is ChangeClass.REBOOT else EMPTIED
        undrain = _aside(host, "undrain", UncordonNode(host=host), _ids(main, before))
        asides.append(undrain)
        exits.append(undrain.id)
    elif blocked := _ids(main, WAITED):
        untouched = replace(_aside(host, "untouched", Stage(), blocked), pool=Pool.WAIT)
        asides.append(untouched)
        exits.append(untouched.id)
    if settings.rolls_back and intent.back is not None:
        back = _chained_back(intent, intent.back, main, settings)
        asides += back
        exits.append(back[-1].id)
    return Steps(tasks=(*main, *asides), section=Section(host=host, wave=wave, exits=frozenset(exits)))


def task_id(host: HostName, step: str) -> TaskId:
    """``host/step``."""
    return TaskId(f"{host}/{step}")


def _first_requires(intent: Intent) -> frozenset[TaskId]:
    return frozenset({task_id(intent.host.name, "copy")}) if intent.copies else frozenset()


def _ids(tasks: Iterable[Task], names: frozenset[str]) -> frozenset[TaskId]:
    return frozenset(task.id for task in tasks if task.id.rpartition("/")[2] in names)


# --- the main chain --------------------------------------------------------------------------------------------------


def _main(intent: Intent, settings: Settings) -> Iterator[_Step]:
    if intent.kind is ChangeClass.REBOOT and intent.host.policy.reboot_blockers.any:
        yield _blockers(intent)
    if intent.takes_voter:
        yield _Step(name="etcd", action=SpareVoter(host=intent.host.name), pool=Pool.WAIT, timeout=ETCD)
    if intent.drains:
        yield from _empty(intent)
    if intent.kind is ChangeClass.INSTALL:
        yield from _install(intent)
    else:
        yield from _change(intent)
    if intent.disrupts:
        yield from _judge(intent, settings)
        yield from _give_back(intent, settings)


def _blockers(intent: Intent) -> _Step:
    host, blockers = intent.host.name, intent.host.policy.reboot_blockers
    node = intent.facts is not None and intent.facts.node is not None
    return _Step(
        name="blockers",
        action=AwaitBlockers(host=host, blockers=blockers, expect_node=node),
        pool=Pool.WAIT,
        timeout=blockers.timeout + WAIT_MARGIN,
    )


def _empty(intent: Intent) -> Iterator[_Step]:
    host, options = intent.host.name, intent.host.policy.drain
    yield _Step(name="cordon", action=CordonNode(host=host), pool=Pool.CLUSTER, timeout=SHORT, retry=API_CALL)
    yield _Step(
        name="drain",
        action=DrainNode(host=host, options=options),
        pool=Pool.WAIT,
        timeout=options.timeout + WAIT_MARGIN,
    )


def _install(intent: Intent) -> Iterator[_Step]:
    assert intent.target is not None
    assert intent.facts is not None
    settings = intent.host.bootstrap or BootstrapSettings()
    for phase in InstallPhase:
        if phase is InstallPhase.REPORT and settings.hardware_report is None:
            continue
        yield _Step(
            name=f"install-{phase}",
            action=InstallNixos(
                host=intent.host.name,
                phase=phase,
                closure=intent.target,
                disko=intent.disko,
                boot_id=intent.facts.boot_id,
                serial=intent.facts.serial,
            ),
            pool=Pool.INSTALL,
            timeout=_phase_deadline(phase, settings.deadlines),
        )


def _phase_deadline(phase: InstallPhase, deadlines: InstallDeadlines) -> float:
    """The process's own, twice that for the looks before and behind it, and the first boot."""
    seconds: float = getattr(deadlines, phase.value)
    return 3 * seconds + (deadlines.boot if phase is InstallPhase.REBOOT else 0.0) + WAIT_MARGIN


def _change(intent: Intent) -> Iterator[_Step]:
    host, facts, target = intent.host.name, intent.facts, intent.target
    assert facts is not None
    assert target is not None
    reboots = intent.kind is ChangeClass.REBOOT
    if intent.activates:
        yield _Step(
            name="activate",
            action=SwitchConfiguration(
                host=host,
                closure=target,
                mode=SwitchMode.BOOT if reboots else intent.mode,
                activator=intent.host.activation,
                way_back=intent.back or WayBack(system=target, booted=None, generation=None, boot_id=facts.boot_id),
                profile=intent.profile,
                generation=intent.generation,
                fallback=() if reboots or intent.mode is not SwitchMode.SWITCH else intent.stand_ins,
            ),
            pool=Pool.SSH,
            timeout=_activation_deadline(intent),
            retry=ACTIVATE,
        )
    if reboots:
        kexec = intent.host.policy.reboot_method is RebootMethod.KEXEC
        action = RebootHost(host=host, closure=target, boot_id=facts.boot_id, fallback=intent.fallback, kexec=kexec)
        yield _Step(name="reboot", action=action, pool=Pool.WAIT, timeout=_reboot_deadline(intent))


def _activation_deadline(intent: Intent) -> float:
    """A switch may wait for pods that came back, or turn into a reboot; other tools than ours copy by themselves."""
    slack = SILENCE if intent.host.activation is Activator.NATIVE else COPYING
    turn = (
        0.0 if intent.kind is ChangeClass.REBOOT else intent.host.policy.activation_timeout + _reboot_deadline(intent)
    )
    return intent.host.policy.activation_timeout + turn + slack


def _reboot_deadline(intent: Intent) -> float:
    """With the drain before it, for pods that have come back."""
    policy = intent.host.policy
    return policy.reboot_timeout + (policy.drain.timeout if intent.drains else 0.0) + SILENCE


def _judge(intent: Intent, settings: Settings) -> Iterator[_Step]:
    host, facts = intent.host.name, intent.facts
    assert facts is not None
    assert intent.target is not None
    installs = intent.kind is ChangeClass.INSTALL
    left = facts.boot_id if installs or intent.kind is ChangeClass.REBOOT else None
    failed = () if installs else facts.failed_units
    yield _Step(
        name="prove",
        action=ProveHost(host=host, closure=intent.target, rebooted_from=left, failed_before=failed),
        pool=Pool.SSH,
        timeout=SILENCE,
        retry=AWAIT_BOOT if installs else LOOK,
    )
    yield _Step(
        name="gate",
        action=replace(_gate(intent, settings), rebooted_from=left, kubernetes=intent.kubernetes),
        pool=Pool.WAIT,
        timeout=settings.gate_deadline,
    )


def _gate(intent: Intent, settings: Settings) -> OpenGate:
    etcd = intent.facts is not None and intent.facts.etcd is not None
    node = intent.facts.node if intent.facts is not None else None
    return OpenGate(
        host=intent.host.name,
        gates=settings.gates,
        expect_node=intent.expect_node,
        expect_etcd=etcd,
        csi_drivers=tuple(sorted(node.csi_drivers)) if node is not None else (),
    )


def _give_back(intent: Intent, settings: Settings) -> Iterator[_Step]:
    host, target, soak = intent.host.name, intent.target, intent.host.policy.soak
    assert target is not None
    if intent.fallback:
        promote = PromoteEntry(host=host, closure=target)
        yield _Step(name="promote", action=promote, pool=Pool.SSH, timeout=SILENCE, retry=API_CALL)
    if intent.activates or intent.finishes:
        confirm = ConfirmActivation(host=host, closure=target)
        yield _Step(name="confirm", action=confirm, pool=Pool.SSH, timeout=SILENCE, retry=API_CALL)
    if intent.uncordons:
        uncordon = UncordonNode(host=host)
        yield _Step(name="uncordon", action=uncordon, pool=Pool.CLUSTER, timeout=SHORT, retry=API_CALL)
    if soak > 0 and not intent.finishes:
        yield _Step(
            name="soak",
            action=Soak(host=host, seconds=soak, expect_node=intent.expect_node),
            pool=Pool.WAIT,
            timeout=soak + settings.gate_deadline,  # A soak waits for an API that does not answer, too.
        )


def _chained(
    host: HostName, chain: Iterable[_Step], first: frozenset[TaskId], barrier: frozenset[TaskId]
) -> list[Task]:
    tasks: list[Task] = []
    for each in chain:
        tasks.append(
            Task(
                id=task_id(host, each.name),
                action=each.action,
                host=host,
                pool=each.pool,
                requires=frozenset({tasks[-1].id}) if tasks else first,
                after=frozenset() if tasks else barrier,
                section=host,
                retry=each.retry,
                timeout=each.timeout,
            )
        )
    return tasks


# --- when it fails ---------------------------------------------------------------------------------------------------


def _aside(host: HostName, name: str, action: Action, failed: frozenset[TaskId] = frozenset()) -> Task:
    return Task(
        id=task_id(host, name),
        action=action,
        host=host,
        pool=Pool.CLUSTER,
        on_failure_of=failed,
        section=host,
        retry=API_CALL,
        timeout=SHORT,
    )


def _chained_back(intent: Intent, way_back: WayBack, main: list[Task], settings: Settings) -> list[Task]:
    """Back to what worked, through the same gate; the Node is given back only behind it."""
    host, policy = intent.host.name, intent.host.policy
    back = RollBack(
        host=host,
        way_back=way_back,
        reboot=intent.kind is ChangeClass.REBOOT or not intent.disrupts,
        reboot_timeout=policy.reboot_timeout,
        mode=intent.mode if intent.mode is SwitchMode.TEST else SwitchMode.SWITCH,
        armed=any(isinstance(task.action, SwitchConfiguration) and task.action.fallback for task in main),
    )
    roll_back = Task(
        id=task_id(host, "rollback"),
        action=back,
        host=host,
        pool=Pool.WAIT,
        on_failure_of=_ids(main, ROLLED_BACK),
        section=host,
        retry=ACTIVATE,
        timeout=policy.activation_timeout + _reboot_deadline(intent) + SILENCE,
    )
    if not intent.disrupts:
        return [roll_back]
    gate = Task(
        id=task_id(host, "rollback-gate"),
        action=_gate(intent, settings),
        host=host,
        pool=Pool.WAIT,
        requires=frozenset({roll_back.id}),
        section=host,
        timeout=settings.gate_deadline,
    )
    if not intent.uncordons:
        return [roll_back, gate]
    uncordon = _aside(host, "rollback-uncordon", UncordonNode(host=host))
    return [roll_back, gate, replace(uncordon, requires=frozenset({gate.id}))]
