"""The health gate: wait until a host is back in every sense, or say which of them is missing and since when.

Nothing fails before the deadline: a kubelet that starts flaps, and a flap only starts the holding time anew. The rule
itself is in ``verdict``, the looking in ``observe``; this module deliberately only waits and words the result.
"""

from collections.abc import Callable

import anyio

from nixkube_deploy.model.action import OpenGate, Soak
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Distribution, Host
from nixkube_deploy.model.strategy import Gates
from nixkube_deploy.ports.shell import Command
from nixkube_deploy.protocols.observe import GateWorld, look
from nixkube_deploy.protocols.verdict import PASSES, Expectation, Renewals, Watch, watch_on

__all__ = ["GateWorld", "open_gate", "soak"]

FIRST_POLL = 0.15
"""Seconds between the first two looks; each pause is longer than the one before, up to LAST_POLL."""
BETWEEN_PASSES = 0.05
"""Seconds from the first complete pass to the second."""
SLOWING = 1.25
LAST_POLL = 2.0
LOOKS_WHILE_HOLDING = 6
SOAK_TOLERANCE = 15.0
"""Seconds a soaking host may be unhealthy without a break: kubelets and readiness probes flap after a restart."""
LOG_PATIENCE = 15.0
LOG_LINES = 20

Report = Callable[[str], None]


async def open_gate(world: GateWorld, host: Host, action: OpenGate, report: Report) -> str:
    """Wait until everything has passed twice in a row and then held for ``ready_for``; says how it went.

    Raises:
        TaskError: GATE, naming what is closed, since when, and the kubelet's last words.
    """
    kubelet = action.gates.kubelet
    node = action.expect_node and world.cluster is not None
    expect = Expectation(
        node=node,
        rebooted_from=action.rebooted_from,
        pods=action.gates.pods,
        etcd=action.expect_etcd,
        kubernetes=action.kubernetes,
        csi_drivers=frozenset(action.csi_drivers),
    )
    vigil = _Vigil(world, host, expect, action.gates, _proved(expect, action.gates))
    began, pause = world.clock.monotonic(), FIRST_POLL
    with anyio.move_on_after(kubelet.timeout):
        while True:
            watch = await vigil.look(report)
            if watch.is_open(world.clock.monotonic(), kubelet.ready_for):
                return _opened(watch, world.clock.monotonic() - began, kubelet.ready_for)
            await anyio.sleep(_pause(watch, world.clock.monotonic(), kubelet.ready_for, pause))
            pause = min(pause * SLOWING, LAST_POLL)
    raise await vigil.failure(
        f"{host.name} is not back after {kubelet.timeout:g} s", f"everything to hold for {kubelet.ready_for:g} s"
    )


async def soak(world: GateWorld, host: Host, action: Soak, report: Report) -> None:
    """Watch the host for ``seconds`` and leave it healthy; a short flap is forgiven, even at the very end.

    An API that does not answer says nothing about this host: the soak then only ends when it answers again.

    Raises:
        TaskError: GATE, the host was unhealthy for longer than a flap.
    """
    node = action.expect_node and world.cluster is not None
    vigil = _Vigil(world, host, Expectation(node=node, renewals=0), None)
    began, bad_since = world.clock.monotonic(), None
    while True:
        watch = await vigil.look(report)
        now = world.clock.monotonic()
        bad = any(conjunct.name != "api" for conjunct in watch.closed)
        bad_since = (now if bad_since is None else bad_since) if bad else None
        if not watch.closed and now - began >= action.seconds:
            return
        if bad_since is not None and now - bad_since > SOAK_TOLERANCE:
            raise await vigil.failure(
                f"{host.name} became unhealthy {bad_since - began:.0f} s into its soak",
                f"{action.seconds:g} s of health",
            )
        await anyio.sleep(min(LAST_POLL, max(action.seconds - (now - began), FIRST_POLL)))


def _proved(expect: Expectation, gates: Gates) -> Watch:
    """What counts already. Of a plain host nothing is asked here that was not proved right before: one pass of two."""
    asked = (gates.http, gates.command, gates.prometheus, gates.pods.selected)
    return Watch(passes=0 if expect.node or expect.etcd or any(asked) else PASSES - 1)


