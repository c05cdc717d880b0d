"""The deploy-rs activator: the right program, the right host, and the host's word against the program's."""

import anyio
import pytest
from trio.testing import MockClock

from nixkube_deploy.backends.deploy_rs.activator import DeployRsActivator
from nixkube_deploy.backends.deploy_rs.output import cleaned
from nixkube_deploy.backends.deploy_rs.program import OPTIONS
from nixkube_deploy.model.action import SwitchMode, WayBack
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host, Privilege
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.secret import SecretFromEnv
from nixkube_deploy.ports.activator import Activated, Activation
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import Command, CommandResult, SshInvocation
from tests.builders import a_host, store_path
from tests.fakes.nixos import BOOT_1, NixosHost
from tests.fakes.process import FakeProcesses

OLD, NEW = store_path("nixos-system-w1-old"), store_path("nixos-system-w1-new")
BINARY = "/nix/store/x-deploy-rs/bin/deploy"
ON_VIRTUAL_TIME = pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual time"]
)
HELP = "Usage: deploy [OPTIONS] [TARGET]\n" + "".join(f"      {option} <X>\n" for option in OPTIONS)


class World:
    """deploy-rs that leaves the host running ``lands``, with ``profile`` in its profile."""

    def __init__(
        self,
        code: int = 0,
        stderr: str = "",
        lands: str = NEW,
        *,
        profile: str | None = None,
        binary: str = BINARY,
        busy: int = 0,
        takes: float = 0.0,
    ) -> None:
        self.host = NixosHost(OLD)
        self.code, self.stderr, self.lands, self.profile = code, stderr, lands, profile or lands
        self.busy = busy
        self.processes = FakeProcesses().answers(binary, with_=self.deploy, takes=takes)
        self.processes.answers(binary, "--help", stdout=HELP).answers(binary, "--version", stdout="deploy-rs 1.0\n")
        self.shell = self.host.shell()
        self.shell.answers("pgrep", "-f", with_=self.pgrep)
        held = "/nix/var/nix/profiles/system/nixos-version"
        self.shell.answers("readlink", "-f", held, with_=lambda _h, _c: ok(f"{self.host.profile}/nixos-version"))
        self.activator = DeployRsActivator(self.processes, self.shell, lambda _h: SshInvocation("root@w1"), binary)

    def deploy(self, invocation: Invocation) -> CommandResult:
        if "--boot" not in invocation.argv:
            self.host.current = self.lands
        self.host.profile = self.profile
        return CommandResult(exit_code=self.code, stderr=self.stderr)

    def pgrep(self, _host: Host, _command: Command) -> CommandResult:
        self.busy -= 1
        return CommandResult(exit_code=0 if self.busy >= 0 else 1)

    async def activate(self, mode: SwitchMode = SwitchMode.SWITCH, said: list[str] | None = None) -> Activated:
        return await self.activator.activate(an_activation(mode), said.append if said is not None else None)

    async def failure(self) -> Failure:
        with pytest.raises(TaskError) as caught:
            await self.activate()
        return caught.value.failure


def ok(stdout: str) -> CommandResult:
    return CommandResult(exit_code=0, stdout=stdout + "\n")


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


@pytest.mark.parametrize(
    ("host", "why"),
    [
        (a_host("w1", privilege=Privilege.DOAS), "become root by doas"),
        (a_host("w1", privilege=Privilege.RUN0), "become root by run0"),
        (
            a_host("w1", privilege=Privilege.SUDO, privilege_password=SecretFromEnv(env="X")),
            "be given a privilege password",
        ),
    ],
)
async def test_what_it_cannot_do_on_a_host_is_known_before_it_runs(host, why):
    world = World()
    failure = await world.activator.refuse(host)
    assert failure is not None
    assert why in failure.message
    assert world.processes.ran == []


async def test_a_host_that_is_there_already_is_left_alone():
    world = World()
    world.host.current = world.host.profile = NEW
    assert await world.activate() == Activated(changed=False)
    assert not any("-s" in line.split() for line in world.processes.lines())


async def test_a_system_that_runs_and_would_not_boot_is_deployed():
    world = World()
    world.host.current = NEW
    assert await world.activate() == Activated(changed=True)


async def test_the_binary_is_checked_once():
    world = World()
    await world.activate()
    world.host.current = OLD
    await world.activate()
    assert sum(line.endswith("--help") for line in world.processes.lines()) == 1


@pytest.mark.parametrize(
    ("version", "usage", "said"),
    [
        ("nixkube-deploy, version 0.4.0\n", "Usage: deploy [OPTIONS] COMMAND\n", "nixkube-deploy itself"),
        ("deployer 3\n", "Usage: deploy\n", "'deployer 3'"),
        ("", "Usage: deploy THINGS\n", "'Usage: deploy THINGS'"),
        ("", "", "'nothing'"),
        ("deploy-rs 1.0\n", HELP.replace("--boot ", ""), "does not list --boot"),
    ],
)
async def test_another_program_of_that_name_is_refused_with_what_it_says(version, usage, said):
    world = World()
    world.processes.answers(BINARY, "--version", stdout=version, times=1)
    world.processes.answers(BINARY, "--help", stdout=usage, times=1)
    failure = await world.failure()
    assert failure.kind is FailureKind.PREFLIGHT
    assert said in f"{failure.message} {failure.seen}"
    assert len(world.processes.ran) == 2


