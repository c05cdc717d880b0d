"""What a switch said last is its proof: it is heard once, and a host that said nothing is asked."""

from typing import Any, cast

from nixkube_deploy.app.hostlocks import HostLocks
from nixkube_deploy.app.nodes import NodeDirectory
from nixkube_deploy.app.perform import Performer
from nixkube_deploy.model.action import Action, ProveHost, SwitchConfiguration, SwitchMode, WayBack
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import Activator
from nixkube_deploy.model.names import HostName, RunId, TaskId
from nixkube_deploy.model.task import Task
from nixkube_deploy.ports.perform import Attempt
from nixkube_deploy.protocols.activation import NativeActivator
from tests.builders import a_fleet, store_path
from tests.fakes.clock import LoopClock
from tests.fakes.nixos import BOOT_1, NixosHost
from tests.unit.app.worlds import a_world

OLD, NEW, W1 = store_path("old"), store_path("new"), HostName("w1")
RUN = RunId("20261122T204931Z-3fa9")
SWITCH = SwitchConfiguration(
    host=W1,
    closure=NEW,
    mode=SwitchMode.SWITCH,
    activator=Activator.NATIVE,
    way_back=WayBack(system=OLD, booted=OLD, generation=1, boot_id=BOOT_1),
)
PROOF = ProveHost(host=W1, closure=NEW, rebooted_from=None)


async def performed(host: NixosHost, *actions: Action) -> list[int | str]:
    """How many round trips each action took, the host's lock apart, or why it failed."""
    shell = host.shell().answers("flock")
    world = a_world(a_fleet("w1"), shell, activators={Activator.NATIVE: NativeActivator(shell, LoopClock())})
    trips: list[int | str] = []
    async with HostLocks(shell, RUN) as locks:
        performer = Performer(
            world=world,
            run=RUN,
            nodes=NodeDirectory(world, {}),
            locks=locks,
            gate_world=cast("Any", None),
            switches={},
            drains={},
        )
        for action in actions:
            before = sum(not ran.held for ran in shell.ran)
            task = Task(id=TaskId(f"w1/{type(action).__name__}"), action=action)
            try:
                await performer(task, Attempt(number=1, resumed=False, report=lambda _line: None))
                trips.append(sum(not ran.held for ran in shell.ran) - before)
            except TaskError as error:
                trips.append(error.failure.message)
    return trips


async def test_a_switch_and_its_proof_are_one_round_trip_and_another_proof_is_a_look_of_its_own():
    assert await performed(NixosHost(OLD), SWITCH, PROOF, PROOF) == [1, 0, 1]


async def test_a_unit_of_the_node_that_failed_is_found_in_the_last_words():
    _, why = await performed(NixosHost(OLD, failed=("k3s.service",)), SWITCH, PROOF)
    assert why == "w1 runs the new system, but k3s.service failed"


async def test_a_reboot_is_never_proved_by_what_was_said_before_it():
    _, why = await performed(NixosHost(OLD), SWITCH, ProveHost(host=W1, closure=NEW, rebooted_from=BOOT_1))
    assert why == "w1 has not rebooted"
