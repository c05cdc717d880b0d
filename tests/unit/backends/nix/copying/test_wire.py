"""One copy's way, with the real relay as ``ssh`` below a stand-in for ``nix``: bytes, codes, words, other hosts."""

import gc
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from nixkube_deploy.backends.nix.copying import ssh_count
from nixkube_deploy.backends.nix.copying.wire import SERVE, Wires
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.model.error import OutcomeUnknown
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import CommandResult
from tests.builders import a_host
from tests.fakes.shell import FakeShell

W1 = "root@w1.lan"
STARTED = "-oLocalCommand=echo started"


class Way:
    """A place with a real ``ssh`` that only says what it was told, and what went by."""

    def __init__(self, folder: Path) -> None:
        self.shell = FakeShell()
        self.bytes = 0
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        self.real_ssh('echo "real ssh $*"; exit 7')
        self.wires = Wires(self.shell, folder / "wires", f"{folder}/bin:{os.environ['PATH']}")

    def real_ssh(self, script: str) -> None:
        (self.folder / "bin/ssh").write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / "bin/ssh").chmod(0o755)

    def moved(self, count: int) -> None:
        self.bytes += count

    @staticmethod
    def nix(script: str):
        """A ``nix`` that does this, as Nix starts ``ssh``."""

        async def run(environ: Mapping[str, str]) -> CommandResult:
            return await LocalProcesses().run(Invocation(argv=("/bin/sh", "-c", script), env=environ, timeout=20.0))

        return run


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def way(tmp_path: Path) -> Way:
    return Way(tmp_path)


async def test_what_nix_says_reaches_the_host_and_the_answer_comes_back(way):
    way.shell.answers("nix-store", stdout="hello nix", stderr="a warning\n")
    result = await way.wires.kept(a_host("w1"), W1, way.moved, way.nix(f"printf hi | ssh {W1} -x 'nix-store --serve'"))
    assert (result.exit_code, result.stdout) == (0, "hello nix")
    assert result.stderr == "a warning\n"
    (ran,) = way.shell.ran
    assert (ran.argv, ran.command.privileged, ran.command.stdin) == (SERVE.argv, True, "hi")
    assert way.bytes == 2


async def test_newer_nix_is_told_that_the_login_is_over(way):
    way.shell.answers("nix-store", stdout="hello")
    script = f"ssh {W1} -x '{STARTED}' 'nix-store --serve' </dev/null"
    assert (await way.wires.kept(a_host("w1"), W1, way.moved, way.nix(script))).stdout == "started\nhello"


@pytest.mark.parametrize("mode", ["kept", "counted"])
async def test_another_destination_gets_the_real_ssh(way, mode):
    script = way.nix("ssh cache.example -x true </dev/null")
    if mode == "kept":
        result = await way.wires.kept(a_host("w1"), W1, way.moved, script)
    else:
        result = await way.wires.counted(W1, way.moved, script)
    assert (result.exit_code, result.stdout) == (7, "real ssh cache.example -x true\n")
    assert way.shell.ran == []


async def test_openssh_is_given_everything_and_its_bytes_are_counted(way):
    way.real_ssh('wc -c; echo "$*" >&2; exit 5')
    script = f"head -c 3000000 /dev/zero | ssh {W1} -x serve"
    result = await way.wires.counted(W1, way.moved, way.nix(script))
    assert (result.exit_code, result.stdout.strip(), result.stderr) == (5, "3000000", f"{W1} -x serve\n")
    assert way.bytes == 3_000_000


async def test_an_openssh_that_ends_early_ends_the_copy(way):
    way.real_ssh("exit 255")
    result = await way.wires.counted(W1, way.moved, way.nix(f"head -c 3000000 /dev/zero | ssh {W1} -x serve"))
    assert result.exit_code == 255


async def test_a_nix_that_asks_for_a_control_master_is_told_that_there_is_none(way):
    way.shell.answers("nix-store", stdout="hello")
    work = way.nix(f"ssh -O check {W1} </dev/null && exit 1; ssh {W1} -x -oLocalCommand='echo started' </dev/null")
    result = await way.wires.kept(a_host("w1"), W1, way.moved, work)
    assert result.stdout.startswith("started\n"), "which a newer Nix waits for only where no master runs"
    way.real_ssh("echo asked $*")
    result = await way.wires.counted(W1, way.moved, way.nix(f"ssh -O check {W1}"))
    assert result.stdout == f"asked -O check {W1}\n"


async def test_a_connection_that_is_lost_is_the_cause_and_nixs_words_the_consequence(way):
    way.shell.loses("nix-store")
    with pytest.raises(OutcomeUnknown):
        await way.wires.kept(a_host("w1"), W1, way.moved, way.nix(f"ssh {W1} -x serve </dev/null; exit 1"))


async def test_a_nix_that_never_calls_ssh_is_none_the_worse(way):
    result = await way.wires.kept(a_host("w1"), W1, way.moved, way.nix("echo nothing to do; exit 3"))
    assert (result.exit_code, result.stdout) == (3, "nothing to do\n")


async def test_nobody_else_may_use_the_way(way):
    await way.wires.kept(a_host("w1"), W1, way.moved, way.nix("ls -ln $NIXKUBE_WIRE_SOCKET $NIXKUBE_WIRE_PROGRAMS"))
    folder = way.folder / "wires"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in folder.iterdir()] == ["ssh"]


async def test_a_long_folder_does_not_outgrow_a_sockets_name(tmp_path):
    way = Way(tmp_path / ("x" * 120))
    way.shell.answers("nix-store", stdout="hello")
    result = await way.wires.kept(a_host("w1"), W1, way.moved, way.nix(f"ssh {W1} -x serve </dev/null; pwd >&2"))
    assert result.stdout == "hello"


def test_the_relay_says_what_is_wrong_in_a_line(tmp_path):
    env = {
        "PATH": os.environ["PATH"],
        "NIXKUBE_WIRE_PROGRAMS": "/x",
        "NIXKUBE_WIRE_DESTINATION": W1,
        "NIXKUBE_WIRE_MODE": "count",
        "NIXKUBE_WIRE_SOCKET": str(tmp_path / "none"),
    }
    argv = [sys.executable, "-IS", ssh_count.__file__, W1]
    ran = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 255
    assert ran.stderr.startswith("ssh: the connection to nixkube-deploy broke off")
    assert ran.stderr.count("\n") == 1


def there(folder: str) -> bool:
    return Path(folder).exists()


async def test_a_folder_that_had_to_be_shorter_is_made_once_and_goes_with_the_run(tmp_path):
    """Two copies begin at the same time; nobody else knows of the folder, so nobody else would remove it."""
    way, seen = Way(tmp_path / ("x" * 120)), list[str]()

    async def copy() -> None:
        result = await way.wires.kept(a_host("w1"), W1, way.moved, way.nix("echo $NIXKUBE_WIRE_PROGRAMS"))
        seen.append(result.stdout.strip())

    async with anyio.create_task_group() as group:
        group.start_soon(copy)
        group.start_soon(copy)
    assert len(set(seen)) == 1
    assert there(seen[0])
    way.wires = None
    gc.collect()
    assert not there(seen[0])
