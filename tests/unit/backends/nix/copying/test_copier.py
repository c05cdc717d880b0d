"""NixCopier on scripted programs and hosts: what travels, what it asks first, and what it makes of refusals."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from trio.testing import MockClock

from nixkube_deploy.backends.nix.cli import NixCli, NixSettings
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import CopySettings, CopyVia, Host
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import Command, CommandResult, SshInvocation
from tests.builders import a_host, store_path
from tests.fakes.process import FakeProcesses
from tests.fakes.shell import FakeShell

SYSTEM, BASH, UNIT = store_path("nixos-system-w1"), store_path("bash-5.3"), store_path("unit-k3s")
SIZES = {SYSTEM: 1024, BASH: 3 * 2**20, UNIT: 512}
MIB = 2**20
DAY = 86400


class Machine:
    """A host's store: what it has, what is free, what a collection frees."""

    def __init__(self, valid: set[str], free: int = 100 * MIB) -> None:
        self.valid, self.free = valid, free
        self.frees = 0
        self.generations = "1000000\n/nix/store/booted\n/nix/store/booted\n"

    def answer(self, _host: Host, command: Command) -> CommandResult:
        script = command.argv[2]
        if "check-validity" in script:
            return self._look(script, command.stdin or "")
        if "--gc" in script:
            self.free += self.frees
            return CommandResult(exit_code=0)
        return CommandResult(exit_code=0, stdout=self.generations)

    def _look(self, script: str, asked: str) -> CommandResult:
        wanted = re.search(r"check-validity (\S+) 2>", script)
        assert wanted is not None
        if wanted[1] in self.valid:
            return CommandResult(exit_code=0)
        there = [path for path in asked.split() if path in self.valid]
        disk = f"Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/a 1 1 {self.free // 1024} 50% /nix\n"
        return CommandResult(exit_code=0, stdout="@disk\n" + disk + "".join(f"{path}\n" for path in there))


class World:
    """A controller that has one system's closure, and a host."""

    def __init__(self, root: Path) -> None:
        self.machine = Machine({BASH})
        self.processes = FakeProcesses().answers("nix", "path-info", with_=self.path_info)
        self.processes.answers("nix", "copy", stderr=f"copying 2 paths...\ncopying path '{UNIT}' to 'x'...\n")
        self.shell = FakeShell().answers("sh", "-c", with_=self.machine.answer)
        self.root, self.lines = root, []
        self.nix = NixCli(self.processes, ssh, self.shell, environ={"NIX_REMOTE": str(root)})
        self.has(SYSTEM)

    def has(self, path: str) -> None:
        (self.root / path.lstrip("/")).mkdir(parents=True)

    def path_info(self, _invocation: Invocation) -> CommandResult:
        info = {
            path: {"narSize": size, "references": [*SIZES] if path == SYSTEM else []} for path, size in SIZES.items()
        }
        return CommandResult(exit_code=0, stdout=json.dumps(info))

    async def copy(self, host: Host | None = None) -> bool:
        return await self.nix.copy(SYSTEM, host or a_host("w1"), self.lines.append)

    async def fails(self, host: Host | None = None):
        with pytest.raises(TaskError) as caught:
            await self.copy(host)
        return caught.value.failure

    def copies(self) -> list[str]:
        return [line for line in self.processes.lines() if line.startswith("nix copy")]


def ssh(host: Host) -> SshInvocation:
    return SshInvocation(f"root@{host.address}")


def pulling(**settings: object) -> Host:
    return a_host("w1", copy=CopySettings(via=CopyVia.CACHE, cache="https://cache.example", **settings))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- what is asked first ---------------------------------------------------------------------------------------------


async def test_a_staged_host_costs_one_round_trip_and_no_copy(world):
    world.machine.valid.add(SYSTEM)
    assert not await world.copy()
    assert len(world.shell.ran) == 1
    assert world.copies() == []


async def test_a_host_that_lacks_paths_is_asked_once_and_sent_them(world):
    assert await world.copy()
    assert len(world.shell.ran) == 1
    assert len(world.copies()) == 1
    assert world.lines[-1] == "copied 1 path"


async def test_a_system_the_host_has_needs_no_controller_that_has_it_too(world):
    (world.root / SYSTEM.lstrip("/")).rmdir()
    world.machine.valid.add(SYSTEM)
    assert not await world.copy()


