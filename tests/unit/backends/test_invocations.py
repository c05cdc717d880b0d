"""Every program of the controller, word for word as it is called, in every situation that changes the words.

The answers are tests/golden/invocations/*.txt. UPDATE_GOLDEN=1 rewrites them; read the difference before committing it.
"""

import contextlib
import os
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nixkube_deploy.backends.deploy_rs.activator import DeployRsActivator
from nixkube_deploy.backends.nix.cli import NixCli
from nixkube_deploy.backends.nixos_anywhere.installer import NixosAnywhere
from nixkube_deploy.backends.nixos_rebuild.activator import NixosRebuildActivator
from nixkube_deploy.model.action import InstallNixos, InstallPhase, SwitchMode, WayBack
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import BootstrapSettings, CopySettings, CopyVia, Host, Privilege
from nixkube_deploy.model.names import HostName, RunId
from nixkube_deploy.ports.activator import Activation
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import SshInvocation
from tests.builders import a_host, store_path
from tests.fakes.process import FakeProcesses
from tests.fakes.shell import FakeShell, Ran

GOLDEN = Path(__file__).parents[2] / "golden/invocations"
FLAKE = "git+file:///srv/fleet"
DISKO, SYSTEM, OLD = store_path("disko-w1"), store_path("nixos-system-w1"), store_path("nixos-system-w1-old")

OPTIONS = (
    "-p", "2222", "-i", "/home/me/.ssh/id_ed25519", "-o", "IdentitiesOnly=yes",
    "-o", "UserKnownHostsFile=/run/user/1000/known_hosts", "-o", "StrictHostKeyChecking=yes",
    "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
)  # fmt: skip


def ssh(host: Host) -> SshInvocation:
    return SshInvocation(f"{host.ssh.user or 'root'}@{host.address}", OPTIONS)


def ssh_default_port(host: Host) -> SshInvocation:
    return SshInvocation(f"nixos@{host.address}", ("-i", "/key", "-o", "BatchMode=yes"))


def told(invocation: Invocation) -> str:
    """One program as a person would type it: environment first, one argument a line."""
    env = [f"{name}={shlex.quote(value)}" for name, value in sorted(invocation.env.items())]
    return " \\\n".join(
        [*env, shlex.quote(invocation.argv[0]), *(f"    {shlex.quote(a)}" for a in invocation.argv[1:])]
    )


def told_remote(ran: Ran) -> str:
    return f"on {ran.host}{', as root' if ran.command.privileged else ''}: {shlex.join(ran.argv)}"


def check(name: str, *parts: str) -> None:
    text, file = "\n\n".join(parts) + "\n", GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


async def quietly(call: Awaitable[object]) -> None:
    """What the answer is does not matter here."""
    with contextlib.suppress(TaskError):
        await call


# --- nix -------------------------------------------------------------------------------------------------------------


async def nix(do: Callable[[NixCli], Awaitable[object]], environ: dict[str, str] | None = None) -> tuple[str, ...]:
    processes = FakeProcesses().answers("nix", "--version", stdout="nix (Nix) 2.28.5\n")
    processes.answers("nix", "flake", stdout='{"locked": {"narHash": "sha256-AAAA"}}').answers("nix", exit_code=1)
    shell = FakeShell().answers("test", exit_code=1).answers("nix-store", exit_code=1)
    await quietly(do(NixCli(processes, ssh, shell, environ=environ or {"NIX_REMOTE": "/nowhere"})))
    return tuple(told(i) for i in processes.ran) + tuple(told_remote(r) for r in shell.ran)


def an_evaluated(name: str = "w1") -> Evaluated:
    out = store_path(f"nixos-system-{name}")
    return Evaluated(host=HostName(name), drv=f"{out}.drv", out=out, system="x86_64-linux")


async def test_nix_evaluates_all_hosts_at_once():
    hosts = [a_host("w1"), a_host("w2"), a_host("odd", attr='nixosConfigurations."other".pi')]
    check("nix-evaluate", *(await nix(lambda n: n.evaluate(FLAKE, hosts)))[:2])


async def test_nix_evaluates_hosts_one_by_one_to_name_the_culprits():
    parts = await nix(lambda n: n.evaluate(FLAKE, [a_host("w1"), a_host('q"${x}')]))
    check("nix-evaluate-culprits", *parts[:2], *sorted(parts[2:]))