@pytest.mark.parametrize("binary", ["deploy", "./deploy", ""])
async def test_a_bare_name_is_refused_without_running_it(binary):
    world = World(binary=binary)
    assert (await world.failure()).kind is FailureKind.PREFLIGHT
    assert world.processes.ran == []


async def test_a_program_that_does_not_run_is_refused():
    world = World(binary="/else/where")
    world.activator = DeployRsActivator(world.processes, world.shell, lambda _h: SshInvocation("w1"), BINARY)
    failure = await world.failure()
    assert failure.seen == f"{BINARY} is not installed"


async def test_a_failure_keeps_deploy_rs_own_words():
    failure = await World(1, "❌ [deploy] [ERROR] Failed to evaluate\n", lands=OLD).failure()
    assert failure.kind is FailureKind.ACTIVATION
    assert failure.evidence == ("[deploy] [ERROR] Failed to evaluate",)


@pytest.mark.parametrize(
    ("heard", "message"),
    [
        (("[deploy] [INFO] Activating profile `system` for node `w1`",), "could not confirm"),
        (("[activate] [INFO] Activation succeeded!", "[activate] [WARN] De-activating due to error"), "not confirm"),
        (("[activate] [WARN] De-activating due to error",), "could not activate"),
    ],
)
async def test_its_rollback_is_named(heard, message):
    failure = await World(1, "\n".join(heard), lands=OLD).failure()
    assert failure.kind is FailureKind.FELL_BACK
    assert message in failure.message
    assert failure.did == "deploy-rs took the host back by itself"


async def test_a_first_deployment_that_it_could_not_take_back_is_said_to_be_one():
    stderr = "⭐ ⚠️ [activate] [WARN] De-activating due to error\n"
    failure = await World(1, stderr, lands=NEW, profile=OLD).failure()
    assert "could not take w1 back" in failure.message


async def test_another_system_than_the_planned_one_is_a_failure_though_deploy_rs_is_content():
    failure = await World(lands=store_path("newer")).failure()
    assert "another system than the planned one" in failure.message


async def test_success_is_not_believed_when_the_host_is_where_it_was():
    assert (await World(lands=OLD).failure()).kind is FailureKind.ACTIVATION


async def test_a_next_boot_is_not_believed_when_the_profile_holds_something_else():
    with pytest.raises(TaskError, match="did not bring w1 to the new system"):
        await World(profile=OLD).activate(SwitchMode.BOOT)


async def test_a_connection_lost_after_the_activation_is_a_warning_when_the_host_stays():
    done = await World(1, "⭐ [activate] [INFO] Activation succeeded!\n").activate()
    assert done.changed
    assert "runs the new system all the same" in done.warnings[0]


@ON_VIRTUAL_TIME
async def test_the_host_is_judged_only_once_nothing_of_deploy_rs_works_on_it():
    world = World(busy=4)
    await world.activate()
    looks = [ran.argv[0] for ran in world.shell.ran]
    assert looks[:6] == ["pgrep"] * 5 + ["readlink"]


@ON_VIRTUAL_TIME
async def test_a_host_that_stays_silent_is_an_unknown_outcome():
    world = World()
    world.shell.unreachable("w1")
    failure = await world.failure()
    assert (failure.kind, failure.transient) == (FailureKind.OUTCOME_UNKNOWN, True)


@ON_VIRTUAL_TIME
async def test_a_deploy_rs_that_never_ends_is_ended_and_the_host_looked_at():
    world = World(takes=1e6, lands=OLD)
    failure = await world.failure()
    assert failure.seen.startswith("deploy-rs was ended: it took too long")


@ON_VIRTUAL_TIME
async def test_cancelling_ends_the_program():
    world = World(takes=1000)
    with anyio.move_on_after(5):
        await world.activate()
    assert len(world.processes.cancelled) == 1


async def test_its_lines_become_progress():
    said: list[str] = []
    stderr = (
        "🚀 ℹ️ [deploy] [INFO] Evaluating flake in /x\n"  # noqa: RUF001 (its own text)
        "⭐ ℹ️ [activate] [INFO] Waiting for confirmation event...\n"  # noqa: RUF001
        "🚀 ℹ️ [deploy] [INFO] Deployment confirmed.\n"  # noqa: RUF001
        "🚀 ❌ [deploy] [ERROR] odd\nplain\n"
    )
    await World(stderr=stderr).activate(said=said)
    assert said == [
        "deploy-rs: evaluates the flake",
        "deploy-rs: the host waits for a new connection",
        "deploy-rs: confirmed over a new connection",
        "deploy-rs: odd",
        "plain",
    ]


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
