"""TargetBuilder on scripted programs and a scripted host: what is sent, what is run there, whose fault it is."""

import pytest

from nixkube_deploy.backends.nix.building.target import ROOT, TargetBuilder, store_url
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.error import TaskError, Unreachable
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import SshInvocation
from tests.builders import a_host, store_path
from tests.fakes.process import FakeProcesses
from tests.fakes.shell import FakeShell
from tests.unit.backends.nix.building.test_builder import STREAMS

OUT = store_path("nixos-system-w1")
ONE = Evaluated(host=HostName("w1"), drv=f"{OUT}.drv", out=OUT, system="aarch64-linux")


class Bench:
    """A host that lacks its system, and a controller that can send it the derivations."""

    def __init__(self) -> None:
        self.processes = FakeProcesses().answers("nix", "copy")
        self.shell = FakeShell().answers("sh", exit_code=1).answers("nix-store")
        program = NixProgram(self.processes, "nix", {})
        self.builder = TargetBuilder(program, lambda host: SshInvocation(f"root@{host.address}"), self.shell)

    async def fails(self) -> TaskError:
        with pytest.raises(TaskError) as caught:
            await self.builder.build(a_host("w1"), ONE)
        return caught.value


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_derivations_are_sent_and_realised_under_a_root(bench):
    await bench.builder.build(a_host("w1"), ONE)
    (sent,) = bench.processes.lines()
    assert sent == f"nix copy --derivation --to ssh://root@w1.lan {ONE.drv}"
    realise = bench.shell.ran[-1].command
    assert realise.argv[:5] == ("nix-store", "--add-root", ROOT, "--realise", ONE.drv)
    assert realise.privileged
    assert realise.timeout >= 24 * 3600


async def test_a_system_that_is_there_already_costs_one_round_trip_and_is_kept(bench):
    bench.shell.answers("sh", times=1)
    await bench.builder.build(a_host("w1"), ONE)
    assert bench.processes.ran == []
    (ran,) = bench.shell.ran
    assert f"nix-store --add-root {ROOT} --realise {OUT}" in ran.line
    assert ran.command.privileged


async def test_the_hosts_own_progress_goes_by_its_name(bench):
    said: list[str] = []
    bench.shell.answers("nix-store", stderr=(STREAMS / "fetched-2.8.log").read_text())
    await bench.builder.build(a_host("w1"), ONE, said.append)
    assert said == ["w1: built 2 derivations, fetched 2 paths (781 KiB)"]


async def test_a_failed_build_shows_the_end_of_the_log_and_where_to_read_all_of_it(bench):
    bench.shell.answers("nix-store", exit_code=100, stderr=(STREAMS / "realise-fails-2.8.log").read_text())
    failure = (await bench.fails()).failure
    assert failure.kind is FailureKind.BUILD
    assert failure.message == "w1's system was not built on w1: broken-f (exit code 3)"
    assert failure.evidence[-1] == "> f dies"
    assert failure.next == "on w1: nix log /nix/store/sz1y7z0d6h1v548d4hg25ga61vsqjv7y-broken-f.drv"
    assert failure.exit_code == 100


async def test_a_host_that_is_full_is_told_to_collect_its_own_garbage(bench):
    bench.shell.answers("nix-store", exit_code=1, stderr="error: writing to file: No space left on device\n")
    failure = (await bench.fails()).failure
    assert failure.kind is FailureKind.DISK_FULL
    assert failure.next == "nix-collect-garbage on w1"


async def test_a_host_that_builds_for_another_architecture_is_not_advised_to_build_on_itself(bench):
    stderr = "error: a 'aarch64-linux' with features {} is required to build '/nix/store/x.drv', but I am none\n"
    bench.shell.answers("nix-store", exit_code=1, stderr=stderr)
    failure = (await bench.fails()).failure
    assert "aarch64-linux" in failure.message
    assert failure.next == ""


async def test_derivations_that_do_not_arrive_are_a_copy_that_failed(bench):
    bench.processes.answers("nix", "copy", exit_code=1, stderr="cannot add path '/x' because it lacks a signature")
    failure = (await bench.fails()).failure
    assert failure.kind is FailureKind.COPY
    assert failure.message.startswith("the derivations could not be sent to w1: ")


async def test_a_host_that_does_not_answer_is_unreachable(bench):
    bench.shell.unreachable("w1")
    assert isinstance(await bench.fails(), Unreachable)


async def test_a_connection_lost_while_it_builds_is_an_outcome_nobody_knows(bench):
    bench.shell.loses("nix-store")
    assert (await bench.fails()).failure.kind is FailureKind.OUTCOME_UNKNOWN


def test_an_address_with_colons_stands_in_brackets():
    assert store_url(SshInvocation("root@2001:db8::1")) == "ssh://root@[2001:db8::1]"
    assert store_url(SshInvocation("root@[2001:db8::1]")) == "ssh://root@[2001:db8::1]"
    assert store_url(SshInvocation("w1")) == "ssh://w1"
