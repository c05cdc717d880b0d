"""How long a host waits to be told that its change is good, before it goes back by itself."""

from dataclasses import replace
from typing import Any, cast

import pytest

from nixkube_deploy.app.hostlocks import HostLocks
from nixkube_deploy.app.perform import Performer
from nixkube_deploy.model.action import SwitchConfiguration, SwitchMode, WayBack
from nixkube_deploy.model.fleet import Activator
from nixkube_deploy.model.names import HostName, RunId, StorePath, TaskId
from nixkube_deploy.model.strategy import Gates, HostPolicy, KubeletGate
from nixkube_deploy.model.task import Task
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.perform import Attempt
from tests.builders import a_fleet
from tests.fakes.shell import FakeShell
from tests.unit.app.worlds import a_world

OLD, NEW = StorePath(f"/nix/store/{'a' * 32}-old"), StorePath(f"/nix/store/{'b' * 32}-new")


class Recorder:
    """An activator that only remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Activation] = []

    async def activate(self, activation: Activation, on_line: object = None) -> Activated:
        self.asked.append(activation)
        return Activated(changed=True)


@pytest.mark.parametrize(
    ("activation", "gate", "confirm", "expected"),
    [(900.0, 600.0, 300.0, 1200.0), (60.0, 600.0, 300.0, 900.0), (10.0, 5.0, 20.0, 30.0)],
)
async def test_a_host_never_goes_back_in_the_middle_of_what_may_take_its_time(activation, gate, confirm, expected):
    policy = HostPolicy(activation_timeout=activation, confirm_timeout=confirm)
    fleet = a_fleet("w1")
    fleet = replace(
        fleet,
        hosts={name: replace(host, policy=policy) for name, host in fleet.hosts.items()},
        gates=Gates(kubelet=KubeletGate(timeout=gate)),
    )
    recorder, shell = Recorder(), FakeShell().answers("flock").answers("tee")
    world = a_world(fleet, shell, activators={Activator.NATIVE: recorder})
    action = SwitchConfiguration(
        host=HostName("w1"),
        closure=NEW,
        mode=SwitchMode.SWITCH,
        activator=Activator.NATIVE,
        way_back=WayBack(system=OLD, booted=OLD, generation=1, boot_id="b1"),
    )
    async with HostLocks(shell, RunId("r1")) as locks:
        performer = Performer(
            world=world,
            run=RunId("r1"),
            nodes=cast("Any", None),
            locks=locks,
            gate_world=cast("Any", None),
            switches={},
            drains={},
        )
        await performer(Task(id=TaskId("w1/activate"), action=action), Attempt(number=1, resumed=False, report=print))
    assert [asked.dead_man for asked in recorder.asked] == [expected]
