"""Every program of the controller, word for word as it is called, in every situation that changes the words.

The answers are tests/golden/invocations/*.txt. UPDATE_GOLDEN=1 rewrites them; read the difference before committing it.
"""

import contextlib
import json
import os
import re
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nixkube_deploy.backends.deploy_rs.activator import DeployRsActivator
from nixkube_deploy.backends.nix.cli import NixCli, NixSettings
from nixkube_deploy.backends.nixos_anywhere.installer import NixosAnywhere
from nixkube_deploy.backends.nixos_anywhere.staging import Staging
from nixkube_deploy.backends.nixos_rebuild.activator import NixosRebuildActivator
from nixkube_deploy.model.action import InstallNixos, InstallPhase, SwitchMode, WayBack
from nixkube_deploy.model.building import BuildSettings, EvaluationSettings
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.fleet import BootstrapSettings, CopySettings, CopyVia, HardwareReport, Host, Privilege
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


async def nix(
    do: Callable[[NixCli], Awaitable[object]],
    environ: dict[str, str] | None = None,
    *,
    settings: NixSettings | None = None,
    processes: FakeProcesses | None = None,
    shell: FakeShell | None = None,
) -> tuple[str, ...]:
    processes = (processes or FakeProcesses()).answers("nix", "--version", stdout="nix (Nix) 2.28.5\n")
    processes.answers("nix-eval-jobs", stdout="--select --apply --override-input")
    processes.answers("nix", "flake", stdout='{"locked": {"narHash": "sha256-AAAA"}}').answers("nix", exit_code=1)
    shell = (shell or FakeShell()).answers("test", exit_code=1).answers("nix-store", exit_code=1)
    await quietly(do(NixCli(processes, ssh, shell, environ=environ or {"NIX_REMOTE": "/nowhere"}, settings=settings)))
    return tuple(told(i) for i in processes.ran) + tuple(told_remote(r) for r in shell.ran)


def an_evaluated(name: str = "w1") -> Evaluated:
    out = store_path(f"nixos-system-{name}")
    return Evaluated(host=HostName(name), drv=f"{out}.drv", out=out, system="x86_64-linux")


async def test_nix_evaluates_all_hosts_at_once():
    hosts = [a_host("w1"), a_host("w2"), a_host("odd", attr='nixosConfigurations."other".pi')]
    check("nix-evaluate", *(await nix(lambda n: n.evaluate(FLAKE, hosts)))[:2])


async def test_nix_evaluates_with_overrides_and_impurely_when_asked():
    evaluation = EvaluationSettings(impure=True, override_inputs={"nixpkgs": "path:/src/nixpkgs"})
    parts = await nix(lambda n: n.evaluate(FLAKE, [a_host('q"${x}')]), settings=NixSettings(evaluation=evaluation))
    check("nix-evaluate-overridden", *parts)


async def test_nix_eval_jobs_evaluates_where_it_is():
    settings = NixSettings(evaluation=EvaluationSettings(workers=2, max_memory=4 << 30), eval_jobs="nix-eval-jobs")
    parts = await nix(lambda n: n.evaluate(FLAKE, [a_host("w1"), a_host("w2")]), settings=settings)
    check("nix-eval-jobs", *[part for part in parts if "nix-eval-jobs" in part])


async def test_nix_builds_everything_at_once():
    wanted = [an_evaluated("w1"), an_evaluated("w2")]
    check("nix-build", *await nix(lambda n: n.build(FLAKE, wanted, frozenset())))


async def test_nix_builds_as_the_inventory_says_and_keeps_what_it_built():
    build = BuildSettings(
        max_jobs=0, cores=4, builders="ssh://b aarch64-linux", options={"max-silent-time": "600", "sandbox": "true"}
    )
    settings = NixSettings(build=build, roots=Path("/tmp/run/built"))
    check(
        "nix-build-passed-through",
        *await nix(lambda n: n.build(FLAKE, [an_evaluated("w1")], frozenset()), settings=settings),
    )


async def test_nix_builds_the_disko_script_of_a_host_that_is_to_be_installed():
    answers = FakeProcesses().answers("nix", "build", times=1)
    parts = await nix(lambda n: n.build(FLAKE, [an_evaluated("w1")], frozenset({HostName("w1")})), processes=answers)
    check("nix-build-disko", parts[-1])


