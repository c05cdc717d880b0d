"""The nixos-rebuild activator: exit codes, losses, and what the host says afterwards."""

from dataclasses import replace

import pytest
from trio.testing import MockClock

from nixkube_deploy.backends.nixos_rebuild.activator import NixosRebuildActivator
from nixkube_deploy.model.action import SwitchMode, WayBack
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host, Privilege
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.secret import SecretFromEnv
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import CommandResult, SshInvocation
from tests.builders import a_host, store_path
from tests.fakes.nixos import BOOT_1, NixosHost
from tests.fakes.process import FakeProcesses

OLD, NEW = store_path("nixos-system-w1-old"), store_path("nixos-system-w1-new")
INHIBITED = "Pre-switch check 'switchInhibitors' failed\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class World:
    """nixos-rebuild that acts on one host: exit codes 0, 4 and 255 leave the host switched."""

    def __init__(self, *results: tuple[int, str], switched: bool = True) -> None:
        self.host = NixosHost(OLD)
        self.shell = self.host.shell().answers("systemctl", "is-active", stdout="inactive\n", exit_code=3)
        self.results, self.switched = list(results), switched
        self.processes = FakeProcesses().answers("nixos-rebuild", with_=self.rebuild)

    def rebuild(self, invocation: Invocation) -> CommandResult:
        code, stderr = self.results.pop(0) if self.results else (0, "")
        if code in (0, 4, 255) and self.switched:
            if invocation.argv[1] != "test":
                self.host.profile = NEW
            if invocation.argv[1] != "boot":
                self.host.current = NEW
        return CommandResult(exit_code=code, stderr=stderr)

    def activator(self) -> NixosRebuildActivator:
        return NixosRebuildActivator(self.processes, self.shell, lambda h: SshInvocation(f"root@{h.address}"))

    async def activate(self, mode: SwitchMode = SwitchMode.SWITCH) -> Activated:
        return await self.activator().activate(an_activation(mode=mode))

    async def failure(self, mode: SwitchMode = SwitchMode.SWITCH) -> Failure:
        with pytest.raises(TaskError) as caught:
            await self.activate(mode)
        return caught.value.failure


def an_activation(host: Host | None = None, mode: SwitchMode = SwitchMode.SWITCH) -> Activation:
    return Activation(
        run=RunId("r"),
        host=host or a_host("w1"),
        closure=NEW,
        mode=mode,
        way_back=WayBack(system=OLD, booted=OLD, generation=1, boot_id=BOOT_1),
        flake="/flake",
        node_units=frozenset({"k3s.service"}),
    )


@pytest.mark.parametrize("mode", list(SwitchMode))
async def test_it_goes_well(mode):
    assert await World().activate(mode) == Activated(changed=True)


async def test_a_host_that_is_there_already_is_left_alone():
    world = World()
    world.host.current = world.host.booted = world.host.profile = NEW
    for mode in SwitchMode:
        assert await world.activate(mode) == Activated(changed=False)
    assert world.processes.ran == []


async def test_failed_units_are_judged_by_whose_they_are():
    world = World((4, "warning: the following units failed: a.service\n"))
    assert (await world.activate()).warnings == ("a.service failed to start",)
    world = World((4, "warning: the following units failed: a.service, k3s.service\n"))
    assert (await world.failure()).kind is FailureKind.UNIT


async def test_an_inhibitor_turns_the_switch_into_boot():
    world = World((1, INHIBITED), (0, ""))
    activated = await world.activate()
    assert activated.needs_reboot
    assert [i.argv[1] for i in world.processes.ran] == ["switch", "boot"]
    assert (await World((1, INHIBITED), (1, "no")).failure()).evidence == ("no",)


async def test_a_trial_leaves_the_profile_alone_and_is_over_where_it_would_have_to_reboot():
    world = World()
    await world.activate(SwitchMode.TEST)
    assert (world.host.current, world.host.profile) == (NEW, OLD)
    for code, says in ((1, INHIBITED), (100, "")):
        world = World((code, says), switched=False)
        assert (await world.failure(SwitchMode.TEST)).kind is FailureKind.INHIBITED
        assert [i.argv[1] for i in world.processes.ran] == ["test"]


async def test_a_specialisation_is_refused_before_anything_runs():
    world = World()
    with pytest.raises(TaskError, match="cannot run a specialisation"):
        await world.activator().activate(replace(an_activation(), profile=OLD))
    assert world.processes.ran == []


async def test_exit_code_100_means_a_reboot():
    assert (await World((100, ""), switched=False).activate()).needs_reboot


async def test_a_busy_unit_name_is_a_lock():
    stderr = "Unit nixos-rebuild-switch-to-configuration.service was already loaded or has a fragment file.\n"
    failure = await World((1, stderr)).failure()
    assert failure.kind is FailureKind.LOCKED
    assert failure.transient


async def test_after_a_lost_connection_the_host_decides():
    world = World((255, "client_loop: send disconnect: Broken pipe\n"))
    assert "connection was lost" in (await world.activate()).warnings[0]
    failure = await World((255, ""), switched=False).failure()
    assert failure.kind is FailureKind.OUTCOME_UNKNOWN
    assert failure.transient


async def test_a_switch_that_goes_on_after_a_lost_connection_is_waited_for():
    world = World((255, ""))
    world.shell.loses("systemctl", "is-active").answers("systemctl", "is-active", stdout="active\n", times=3)
    await world.activate()
    assert sum("is-active" in line for line in world.shell.lines()) == 5


@pytest.mark.parametrize("code", [1, 2])
async def test_other_exit_codes_are_failures_with_evidence(code):
    failure = await World((code, "some reason\n"), switched=False).failure()
    assert (failure.kind, failure.exit_code) == (FailureKind.ACTIVATION, code)
    assert failure.evidence == ("some reason",)
    assert OLD in failure.seen


async def test_exit_code_0_is_not_believed():
    for mode in SwitchMode:
        assert (await World(switched=False).failure(mode)).kind is FailureKind.ACTIVATION


@pytest.mark.parametrize(
    "fields",
    [{"privilege": Privilege.DOAS}, {"privilege": Privilege.SUDO, "privilege_password": SecretFromEnv(env="X")}],
)
async def test_what_nixos_rebuild_cannot_do_is_refused_before_anything_runs(fields):
    world = World()
    with pytest.raises(TaskError) as caught:
        await world.activator().activate(an_activation(a_host("w1", **fields)))
    assert caught.value.failure.kind is FailureKind.PREFLIGHT
    assert world.processes.ran == []


async def test_confirming_looks_at_the_host_over_a_new_connection():
    world = World()
    await world.activate()
    await world.activator().confirm(an_activation())
    assert world.shell.ran[-1].fresh
    world.host.current = OLD
    with pytest.raises(TaskError, match="no longer runs"):
        await world.activator().confirm(an_activation())
