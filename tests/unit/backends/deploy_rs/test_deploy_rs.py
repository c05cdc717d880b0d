"""The deploy-rs activator: the right program, the right host, and the host's word against the program's."""

import pytest

from nixkube_deploy.backends.deploy_rs.activator import DeployRsActivator, cleaned
from nixkube_deploy.model.action import SwitchMode, WayBack
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import CommandResult, SshInvocation
from tests.builders import a_host, store_path
from tests.fakes.nixos import BOOT_1, NixosHost
from tests.fakes.process import FakeProcesses

OLD, NEW = store_path("nixos-system-w1-old"), store_path("nixos-system-w1-new")
BINARY = "/nix/store/x-deploy-rs/bin/deploy"


class World:
    """deploy-rs that leaves the host at ``lands``."""

    def __init__(self, code: int = 0, stderr: str = "", lands: str = NEW, binary: str = BINARY) -> None:
        self.host = NixosHost(OLD)
        self.code, self.stderr, self.lands = code, stderr, lands
        self.processes = FakeProcesses().answers(binary, with_=self.deploy)
        self.processes.answers(binary, "--help", stdout="Usage: deploy\n  --magic-rollback <BOOL>\n")
        self.shell = self.host.shell()
        self.activator = DeployRsActivator(self.processes, self.shell, lambda _h: SshInvocation("root@w1"), binary)

    def deploy(self, invocation: Invocation) -> CommandResult:
        if "--boot" not in invocation.argv:
            self.host.current = self.lands
        return CommandResult(exit_code=self.code, stderr=self.stderr)

    async def activate(self, mode: SwitchMode = SwitchMode.SWITCH, said: list[str] | None = None) -> Activated:
        return await self.activator.activate(an_activation(mode), said.append if said is not None else None)

    async def failure(self) -> Failure:
        with pytest.raises(TaskError) as caught:
            await self.activate()
        return caught.value.failure


def an_activation(mode: SwitchMode = SwitchMode.SWITCH) -> Activation:
    back = WayBack(system=OLD, booted=OLD, generation=1, boot_id=BOOT_1)
    return Activation(run=RunId("r"), host=a_host("w1"), closure=NEW, mode=mode, way_back=back, flake="/flake")


@pytest.mark.parametrize("mode", [SwitchMode.SWITCH, SwitchMode.BOOT])
async def test_it_goes_well(mode):
    assert await World().activate(mode) == Activated(changed=True)


async def test_a_trial_is_refused_before_anything_runs():
    world = World()
    with pytest.raises(TaskError, match="deploy-rs cannot activate on trial"):
        await world.activate(SwitchMode.TEST)
    assert world.processes.ran == []


async def test_a_host_that_is_there_already_is_left_alone():
    world = World()
    world.host.current = NEW
    assert await world.activate() == Activated(changed=False)
    assert len(world.processes.ran) == 1


async def test_the_binary_is_checked_once():
    world = World()
    await world.activate()
    world.host.current = OLD
    await world.activate()
    assert sum(line.endswith("--help") for line in world.processes.lines()) == 1


async def test_another_program_of_that_name_is_refused():
    world = World()
    world.processes.answers(BINARY, "--help", stdout="Usage: deploy [OPTIONS] COMMAND\n", times=1)
    failure = await world.failure()
    assert failure.kind is FailureKind.PREFLIGHT
    assert "is not deploy-rs" in failure.message


@pytest.mark.parametrize("binary", ["deploy", "./deploy", ""])
async def test_a_bare_name_is_refused_without_running_it(binary):
    world = World(binary=binary)
    assert (await world.failure()).kind is FailureKind.PREFLIGHT
    assert world.processes.ran == []


async def test_a_failure_keeps_deploy_rs_own_words():
    failure = await World(1, "❌ [deploy] [ERROR] Failed to activate\n", lands=OLD).failure()
    assert failure.kind is FailureKind.ACTIVATION
    assert failure.evidence == ("[deploy] [ERROR] Failed to activate",)


async def test_its_magic_rollback_is_named():
    stderr = "⭐ [activate] [ERROR] Error waiting for confirmation event\n"
    assert (await World(1, stderr, lands=OLD).failure()).kind is FailureKind.FELL_BACK


async def test_another_system_than_the_planned_one_is_a_failure_though_deploy_rs_is_content():
    failure = await World(lands=store_path("newer")).failure()
    assert "another system than the planned one" in failure.message


async def test_success_is_not_believed_when_the_host_is_where_it_was():
    assert (await World(lands=OLD).failure()).kind is FailureKind.ACTIVATION


async def test_its_lines_come_without_decoration():
    said: list[str] = []
    await World(stderr="🚀 ℹ️ [deploy] [INFO] Activating\nplain\n").activate(said=said)  # noqa: RUF001 (its own text)
    assert said == ["[deploy] [INFO] Activating", "plain"]


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        ("👀 [wait] [INFO] Found canary", "[wait] [INFO] Found canary"),
        ("↩️ [revoke] x", "[revoke] x"),
        ("[deploy] y", "[deploy] y"),
        ("über alles", "über alles"),
    ],
)
def test_only_decoration_is_taken_away(line, clean):
    assert cleaned(line) == clean


async def test_confirming_looks_at_the_host_over_a_new_connection():
    world = World()
    await world.activate()
    await world.activator.confirm(an_activation())
    assert world.shell.ran[-1].fresh
    world.host.current = OLD
    with pytest.raises(TaskError, match="no longer runs"):
        await world.activator.confirm(an_activation())