async def test_a_host_builds_its_own_system():
    check("nix-build-on-target", *await nix(lambda n: n.build_on(a_host("w1"), an_evaluated("w1"))))


async def test_a_host_builds_its_own_system_from_the_derivations_it_was_sent():
    sent = FakeProcesses().answers("nix", "copy", times=1)
    parts = await nix(lambda n: n.build_on(a_host("w1"), an_evaluated("w1")), processes=sent)
    check("nix-build-on-target-realised", *parts)


async def copying(root: Path, host: Host, settings: NixSettings | None = None) -> tuple[str, ...]:
    """Everything about one copy of a closure of two paths of which the host lacks one, and lacks room at first."""
    (root / SYSTEM.lstrip("/")).mkdir(parents=True, exist_ok=True)
    info = {SYSTEM: {"narSize": 2048, "references": [OLD]}, OLD: {"narSize": 4096, "references": []}}
    processes = FakeProcesses().answers("nix", "path-info", stdout=json.dumps(info)).answers("nix", "copy")
    shell = FakeShell().answers("sh", "-c", stdout=f"@disk\n/dev/a 9 9 9 9% /nix\n{OLD}\n").answers("nix-store")
    if host.copy.collect_garbage is not None:
        shell.answers("sh", "-c", stdout=f"@disk\n/dev/a 9 9 1 9% /nix\n{OLD}\n", times=1)
        links = "".join(f" {n} system-{n}-link -> {store_path(f'nixos-{n}')}\n" for n in (1, 2, 3))
        listing = f"9999999\n{store_path('nixos-3')}\n{store_path('nixos-3')}\n 1 system -> system-3-link\n{links}"
        shell.answers("sh", "-c", stdout=listing, times=1)
    environ = {"NIX_REMOTE": str(root), "PATH": "/bin"}
    parts = await nix(lambda n: n.copy(SYSTEM, host), environ, settings=settings, processes=processes, shell=shell)
    return tuple(part.replace(str(root), "/RUN") for part in parts)


async def test_nix_pushes_a_closure(tmp_path):
    check("nix-copy-push", *await copying(tmp_path, a_host("w1")))


async def test_nix_pushes_a_closure_without_substitution(tmp_path):
    host = a_host("w1", copy=CopySettings(substitute=False), address="2001:db8::1")
    check("nix-copy-push-no-substitute", *await copying(tmp_path, host))


async def test_nix_pushes_a_closure_over_the_connection_that_is_open(tmp_path):
    settings = NixSettings(wires=tmp_path / "wires")
    parts = await copying(tmp_path, a_host("w1"), settings)
    folder = re.search(r"NIXKUBE_WIRE_PROGRAMS=(\S+)", parts[1])
    assert folder is not None
    check("nix-copy-push-kept", *(part.replace(folder[1], "/RUN/wires") for part in parts))  # Or a shorter one.


async def test_a_host_without_room_collects_its_garbage_first(tmp_path):
    host = a_host("w1", copy=CopySettings(collect_garbage=14 * 86400.0))
    check("nix-copy-collect-garbage", *await copying(tmp_path, host))


async def test_nix_keeps_what_the_environment_configures():
    parts = await nix(lambda n: n.state(FLAKE), {"NIX_CONFIG": "max-jobs = 1"})
    check("nix-flake-metadata", *parts)


async def test_a_host_pulls_from_a_cache(tmp_path):
    host = a_host("w1", copy=CopySettings(via=CopyVia.CACHE, cache="https://cache.example"))
    own = a_host("w2", copy=CopySettings(via=CopyVia.CACHE))
    check("nix-copy-cache", *await copying(tmp_path, host), *await copying(tmp_path, own))


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


DEPLOY_RS_TAKES = {
    **dict.fromkeys(("-f", "--file", "-r", "--result-path", "--log-dir", "--ssh-user", "--profile-user"), "text"),
    **dict.fromkeys(("--hostname", "--temp-path", "--sudo"), "text"),
    "--ssh-opts": "text with dashes",
    **dict.fromkeys(("--fast-connection", "--auto-rollback", "--magic-rollback"), "boolean"),
    **dict.fromkeys(("--rollback-succeeded", "--interactive-sudo"), "boolean"),
    **dict.fromkeys(("--confirm-timeout", "--activation-timeout"), "u16"),
    **dict.fromkeys(("-c", "--checksigs", "-i", "--interactive", "-d", "--debug-logs", "-k", "--keep-result"), ""),
    **dict.fromkeys(("-s", "--skip-checks", "--remote-build", "--dry-activate", "--boot"), ""),
}
"""deploy-rs' options and what each takes, as its documentation has them; ``--targets`` is left out on purpose: it takes
every word that follows it."""


