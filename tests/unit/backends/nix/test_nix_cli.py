"""NixCli on scripted programs: what it makes of answers, and which host it blames."""

import json
from pathlib import Path

import pytest

from nixkube_deploy.backends.nix.cli import NixCli
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import CopySettings, CopyVia
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import CommandResult, SshInvocation
from tests.builders import a_host, store_path
from tests.fakes.process import FakeProcesses
from tests.fakes.shell import FakeShell

FLAKE = "/srv/fleet"
METADATA = json.dumps({"resolvedUrl": "path:/srv/fleet", "locked": {"narHash": "sha256-AAAA", "type": "path"}})
SYSTEM = store_path("nixos-system-w1")


class World:
    """One controller: programs, a shell, a chroot store in which builds leave their outputs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = FakeProcesses().answers("nix", "flake", "metadata", stdout=METADATA)
        self.processes.answers("nix", "--version", stdout="nix (Nix) 2.28.5\n")
        self.shell = FakeShell()
        self.nix = NixCli(self.processes, self.ssh, self.shell, environ={"NIX_REMOTE": str(root)})

    @staticmethod
    def ssh(host) -> SshInvocation:
        return SshInvocation(f"root@{host.address}")

    def realise(self, path: str) -> None:
        (self.root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)


def data(name: str) -> dict[str, str]:
    out = store_path(f"nixos-system-{name}")
    return {"drvPath": f"{out}.drv", "out": out, "system": "x86_64-linux"}


def an_evaluated(name: str) -> Evaluated:
    d = data(name)
    return Evaluated(
        host=HostName(name), drv=d["drvPath"], out=store_path(f"nixos-system-{name}"), system="x86_64-linux"
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- build -----------------------------------------------------------------------------------------------------------


async def test_nothing_is_built_when_everything_is_there(world):
    world.realise(store_path("nixos-system-w1"))
    built = await world.nix.build(FLAKE, [an_evaluated("w1")], frozenset())
    assert built.closures[HostName("w1")].out == store_path("nixos-system-w1")
    assert world.processes.ran == []


@pytest.mark.parametrize(
    ("version", "suffix"),
    [("nix (Nix) 2.8.0", ""), ("nix (Nix) 2.34.8", "^out"), ("nix (Lix, like Nix) 2.91.1", "^out"), ("?", "^out")],
)
async def test_outputs_are_asked_for_as_the_version_wants(tmp_path, version, suffix):
    world = World(tmp_path)
    world.processes.answers("nix", "--version", stdout=f"{version}\n")
    world.processes.answers("nix", "build", exit_code=1)
    await world.nix.build(FLAKE, [an_evaluated("w1"), an_evaluated("w1")], frozenset())
    assert world.processes.ran[-1].argv[-1] == data("w1")["drvPath"] + suffix
    assert world.processes.lines()[-1].count(".drv") == 1


FAILED_OLD = """building '{dep}'...
error: builder for '{dep}' failed with exit code 3;
       last 2 log lines:
       > some log line
       > oops
       For full logs, run 'nix log {dep}'.
error: 1 dependencies of derivation '{top}' failed to build
"""
FAILED_NEW = """error: Cannot build '{dep}'.
       Reason: builder failed with exit code 3.
       Output paths:
         /nix/store/x
       Last 2 log lines:
       > some log line
       > oops
error: Cannot build '{top}'.
       Reason: 1 dependency failed.
