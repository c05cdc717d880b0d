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
from nixkube_deploy.ports.shell import SshInvocation
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
