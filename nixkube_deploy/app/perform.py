"""Actions to effects: one exhaustive match, the only place that knows both sides. It holds no policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from nixkube_deploy.app.hostlocks import HostLocks
from nixkube_deploy.app.nodes import NodeDirectory
from nixkube_deploy.app.world import World
from nixkube_deploy.engine.run import Attempt, Done
from nixkube_deploy.model.action import (
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
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Distribution, Host
from nixkube_deploy.model.names import HostName, RunId
from nixkube_deploy.model.strategy import RebootMethod, RebootPolicy
from nixkube_deploy.model.task import Task
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.cluster import Cluster
from nixkube_deploy.protocols import disruption, quorum, reboot
from nixkube_deploy.protocols.blockers import await_blockers
from nixkube_deploy.protocols.bootentry import promote
from nixkube_deploy.protocols.gate import GateWorld, open_gate, soak
from nixkube_deploy.protocols.install import Installation, InstallWorld
from nixkube_deploy.protocols.installed import as_installed
from nixkube_deploy.protocols.patience import PatientShell
from nixkube_deploy.protocols.situation import look
from nixkube_deploy.protocols.wayback import roll_back

NOTHING = Done(changed=False)
WAITS = "the next boot starts it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Performer:
    """Performs tasks in one world for one run."""

    world: World
    run: RunId
    nodes: NodeDirectory
    locks: HostLocks
    gate_world: GateWorld
    switches: Mapping[HostName, SwitchConfiguration]
    """Each host's own switch in this graph; a host another run left half done has none."""
    drains: Mapping[HostName, DrainNode]
    """Hosts this graph empties first."""
    resumed: bool = False
    """Whether an earlier controller began this run."""
    installs: frozenset[HostName] = frozenset()
    """Hosts this graph installs."""
    rebooted: set[HostName] = field(default_factory=set)
    """Hosts that had to reboot although no plan foresaw it."""
    heard: dict[HostName, tuple[str, ...]] = field(default_factory=dict)
    """Failed units of hosts whose switch has just told of them, as the last thing it did."""
    voters: frozenset[HostName] = frozenset()
    """Hosts of this graph with an etcd member."""

    async def __call__(self, task: Task, attempt: Attempt) -> Done:  # noqa: C901, PLR0912 (one arm an action)
        """Do it; every arm is safe to repeat after a crash."""
        if attempt.resumed:
            attempt.report("an earlier controller began this; looking first at what became of it")
        match task.action:
            case Stage():
                return NOTHING
            case CopyClosure(host=name, closure=path):
                return Done(changed=await self.world.store.copy(path, self._host(name), attempt.report))
            case InstallNixos(host=name):
                return await self._install(self.world.fleet.hosts[name], task.action, attempt)
            case AwaitBlockers():
                return await self._await_blockers(task.action, attempt)
            case SpareVoter(host=name):
                return Done(changed=False, detail=await self._spare(self._host(name), attempt))
            case CordonNode(host=name):
                return await self._cordon(self._host(name))
            case DrainNode(host=name):
                return await self._drain(self._host(name), task.action, attempt)
            case SwitchConfiguration():
                return await self._switch(task.action, attempt)
            case RebootHost():
                return await self._reboot(task.action, attempt)
            case ProveHost():
                return await self._prove(task.action)
            case OpenGate():
                return await self._gate(task.action, attempt)
            case PromoteEntry(host=name):
                host = self._host(name)
                changed, told = await promote(PatientShell(self.world.shell, host, self.world.clock), task.action)
                return Done(changed=changed, detail=told)
            case ConfirmActivation():
                return await self._confirm(task.action)
            case UncordonNode(host=name):
                return await self._uncordon(self._host(name))
            case Soak(host=name):
                await soak(self.gate_world, self._host(name), task.action, attempt.report)
                return Done()
            case RollBack():
                return await self._roll_back(task.action, attempt)
            case _:
                assert_never(task.action)

    def _host(self, name: HostName) -> Host:
        """A host that this run installs answers with the key that was sent along, whatever the inventory pins."""
        host = self.world.fleet.hosts[name]
        key = self.world.pins.get(host) if name in self.installs else None
        return host if key is None else as_installed(host, key)

    async def _install(self, host: Host, action: InstallNixos, attempt: Attempt) -> Done:
        world = InstallWorld(
            shell=self.world.shell, clock=self.world.clock, installer=self.world.installer, pins=self.world.pins
        )
        phase = Installation(world=world, host=host, action=action, report=attempt.report, resumed=attempt.resumed)
        changed = await phase.perform()
        told = action.phase is InstallPhase.REBOOT and host.ssh.host_key != (key := self.world.pins.get(host))
        return Done(changed=changed, detail=f'its host key now: ssh: {{host_key: "{key}"}}' if told else "")

    @property
    def _distribution(self) -> Distribution:
        return self.world.fleet.cluster.distribution

    @property
    def _members(self) -> tuple[Host, ...]:
        """Hosts that may have an etcd member; others are found in the lists of these."""
        hosts = self.world.whole.hosts.values()
        return tuple(host for host in hosts if host.role.is_control_plane or host.name in self.voters)

    def _cluster(self) -> Cluster:
        assert self.world.cluster is not None, "a plan with Nodes is only made when the cluster answered"
        return self.world.cluster

    async def _await_blockers(self, action: AwaitBlockers, attempt: Attempt) -> Done:
        host = self._host(action.host)
        if action.expect_node:
            await self.nodes.find(host)
        told = await await_blockers(self.gate_world, host, action, attempt.report)
        return Done(changed=False, detail=told)

    async def _spare(self, host: Host, attempt: Attempt) -> str:
        return await quorum.spare(self.world.shell, host, self._members, self._distribution, attempt.report)

    async def _spare_again(self, host: Host, attempt: Attempt) -> None:
        """A drain takes its time, and meanwhile a member may have died or the leadership come back."""
        if host.name in self.voters and host.name in self.drains and attempt.number == 1 and not attempt.resumed:
            await self._spare(host, attempt)

    async def _cordon(self, host: Host) -> Done:
        await self.locks.ensure(host)
        node = await self.nodes.find(host)
        return Done(changed=await disruption.cordon(self._cluster(), node, self.run), detail=node)

    async def _drain(self, host: Host, action: DrainNode, attempt: Attempt) -> Done:
        node = await self.nodes.find(host)
        evicted = await disruption.drain(
            self._cluster(), self.world.clock, node, action.options, self.run, attempt.report
        )
        return Done(changed=evicted > 0, detail=f"{evicted} pods evicted")

    async def _uncordon(self, host: Host) -> Done:
        node = await self.nodes.find(host)
        freed = await disruption.uncordon(self._cluster(), node, self.run)
        return Done(changed=freed, detail="" if freed else "stays cordoned, as it was before the run")

    async def _switch(self, action: SwitchConfiguration, attempt: Attempt) -> Done:
        host = self._host(action.host)
        await self.locks.ensure(host)
        if action.mode.runs_now and attempt.number == 1:
            await self._drain_again(host, attempt)
            await self._spare_again(host, attempt)
        activation = replace(self._activation(host, action), anew=attempt.number == 1 or attempt.resumed)
        activated = await self.world.activators[action.activator].activate(activation, attempt.report)
        if activated.failed is not None:
            self.heard[host.name] = activated.failed
        ends = [WAITS] if action.mode is SwitchMode.BOOT else []
        if activated.needs_reboot:
            self._refuse_to_reboot(host, activated)
            ends = ["rebooted", *await self._reboot_instead(action, attempt)]
        return Done(changed=activated.changed, detail="; ".join((action.mode.value, *activated.warnings, *ends)))

    async def _prove(self, action: ProveHost) -> Done:
        """The last words of a switch without a reboot are a proof; they count once, and are not asked for again."""
        host, failed = self._host(action.host), self.heard.pop(action.host, None)
        if failed is not None and action.rebooted_from is None:
            return Done(detail="; ".join(reboot.judge_units(host, action, failed)))
        warnings = await reboot.prove(self.world.shell, self.world.clock, host, action)
        return Done(detail="; ".join(warnings))

    def _activation(self, host: Host, action: SwitchConfiguration) -> Activation:
        return Activation(
            run=self.run,
            host=host,
            closure=action.closure,
            mode=action.mode,
            way_back=action.way_back,
            flake=self.world.fleet.flake,
            node_units=self.world.fleet.cluster.distribution.node_units,
            dead_man=self._patience_of(host),
            profile=action.profile,
            generation=action.generation,
        )

    def _patience_of(self, host: Host) -> float:
        """Seconds until a host goes back by itself: never in the middle of what may still take its time."""
        policy = host.policy
        return max(policy.activation_timeout, self.world.fleet.gates.kubelet.timeout) + policy.confirm_timeout

    def _refuse_to_reboot(self, host: Host, activated: Activated) -> None:
        """A reboot that no plan foresaw: only of a host that is empty, or no Node, and only where reboots are allowed.

        Raises:
            TaskError: INHIBITED.
        """
        never = host.policy.reboot is RebootPolicy.NEVER
        serves = host.name not in self.drains and self.nodes.known(host.name) is not None
        if not (never or serves):
            return
        raise task_error(
            FailureKind.INHIBITED,
            f"{host.name} cannot be switched to its new system while it runs: it {'; '.join(activated.warnings)}",
            expected="a switch without a reboot, as planned",
            seen="the strategy says reboot: never" if never else "pods on the host: a live change does not drain it",
            evidence=activated.evidence,
            did="made the new system that of the next boot",
            next=f"deploy apply {self.world.fleet.source} --on {host.name} --reboot always",
        )

    async def _reboot_instead(self, action: SwitchConfiguration, attempt: Attempt) -> tuple[str, ...]:
        """The reboot that a switch turned out to need, by the same protocol as a planned one; what there is to say."""
        left = action.way_back.boot_id
        task = RebootHost(
            host=action.host,
            closure=action.closure,
            boot_id=left,
            fallback=action.fallback,
            kexec=self._host(action.host).policy.reboot_method is RebootMethod.KEXEC,
        )
        self.rebooted.add(action.host)
        done = await self._reboot(task, attempt)
        proof = ProveHost(host=action.host, closure=action.closure, rebooted_from=left)
        await reboot.prove_system(self.world.shell, self.world.clock, self._host(action.host), proof)
        return (done.detail,) if done.detail else ()

    async def _reboot(self, action: RebootHost, attempt: Attempt) -> Done:
        host = self._host(action.host)
        await self._drain_again(host, attempt)
        await self._spare_again(host, attempt)
        self.locks.release(host.name)
        deadline = host.policy.reboot_timeout
        done = await reboot.reboot(self.world.shell, self.world.clock, host, action, deadline, attempt.report)
        return Done(changed=done.changed, detail="; ".join(done.notes))

    async def _drain_again(self, host: Host, attempt: Attempt) -> None:
        """Pods may have come since the drain, by an uncordon of somebody's: right before the change, look again."""
        drained = self.drains.get(host.name)
        if drained is None:
            return
        cluster, node = self._cluster(), await self.nodes.find(host)
        if left := await disruption.still_drained(cluster, self.world.clock, node, drained.options):
            attempt.report(f"draining again: {', '.join(left)} came back")
            await disruption.drain(cluster, self.world.clock, node, drained.options, self.run, attempt.report)

    async def _empty_again(self, host: Host, back: WayBack, attempt: Attempt) -> None:
        """A host that failed after it was given back (its soak) has pods again: they leave first, if they can.

        Going back matters more than that: what keeps them is told, and is no reason to leave the host as it is. Where
        only the next boot has to go back, nobody notices, and nobody has to leave.
        """
        drained = self.drains.get(host.name)
        if drained is None:
            return
        try:
            seen = await look(self.world.shell, host)
            if seen.current == back.system and seen.boot_id == back.boot_id:
                return
            cluster, node = self._cluster(), await self.nodes.find(host)
            if await disruption.still_drained(cluster, self.world.clock, node, drained.options):
                await disruption.cordon(cluster, node, self.run)
                attempt.report("draining again, before it is taken back")
                await disruption.drain(cluster, self.world.clock, node, drained.options, self.run, attempt.report)
        except TaskError as error:
            attempt.report(f"not drained before it is taken back: {error.failure.message}")

    async def _gate(self, action: OpenGate, attempt: Attempt) -> Done:
        host = self._host(action.host)
        if action.expect_node:
            await self.nodes.wait_for(host, action.gates.kubelet.timeout / 2)
        return Done(detail=await open_gate(self.gate_world, host, action, attempt.report))

    async def _confirm(self, action: ConfirmActivation) -> Done:
        host = self._host(action.host)
        await self.locks.ensure(host)
        switch = self.switches.get(host.name) or _finished(action, host)
        told = ""
        if switch.fallback and (self.resumed or host.name in self.rebooted):
            entry = PromoteEntry(host=host.name, closure=action.closure)
            _, told = await promote(PatientShell(self.world.shell, host, self.world.clock), entry)
        await self.world.activators[switch.activator].confirm(self._activation(host, switch))
        return Done(detail=told)

    async def _roll_back(self, action: RollBack, attempt: Attempt) -> Done:
        host = self._host(action.host)
        self.heard.pop(host.name, None)
        await self.locks.ensure(host)
        if host.name in self.voters:
            await quorum.spare_to_go_back(self.world.shell, host, self._members, self._distribution)
        await self._empty_again(host, action.way_back, attempt)
        await roll_back(self.world.shell, self.world.clock, host, action, self.run, attempt.report)
        return Done(detail=f"back on {action.way_back.system}")


def _finished(action: ConfirmActivation, host: Host) -> SwitchConfiguration:
    """The switch a dead run made on this host: it is where it should be, so the way back is to stay."""
    return SwitchConfiguration(
        host=host.name,
        closure=action.closure,
        mode=SwitchMode.SWITCH,
        activator=host.activation,
        way_back=WayBack(system=action.closure, booted=None, generation=None, boot_id=""),
    )
