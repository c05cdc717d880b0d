"""The nixos-anywhere installer: what it refuses, and what it says when a phase fails."""

from pathlib import Path

import pytest
from trio.testing import MockClock

from nixkube_deploy.app.secrets import resolve_secret
from nixkube_deploy.backends.nixos_anywhere.installer import NixosAnywhere
from nixkube_deploy.model.action import InstallNixos, InstallPhase
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import CommandResult, SshInvocation
from tests.builders import a_host, store_path
from tests.fakes.process import FakeProcesses

WITH_KEY = ("-i", "/key")
DISKO = store_path("disko")


def an_install(phase: InstallPhase = InstallPhase.DISKO, disko: StorePath | None = DISKO) -> InstallNixos:
    return InstallNixos(host=HostName("w1"), phase=phase, closure=store_path("system"), disko=disko)


def keygen(invocation: Invocation) -> CommandResult:
    """As ``ssh-keygen``: it makes the file, or tells what is public of it."""
    path = Path(invocation.argv[-1])
    if "-y" not in invocation.argv:
        path.write_text("a private key")
    return CommandResult(exit_code=0, stdout="ssh-ed25519 AAAA comment")


class Pinned(dict[str, str]):
    """Pins in memory."""

    def get(self, host: Host) -> str | None:  # type: ignore[override]
        return super().get(host.name)

    def put(self, host: Host, key: str) -> None:
        self[host.name] = key


async def install(
    processes: FakeProcesses, action: InstallNixos | None = None, options: tuple[str, ...] = WITH_KEY
) -> list[str]:
    said: list[str] = []
    installer = NixosAnywhere(processes, lambda _h: SshInvocation("nixos@w1.lan", options), resolve_secret, Pinned())
    await installer.install(a_host("w1"), action or an_install(), said.append)
    return said


async def failure(processes: FakeProcesses, *arguments: object) -> Failure:
    with pytest.raises(TaskError) as caught:
        await install(processes, *arguments)  # type: ignore[arg-type]
    return caught.value.failure


async def test_steps_are_progress():
    processes = FakeProcesses().answers("nixos-anywhere", stderr="### Formatting hard drive with disko ###\nplain\n")
    assert await install(processes) == ["Formatting hard drive with disko", "plain"]


async def test_a_failed_phase_says_during_which_step_and_why():
    processes = FakeProcesses().answers(
        "nixos-anywhere",
        exit_code=1,
        stdout="### Gathering machine facts ###\n### Switching system into kexec ###\n",
        stderr="aborted: Machine is too small\n",
    )
    found = await failure(processes, an_install(InstallPhase.KEXEC))
    assert found.kind is FailureKind.INSTALL
    assert found.message == "nixos-anywhere failed in the kexec phase on w1: Machine is too small"
    assert found.seen == "exit code 1 during: Switching system into kexec"


async def test_a_childs_exit_code_comes_through():
    found = await failure(FakeProcesses().answers("nixos-anywhere", exit_code=255, stderr="ssh: refused\n"))
    assert (found.exit_code, found.evidence) == (255, ("ssh: refused",))


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual time"])
@pytest.mark.parametrize("phase", [phase for phase in InstallPhase if phase is not InstallPhase.REPORT])
async def test_every_phase_has_a_deadline_because_nixos_anywhere_has_none(phase):
    processes = FakeProcesses().answers("nixos-anywhere", takes=1e9).answers("ssh-keygen", with_=keygen)
    found = await failure(processes, an_install(phase))
    assert found.kind is FailureKind.TIMEOUT


@pytest.mark.parametrize(
    ("action", "options", "text"),
    [
        (an_install(disko=None), WITH_KEY, "no disko script"),
        (an_install(), (), "no SSH key"),
        (an_install(), ("-F", "/etc/x", "-i", "/key"), "-F /etc/x cannot be handed"),
    ],
    ids=["no disko script", "no key", "a config file"],
)
async def test_what_nixos_anywhere_cannot_be_told_is_refused_before_anything_runs(action, options, text):
    processes = FakeProcesses()
    found = await failure(processes, action, options)
    assert found.kind is FailureKind.PREFLIGHT
    assert text in found.message
    assert processes.ran == []


async def test_a_jump_host_is_handed_on():
    processes = FakeProcesses().answers("nixos-anywhere")
    await install(processes, None, ("-J", "bastion", "-i", "/key", "-o", "ProxyJump=x"))
    assert "--ssh-option ProxyJump=bastion --ssh-option ProxyJump=x" in processes.lines()[0]