async def test_a_system_nobody_has_is_not_copied(world):
    (world.root / SYSTEM.lstrip("/")).rmdir()
    failure = await world.fails()
    assert (failure.kind, failure.transient) == (FailureKind.COPY, False)
    assert "apply" in failure.next
    assert world.copies() == []


async def test_a_store_that_cannot_be_asked_is_explained(world):
    refusal = "error: opening lock file '/nix/var/nix/db/big-lock': Permission denied\n"
    world.shell.answers("sh", "-c", exit_code=123, stderr=refusal, times=1)
    failure = await world.fails()
    assert failure.kind is FailureKind.PRIVILEGE
    assert "trusted-users" in failure.next


async def test_an_ssh_option_with_a_blank_is_refused_before_anything_travels(world):
    world.nix = NixCli(
        world.processes,
        lambda _h: SshInvocation("root@w1", ("-i", "/my keys/id")),
        world.shell,
        environ={"NIX_REMOTE": str(world.root)},
    )
    assert "cannot be handed to Nix" in (await world.fails()).message
    assert world.copies() == []


# --- room ------------------------------------------------------------------------------------------------------------


async def test_too_little_room_is_refused_with_both_numbers_before_the_first_byte(world):
    world.machine.valid.clear()
    world.machine.free = 2 * MIB
    failure = await world.fails()
    assert failure.kind is FailureKind.DISK_FULL
    assert "needs 3.0 MiB, and 2.0 MiB are free" in failure.message
    assert "collect_garbage" in failure.next
    assert world.copies() == []


async def test_only_what_is_missing_needs_room(world):
    world.machine.free = 2 * MIB  # The three MiB of bash are there.
    assert await world.copy()


async def test_what_must_stay_free_counts(world):
    failure = await world.fails(a_host("w1", copy=CopySettings(min_free=200 * MIB)))
    assert failure.kind is FailureKind.DISK_FULL
    assert "200 MiB are to stay free (copy.min_free)" in failure.message


async def test_a_host_that_does_not_say_what_is_free_is_tried(world):
    world.shell.answers("sh", "-c", stdout="@disk\n", times=1)
    assert await world.copy()


async def test_garbage_is_collected_when_the_inventory_says_so_and_the_copy_goes_on(world):
    world.machine.valid.clear()
    world.machine.free, world.machine.frees = 2 * MIB, 4 * MIB
    assert await world.copy(a_host("w1", copy=CopySettings(collect_garbage=14.0 * DAY)))
    assert any("4.0 MiB freed" in line for line in world.lines)
    assert len(world.copies()) == 1


async def test_a_collection_that_frees_too_little_is_part_of_the_failure(world):
    world.machine.valid.clear()
    world.machine.free, world.machine.frees = MIB, MIB
    failure = await world.fails(a_host("w1", copy=CopySettings(collect_garbage=14.0 * DAY)))
    assert failure.kind is FailureKind.DISK_FULL
    assert "1.0 MiB freed" in failure.did
    assert "13d" in failure.next


async def test_nothing_is_collected_where_there_is_room(world):
    assert await world.copy(a_host("w1", copy=CopySettings(collect_garbage=14.0 * DAY)))
    assert not any("--gc" in line for line in world.shell.lines())


# --- stalls and failures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["trio"])
async def test_a_copy_in_which_nothing_moves_is_ended_and_may_be_tried_again(world):
    world.processes.answers("nix", "copy", takes=3000.0)
    failure = await world.fails(a_host("w1", copy=CopySettings(stall=120.0, substitute=False)))
    assert (failure.kind, failure.transient) == (FailureKind.COPY, True)
    assert "stalled: nothing moved for 120 s" in failure.message
    assert len(world.processes.cancelled) == 1


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["trio"])
async def test_a_host_that_may_fetch_by_itself_is_given_time_for_it(world):
    big = {SYSTEM: {"narSize": 600 * MIB, "references": []}}
    world.machine.free = 1000 * MIB
    world.processes.answers("nix", "path-info", stdout=json.dumps(big), times=1)
    world.processes.answers("nix", "copy", takes=500.0)
    assert await world.copy(a_host("w1", copy=CopySettings(stall=120.0)))


async def test_a_pull_is_the_hosts_own_business(world):
    world.shell.answers("nix-store", "--realise", stderr=f"copying path '{UNIT}' from 'https://cache.example'...\n")
    assert await world.copy(pulling())
    assert world.copies() == []
    assert world.shell.ran[-1].line == (
        f"nix-store --realise {SYSTEM} --option extra-substituters https://cache.example"
    )


