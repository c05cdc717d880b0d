"""Programs that are given a memory limit: what they had, and what becomes of one that wants more."""

import subprocess
import sys

import anyio
import pytest

from nixkube_deploy.backends.process import memory
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.ports.process import Invocation

MIB = 1024**2
GROWS = "x = []\nwhile True: x.append(b'x' * 1000000)"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_program_that_outgrows_its_limit_is_killed_and_the_result_says_how_large_it_was():
    invocation = Invocation(argv=(sys.executable, "-c", GROWS), memory_limit=150 * MIB, timeout=30)
    result = await LocalProcesses().run(invocation)
    assert result.outgrew
    assert result.exit_code == 137
    assert (result.peak_memory or 0) > 150 * MIB


async def test_what_a_program_starts_counts_too():
    script = f'"{sys.executable}" -c "{GROWS}"; true'
    result = await LocalProcesses().run(Invocation(argv=("sh", "-c", script), memory_limit=150 * MIB, timeout=30))
    assert result.outgrew


async def test_a_program_within_its_limit_is_left_alone():
    result = await LocalProcesses().run(Invocation(argv=("sleep", "0.2"), memory_limit=150 * MIB))
    assert result.ok
    assert not result.outgrew
    assert 0 < (result.peak_memory or 0) < 150 * MIB


async def test_without_a_limit_nobody_looks():
    assert (await LocalProcesses().run(Invocation(argv=("true",)))).peak_memory is None


async def test_lines_of_standard_output_are_heard_when_asked_for():
    heard = []
    invocation = Invocation(argv=("sh", "-c", "echo data; echo noise >&2"), hear_stdout=True)
    result = await LocalProcesses().run(invocation, heard.append)
    assert sorted(heard) == ["data", "noise"]
    assert result.stdout == "data\n"


async def test_a_neighbour_whose_name_is_no_text_is_passed_over():
    """Anybody may name a process with any bytes, and long names are cut in the middle of a character."""
    named = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'caf\\xc3'); print(flush=True); time.sleep(30)"
    neighbour = subprocess.Popen([sys.executable, "-c", named], stdout=subprocess.PIPE)  # noqa: ASYNC220 (it only waits)
    try:
        assert neighbour.stdout is not None
        neighbour.stdout.readline()
        result = await LocalProcesses().run(Invocation(argv=("sleep", "0.1"), memory_limit=150 * MIB))
    finally:
        neighbour.kill()
        neighbour.communicate()
    assert result.ok
    assert (result.peak_memory or 0) > 0


async def test_a_program_that_ends_between_two_looks_is_not_waited_for_any_longer(monkeypatch):
    monkeypatch.setattr(memory, "_LONGEST", 5.0)
    with anyio.fail_after(2):
        await LocalProcesses().run(Invocation(argv=("sleep", "0.01"), memory_limit=100_000 * MIB))