def read_as_deploy_rs_does(argv: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Targets and options of a command line; fails where deploy-rs would print its usage."""
    targets, options, words = [], {}, list(argv[1:])
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            targets.append(word)
            continue
        assert word in DEPLOY_RS_TAKES, f"{word} is no option of deploy-rs"
        assert word not in options, f"{word} twice"
        takes = DEPLOY_RS_TAKES[word]
        options[word] = words.pop(0) if takes else ""
        assert takes == "text with dashes" or not options[word].startswith("-"), f"{word} {options[word]}"
        assert takes != "boolean" or options[word] in {"true", "false"}
        assert takes != "u16" or 0 < int(options[word]) < 1 << 16
    return targets, options


@pytest.mark.parametrize("mode", [SwitchMode.SWITCH, SwitchMode.BOOT])
def test_deploy_rs_activates_one_host(mode):
    activator = DeployRsActivator(FakeProcesses(), FakeShell(), ssh, "/nix/store/x-deploy-rs/bin/deploy")
    invocation = activator.invocation(an_activation(a_host("w1"), mode))
    check(f"deploy-rs-{mode.value}", told(invocation))
    targets, options = read_as_deploy_rs_does(invocation.argv)
    assert targets == [f"{FLAKE}#w1.system"]
    assert options["--ssh-opts"].split(" ") == list(OPTIONS)
    assert ("--boot" in options) == (mode is SwitchMode.BOOT)


@pytest.mark.parametrize("seconds", [0.001, 1e9])
def test_deploy_rs_is_given_a_time_that_fits_its_number(seconds):
    activator = DeployRsActivator(FakeProcesses(), FakeShell(), ssh, "/bin/deploy-rs")
    host = a_host("w1", policy=replace(a_host("w1").policy, activation_timeout=seconds))
    read_as_deploy_rs_does(activator.invocation(an_activation(host)).argv)


def test_deploy_rs_takes_a_name_with_a_dot():
    activator = DeployRsActivator(FakeProcesses(), FakeShell(), lambda _h: SshInvocation("w1.lan"), "/bin/deploy-rs")
    check("deploy-rs-dotted", told(activator.invocation(an_activation(a_host("w1.lan")))))


# --- nixos-anywhere --------------------------------------------------------------------------------------------------


NOTHING: Any = None


def a_bare_host(**settings: object) -> Host:
    return a_host("w1", bootstrap=BootstrapSettings(**settings))  # type: ignore[arg-type]


def an_install(phase: InstallPhase) -> InstallNixos:
    return InstallNixos(host=HostName("w1"), phase=phase, closure=SYSTEM, disko=DISKO)


@pytest.mark.parametrize("phase", list(InstallPhase))
def test_nixos_anywhere_runs_one_phase(phase):
    installer = NixosAnywhere(FakeProcesses(), ssh, NOTHING, NOTHING)
    host = a_bare_host(
        kexec="/srv/kexec.tar.gz",
        ownership={"/var/lib/app": "1000:100"},
        hardware_report=HardwareReport(path="/flake/hosts/w1.json"),
    )
    staging = Staging(extra_files="/run/x/root", disk_keys=(("/tmp/disk.key", "/run/x/disk-key-0"),))
    check(f"nixos-anywhere-{phase.value}", told(installer.invocation(host, an_install(phase), staging)))


def test_nixos_anywhere_on_the_usual_port_as_another_user_without_substitution():
    installer = NixosAnywhere(FakeProcesses(), ssh_default_port, NOTHING, NOTHING)
    host = replace(a_bare_host(), copy=CopySettings(substitute=False))
    parts = [
        told(installer.invocation(host, an_install(phase))) for phase in (InstallPhase.KEXEC, InstallPhase.INSTALL)
    ]
    check("nixos-anywhere-plain", *parts)