"""


@pytest.mark.parametrize("text", [FAILED_OLD, FAILED_NEW], ids=["2.8 and 2.26", "2.34"])
async def test_a_failed_build_is_blamed_on_the_hosts_that_need_it(world, text):
    dep, top = f"{store_path('etc')}.drv", data("w1")["drvPath"]

    def build(_invocation: Invocation) -> CommandResult:
        world.realise(store_path("nixos-system-w2"))
        drv = world.root / top.lstrip("/")
        drv.parent.mkdir(parents=True, exist_ok=True)
        drv.write_text(f'Derive([],[("{dep}",["out"])],[],"","",[],[])')
        return CommandResult(exit_code=1, stderr=text.format(dep=dep, top=top))

    world.processes.answers("nix", "build", with_=build)
    built = await world.nix.build(FLAKE, [an_evaluated("w1"), an_evaluated("w2")], frozenset())
    assert list(built.closures) == ["w2"]
    failure = built.failures[HostName("w1")]
    assert failure.kind is FailureKind.BUILD
    assert failure.message == "w1's system was not built: etc"
    assert "       > oops" in failure.evidence
    assert failure.next == f"nix log {dep}"


async def test_a_failure_nobody_can_place_is_shown_to_every_host_that_lacks_its_system(world):
    world.processes.answers("nix", "build", exit_code=1, stderr="error: cannot connect to daemon\n")
    built = await world.nix.build(FLAKE, [an_evaluated("w1"), an_evaluated("w2")], frozenset())
    assert {f.message for f in built.failures.values()} == {
        "w1's system was not built: cannot connect to daemon",
        "w2's system was not built: cannot connect to daemon",
    }


async def test_a_system_of_another_architecture_names_the_way_out(world):
    stderr = (
        "error: a 'aarch64-linux' with features {} is required to build '/nix/store/x.drv', but I am a 'x86_64-linux'\n"
    )
    world.processes.answers("nix", "build", exit_code=1, stderr=stderr)
    built = await world.nix.build(FLAKE, [an_evaluated("w1")], frozenset())
    assert "aarch64-linux" in built.failures[HostName("w1")].next


async def test_a_full_controller_is_told_apart(world):
    world.processes.answers("nix", "build", exit_code=1, stderr="error: writing to file: No space left on device\n")
    built = await world.nix.build(FLAKE, [an_evaluated("w1")], frozenset())
    assert built.failures[HostName("w1")].kind is FailureKind.DISK_FULL


async def test_a_host_that_is_to_be_installed_gets_its_disko_script(world):
    world.realise(store_path("nixos-system-w1"))
    world.processes.answers(
        "nix", "build", stdout=json.dumps([{"drvPath": "d", "outputs": {"out": "/nix/store/x-disko"}}])
    )
    built = await world.nix.build(FLAKE, [an_evaluated("w1")], frozenset({HostName("w1"), HostName("w9")}))
    assert built.closures[HostName("w1")].disko == "/nix/store/x-disko"


async def test_a_host_without_a_disko_script_is_that_hosts_failure(world):
    for name in ("w1", "w2"):
        world.realise(store_path(f"nixos-system-{name}"))
    world.processes.answers("nix", "build", exit_code=1, stderr="error: attribute 'diskoScript' missing\n")
    built = await world.nix.build(FLAKE, [an_evaluated("w1"), an_evaluated("w2")], frozenset({HostName("w1")}))
    assert "disko" in built.failures[HostName("w1")].message
    assert list(built.closures) == ["w2"]


# --- copy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "stderr", "changed"),
    [
        (False, "copying path '/nix/store/x' to 'ssh://root@w1.lan'...\n", True),
        (False, "", True),  # The host fetched it from its substituters.
        (True, "copying 0 paths...\n", False),
        (True, "copying path '/nix/store/x' to 'ssh://root@w1.lan'...\n", True),  # It lay there half written.
    ],
)
async def test_a_copy_says_whether_it_changed_anything(world, there, stderr, changed):
    world.shell.answers("test", "-e", exit_code=0 if there else 1)
    world.processes.answers("nix", "copy", stderr=stderr)
    assert await world.nix.copy(SYSTEM, a_host("w1")) is changed


async def test_a_pull_that_fails_says_to_fill_the_cache(world):
    world.shell.answers("test", exit_code=1)
    world.shell.answers("nix-store", exit_code=1, stderr=f"don't know how to build these paths:\n  {SYSTEM}\n")
    with pytest.raises(TaskError) as caught:
        await world.nix.copy(SYSTEM, a_host("w1", copy=CopySettings(via=CopyVia.CACHE)))
    assert "cache" in caught.value.failure.next


async def test_an_ssh_option_with_a_blank_is_refused_before_anything_runs(tmp_path):
    processes, shell = FakeProcesses(), FakeShell().answers("test", exit_code=1)
    nix = NixCli(processes, lambda _h: SshInvocation("root@w1", ("-i", "/my keys/id")), shell, environ={})
    with pytest.raises(TaskError, match="cannot be handed to Nix"):
        await nix.copy(SYSTEM, a_host("w1"))
    assert processes.ran == []


SIGNS = [
    ("@@ REMOTE HOST IDENTIFICATION HAS CHANGED! @@\r\nHost key verification failed.", FailureKind.HOST_KEY, False),
    ("No ED25519 host key is known for H\nHost key verification failed.", FailureKind.HOST_KEY, False),
    ("root@H: Permission denied (publickey,keyboard-interactive).", FailureKind.AUTHENTICATION, False),
    ("error: writing to file: No space left on device\nunexpected end-of-file", FailureKind.DISK_FULL, False),
    ("cannot add path 'P' because it lacks a signature by a trusted key", FailureKind.COPY, False),
    ("cannot add path 'P' because it lacks a valid signature", FailureKind.COPY, False),
    ("opening lock file '/nix/var/nix/db/big-lock': Permission denied", FailureKind.PRIVILEGE, False),
    ("bash: line 1: nix-store: command not found\nunexpected end-of-file", FailureKind.COPY, False),
    ("'nix-store --serve' protocol mismatch from 'H', got 'hello'", FailureKind.COPY, False),
    ("path 'P' is required, but there is no substituter that can build it", FailureKind.COPY, False),
    ("connect to host H port 23: Connection refused\nunexpected end-of-file", FailureKind.UNREACHABLE, True),
    ("connect to host H port 22: No route to host", FailureKind.UNREACHABLE, True),
    ("ssh: Could not resolve hostname h", FailureKind.UNREACHABLE, True),
    ("Timeout, server H not responding.\nerror: writing to file: Broken pipe", FailureKind.COPY, True),
    ("error: writing to file: Broken pipe", FailureKind.COPY, True),
    ("Nix daemon disconnected unexpectedly (maybe it crashed?)", FailureKind.COPY, True),
    ("error: something nobody has seen", FailureKind.COPY, True),
]


@pytest.mark.parametrize(("stderr", "kind", "transient"), SIGNS, ids=[text[:40] for text, _, _ in SIGNS])
async def test_a_failed_copy_is_told_by_its_text(world, stderr, kind, transient):
    world.shell.answers("test", exit_code=1)
    world.processes.answers("nix", "copy", exit_code=1, stderr=stderr)
    with pytest.raises(TaskError) as caught:
        await world.nix.copy(SYSTEM, a_host("w1"))
    failure = caught.value.failure
    assert (failure.kind, failure.transient) == (kind, transient)
    assert failure.evidence
    assert "{" not in failure.next