def _pause(watch: Watch, now: float, ready_for: float, pause: float) -> float:
    """The next pause. A short holding time is looked at often, and its last look is exactly at its end."""
    if watch.holding_since is None:
        return BETWEEN_PASSES if watch.passes else pause
    often = max(ready_for / LOOKS_WHILE_HOLDING, FIRST_POLL)
    return min(pause, often, max(watch.holding_since + ready_for - now, 0.01))


def _opened(watch: Watch, elapsed: float, ready_for: float) -> str:
    skipped = [f"{c.name} {c.seen}" for c in watch.last if c.seen.startswith("not asked")]
    held = f", held for {ready_for:g} s" if ready_for else ""
    return f"healthy after {elapsed:.0f} s{held}" + "".join(f"; {text}" for text in skipped)


class _Vigil:
    """Looks at one host again and again, and can say at any time what is wrong with it.

    While it soaks there are no user gates (None).
    """

    def __init__(
        self, world: GateWorld, host: Host, expect: Expectation, gates: Gates | None, watch: Watch | None = None
    ) -> None:
        self._world, self._host, self._expect, self._gates = world, host, expect, gates
        self._renewals, self._watch = Renewals(), watch or Watch()
        self._told: frozenset[str] = frozenset()

    async def look(self, report: Report) -> Watch:
        """One more look, folded in; what is closed is reported whenever it is something else than before."""
        seen = await look(self._world, self._host, self._expect, self._renewals, self._gates)
        self._renewals = seen.renewals
        self._watch = watch_on(self._watch, self._world.clock.monotonic(), seen.conjuncts, seen.epoch)
        closed = frozenset(conjunct.name for conjunct in self._watch.closed)
        if closed != self._told:
            waiting = "; ".join(f"{conjunct.name}: {conjunct.seen}" for conjunct in self._watch.closed)
            report(f"waiting for {waiting}" if waiting else "everything holds")
        self._told = closed
        return self._watch

    async def failure(self, message: str, otherwise: str) -> TaskError:
        """What is closed now, first things first. ``otherwise`` was expected when nothing is closed but time was up."""
        closed, now = self._watch.closed, self._world.clock.monotonic()
        since = self._watch.closed_since
        lines = [f"{c.name}: {c.seen} (for {now - since.get(c.name, now):.0f} s)" for c in closed]
        log = await self._kubelet_log() if any(c.name != "ssh" for c in closed) else ()
        return task_error(
            FailureKind.GATE,
            f"{message}: {closed[0].name}: {closed[0].seen}" if closed else f"{message}: it does not stay healthy",
            expected=closed[0].expected if closed else otherwise,
            seen=closed[0].seen if closed else "it was healthy at the last look, but not for long enough",
            evidence=(*lines, *log),
            next=self._to_type(closed[0].name if closed else ""),
        )

    def _to_type(self, closed: str) -> str:
        node, login = self._world.node_of(self._host.name), self._host.login
        if closed == "etcd":
            return f"{login} journalctl -u {self._world.distribution.etcd_unit} -n 50"
        if self._expect.node and node:
            return f"kubectl describe node {node}"
        return f"{login} systemctl --failed"

    async def _kubelet_log(self) -> tuple[str, ...]:
        """The kubelet's last lines; evidence is worth a try and never an error."""
        unit = _kubelet_unit(self._world.distribution, self._host)
        if not self._expect.node or unit is None:
            return ()
        argv = ("journalctl", "-u", unit, "-o", "cat", "--no-pager", "-n", str(LOG_LINES))
        try:
            result = await self._world.shell.run(self._host, Command(argv=argv, privileged=True, timeout=LOG_PATIENCE))
        except TaskError:
            return ()
        return result.tail(LOG_LINES) if result.ok else ()


def _kubelet_unit(distribution: Distribution, host: Host) -> str | None:
    if distribution is Distribution.RKE2 and host.role.is_control_plane:
        return "rke2-server.service"
    return distribution.kubelet_unit