async def test_a_pull_from_a_cache_that_lacks_the_path_says_how_to_fill_it(world):
    text = f"don't know how to build these paths:\n  {SYSTEM}\nerror: build of '{SYSTEM}' failed\n"
    world.shell.answers("nix-store", "--realise", exit_code=1, stderr=text)
    failure = await world.fails(pulling())
    assert failure.next.startswith(f"nix copy --to https://cache.example {SYSTEM}")


async def test_a_pull_of_what_nobody_signed_names_the_setting(world):
    text = (
        f"warning: the substitute for '{SYSTEM}' from 'file:///c' is not signed by any of the keys in "
        f"'trusted-public-keys'\nerror: build of '{SYSTEM}' failed\n"
    )
    world.shell.answers("nix-store", "--realise", exit_code=1, stderr=text)
    failure = await world.fails(pulling())
    assert "trusted-public-keys" in failure.next
    assert not failure.transient


async def test_a_cache_that_does_not_answer_is_tried_again(world):
    text = "warning: unable to download 'http://c/nix-cache-info': Couldn't connect\ndon't know how to build these\n"
    world.shell.answers("nix-store", "--realise", exit_code=1, stderr=text)
    assert (await world.fails(pulling())).transient


SIGNS = [
    ("@@ REMOTE HOST IDENTIFICATION HAS CHANGED! @@\r\nHost key verification failed.", FailureKind.HOST_KEY, False),
    ("No ED25519 host key is known for H\nHost key verification failed.", FailureKind.HOST_KEY, False),
    ("root@H: Permission denied (publickey,keyboard-interactive).", FailureKind.AUTHENTICATION, False),
    ("error: writing to file: No space left on device\nunexpected end-of-file", FailureKind.DISK_FULL, False),
    ("cannot add path 'P' because it lacks a signature by a trusted key", FailureKind.COPY, False),
    ("cannot add path 'P' because it lacks a valid signature", FailureKind.COPY, False),
    ("opening lock file '/nix/var/nix/db/big-lock': Permission denied", FailureKind.PRIVILEGE, False),
    ('opening lock file "/nix/var/nix/db/big-lock": Permission denied', FailureKind.PRIVILEGE, False),
    ("as it's not signed by any of the keys in 'trusted-public-keys'", FailureKind.COPY, False),
    (
        "could not set permissions on '/nix/var/nix/profiles/per-user' to 755: Operation not permitted",
        FailureKind.PRIVILEGE,
        False,
    ),
    ("Sorry, user deploy is not allowed to execute '/bin/nix-store --serve' as root", FailureKind.PRIVILEGE, False),
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
    world.processes.answers("nix", "copy", exit_code=1, stderr=stderr)
    failure = await world.fails()
    assert (failure.kind, failure.transient) == (kind, transient)
    assert failure.evidence
    assert "{" not in failure.next


# --- the way ---------------------------------------------------------------------------------------------------------


def way(invocation: Invocation) -> str | None:
    env: Mapping[str, str] = invocation.env
    return env.get("NIXKUBE_WIRE_MODE")


@pytest.mark.parametrize(
    ("size", "others", "mode"),
    [(1 * MIB, 0, "relay"), (5 * MIB, 0, "count"), (1 * MIB, 300, "count")],
    ids=["little", "many bytes", "many paths"],
)
async def test_much_goes_through_openssh_and_little_over_the_connection_that_is_open(
    world, tmp_path, size, others, mode
):
    more = {store_path(f"part-{number}"): {"narSize": 10, "references": []} for number in range(others)}
    info = {SYSTEM: {"narSize": size, "references": [*more]}, **more}
    world.processes.answers("nix", "path-info", stdout=json.dumps(info), times=1)
    settings = NixSettings(wires=tmp_path / "wires")
    world.nix = NixCli(
        world.processes, ssh, world.shell, environ={"NIX_REMOTE": str(world.root), "PATH": "/bin"}, settings=settings
    )
    assert await world.copy()
    (ran,) = [one for one in world.processes.ran if one.argv[1] == "copy"]
    assert way(ran) == mode
    assert ran.env["PATH"].endswith(":/bin")
    assert ran.argv == (
        "nix",
        "copy",
        "--to",
        "ssh://root@w1.lan",
        "--substitute-on-destination",
        SYSTEM,
    )
