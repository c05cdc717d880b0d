"""Programs on this machine: sh, mostly."""

import time
from pathlib import Path

import anyio
import pytest

from nixkube_deploy.backends.process.local import LocalProcesses, ProcessLimits
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.secret import Secret
from nixkube_deploy.ports.process import Invocation, Processes


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def sh(script: str, **rest) -> Invocation:
    return Invocation(argv=("sh", "-c", script), **rest)


async def test_a_program_comes_back_with_its_output_and_exit_code():
    processes: Processes = LocalProcesses()
    result = await processes.run(sh("echo out; echo err >&2; exit 3"))
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")


async def test_standard_error_is_streamed_in_harmless_lines():
    heard = []
    await LocalProcesses().run(sh(r"printf '\033[31mred\033[0m\nlast' >&2; echo data"), heard.append)
    assert heard == ["red", "last"]


async def test_standard_input_is_given_and_ends():
    text = "x" * 300_000
    assert (await LocalProcesses().run(Invocation(argv=("cat",), stdin=text))).stdout == text


async def test_a_program_that_reads_no_input_is_no_error():
    assert (await LocalProcesses().run(Invocation(argv=("true",), stdin="x" * 300_000))).ok


async def test_without_input_a_program_reads_nothing():
    assert (await LocalProcesses().run(Invocation(argv=("cat",)))).stdout == ""


async def test_environment_secrets_and_folder_reach_the_program(tmp_path):
    invocation = sh('echo "$A $TOKEN $PWD"', env={"A": "1"}, secret_env={"TOKEN": Secret("s3")}, cwd=str(tmp_path))
    assert (await LocalProcesses().run(invocation)).stdout == f"1 s3 {tmp_path}\n"
    assert "s3" not in repr(invocation)


async def test_a_missing_program_says_what_to_install_or_set():
    with pytest.raises(TaskError) as caught:
        await LocalProcesses().run(Invocation(argv=("nixos-anywhere",), secret_env={"T": Secret("s3cret")}))
    failure = caught.value.failure
    assert failure.kind is FailureKind.NOT_INSTALLED
    assert failure.message == "nixos-anywhere is not installed on this machine"
    assert "NIXKUBE_NIXOS_ANYWHERE=" in failure.next
    assert "s3cret" not in repr(failure)


async def test_a_missing_folder_is_not_taken_for_a_missing_program():
    with pytest.raises(TaskError, match="the folder /nowhere/at/all is not there"):
        await LocalProcesses().run(Invocation(argv=("true",), cwd="/nowhere/at/all"))


async def test_a_program_that_may_not_run_says_why(tmp_path):
    (tmp_path / "nix").write_text("#!/bin/sh\n")
    with pytest.raises(TaskError, match="nix cannot be started: permission denied"):
        await LocalProcesses().run(Invocation(argv=(str(tmp_path / "nix"),)))


async def test_a_program_ended_by_a_signal_has_the_shells_exit_code():
    result = await LocalProcesses().run(sh("kill -9 $$"))
    assert result.exit_code == 137
    assert "SIGKILL" in result.stderr


async def test_a_deadline_ends_the_whole_group(tmp_path):
    pid_file = tmp_path / "pid"
    with pytest.raises(TaskError) as caught:
        await LocalProcesses().run(sh(f"echo working >&2; sleep 60 & echo $! > {pid_file}; wait", timeout=0.3))
    assert caught.value.failure.kind is FailureKind.TIMEOUT
    assert caught.value.failure.evidence == ("working",)
    assert await gone(pid_file)


async def test_cancellation_ends_the_whole_group(tmp_path):
    pid_file = tmp_path / "pid"
    with anyio.move_on_after(0.3):
        await LocalProcesses().run(sh(f"sleep 60 & echo $! > {pid_file}; wait"))
    assert await gone(pid_file)


async def test_a_program_that_ignores_term_is_killed():
    started = time.monotonic()
    with pytest.raises(TaskError):
        await LocalProcesses(ProcessLimits(grace=0.2)).run(
            sh("trap '' TERM; while true; do sleep 0.05; done", timeout=0.2)
        )
    assert time.monotonic() - started < 3


async def test_what_a_program_leaves_in_the_background_holds_nobody_up():
    started = time.monotonic()
    result = await LocalProcesses(ProcessLimits(linger=0.1)).run(sh("sleep 5 & echo done"))
    assert result.stdout == "done\n"
    assert time.monotonic() - started < 3


async def test_too_much_data_is_an_error_never_a_cut():
    with pytest.raises(TaskError, match="printed more than 1 MiB"):
        await LocalProcesses(ProcessLimits(stdout=1024 * 1024)).run(sh("yes | head -c 3000000; sleep 60"))


async def test_a_lot_of_data_arrives_whole():
    result = await LocalProcesses().run(sh("head -c 8000000 /dev/zero | tr '\\0' x"))
    assert len(result.stdout) == 8_000_000


async def test_a_flood_of_errors_keeps_the_end():
    result = await LocalProcesses().run(sh("yes error | head -c 3000000 >&2; echo the end >&2"))
    assert result.truncated
    assert len(result.stderr) <= 64 * 1024
    assert result.stderr.endswith("error\nthe end\n")


async def test_what_a_listener_raises_reaches_the_caller():
    def broken(line):
        raise KeyError(line)

    with pytest.raises(KeyError):
        await LocalProcesses().run(sh("echo x >&2; sleep 60"), broken)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def gone(pid_file: Path) -> bool:
    pid = int(await anyio.Path(pid_file).read_text())
    for _ in range(100):
        try:
            if state(pid) == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        await anyio.sleep(0.02)
    return False


async def test_nothing_blocks_the_event_loop():
    from blockbuster import blockbuster_ctx

    with blockbuster_ctx():
        await LocalProcesses().run(sh("echo x; cat", stdin="y" * 100_000))