async def test_nix_builds_what_is_missing():
    wanted = [an_evaluated("w1"), an_evaluated("w2")]
    check("nix-build", *await nix(lambda n: n.build(FLAKE, wanted, frozenset())))


async def test_nix_pushes_a_closure():
    check("nix-copy-push", *await nix(lambda n: n.copy(SYSTEM, a_host("w1"))))


async def test_nix_pushes_a_closure_without_substitution():
    host = a_host("w1", copy=CopySettings(substitute=False), address="2001:db8::1")
    check("nix-copy-push-no-substitute", *await nix(lambda n: n.copy(SYSTEM, host)))


async def test_nix_keeps_what_the_environment_configures():
    parts = await nix(lambda n: n.state(FLAKE), {"NIX_CONFIG": "max-jobs = 1"})
    check("nix-flake-metadata", *parts)


async def test_a_host_pulls_from_a_cache():
    host = a_host("w1", copy=CopySettings(via=CopyVia.CACHE, cache="https://cache.example"))
    own = a_host("w2", copy=CopySettings(via=CopyVia.CACHE))
    check(
        "nix-copy-cache",
        *await nix(lambda n: n.copy(SYSTEM, host)),
        *await nix(lambda n: n.copy(SYSTEM, own)),
    )


# --- nixos-rebuild ---------------------------------------------------------------------------------------------------


def an_activation(host: Host, mode: SwitchMode = SwitchMode.SWITCH) -> Activation:
    back = WayBack(system=OLD, booted=OLD, generation=1, boot_id="")
    return Activation(
        run=RunId("20261122T204931Z-3fa9"), host=host, closure=SYSTEM, mode=mode, way_back=back, flake=FLAKE
    )


@pytest.mark.parametrize("mode", list(SwitchMode))
def test_nixos_rebuild_activates_a_store_path(mode):
    activator = NixosRebuildActivator(FakeProcesses(), FakeShell(), ssh)
    check(f"nixos-rebuild-{mode.value}", told(activator.invocation(an_activation(a_host("w1")), mode)))


@pytest.mark.parametrize("privilege", [Privilege.SUDO, Privilege.RUN0])
def test_nixos_rebuild_becomes_root(privilege):
    activator = NixosRebuildActivator(FakeProcesses(), FakeShell(), ssh)
    host = a_host("w1", privilege=privilege, ssh=replace(a_host("w1").ssh, user="deploy"))
    check(f"nixos-rebuild-{privilege.value}", told(activator.invocation(an_activation(host), SwitchMode.SWITCH)))


# --- deploy-rs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(SwitchMode))
def test_deploy_rs_activates_one_host(mode):
    activator = DeployRsActivator(FakeProcesses(), FakeShell(), ssh, "/nix/store/x-deploy-rs/bin/deploy")
    check(f"deploy-rs-{mode.value}", told(activator.invocation(an_activation(a_host("w1"), mode))))


def test_deploy_rs_takes_a_name_with_a_dot():
    activator = DeployRsActivator(FakeProcesses(), FakeShell(), lambda _h: SshInvocation("w1.lan"), "/bin/deploy-rs")
    check("deploy-rs-dotted", told(activator.invocation(an_activation(a_host("w1.lan")))))


# --- nixos-anywhere --------------------------------------------------------------------------------------------------


def a_bare_host(**settings: object) -> Host:
    return a_host("w1", bootstrap=BootstrapSettings(**settings))  # type: ignore[arg-type]


def an_install(phase: InstallPhase) -> InstallNixos:
    return InstallNixos(host=HostName("w1"), phase=phase, closure=SYSTEM, disko=DISKO)


@pytest.mark.parametrize("phase", list(InstallPhase))
def test_nixos_anywhere_runs_one_phase(phase):
    installer = NixosAnywhere(FakeProcesses(), ssh)
    host = a_bare_host(extra_files="/srv/secrets/w1", kexec="/srv/kexec.tar.gz")
    check(f"nixos-anywhere-{phase.value}", told(installer.invocation(host, an_install(phase))))


def test_nixos_anywhere_on_the_usual_port_as_another_user_without_substitution():
    installer = NixosAnywhere(FakeProcesses(), ssh_default_port)
    host = replace(a_bare_host(), copy=CopySettings(substitute=False))
    parts = [
        told(installer.invocation(host, an_install(phase))) for phase in (InstallPhase.KEXEC, InstallPhase.INSTALL)
    ]
    check("nixos-anywhere-plain", *parts)
