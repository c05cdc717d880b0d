"""NixBuilder on a scripted ``nix``: what is asked for, what is made of the answer, and which host is blamed."""

import json
from pathlib import Path

import pytest

from nixkube_deploy.backends.nix.building.builder import NixBuilder, pass_through
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.backends.nix.store import StoreFiles
from nixkube_deploy.model.building import BuildSettings
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import CommandResult
from tests.builders import store_path
from tests.fakes.process import FakeProcesses

FLAKE = "/srv/fleet"
STREAMS = Path(__file__).parent / "streams"


class Controller:
    """A ``nix`` that knows which paths are valid, and says what the test wants when it builds."""

    def __init__(self, root: Path, roots: Path | None = None) -> None:
        self.root, self.valid = root, set[str]()
        self.processes = FakeProcesses().answers("nix", "--version", stdout="nix (Nix) 2.28.5\n")
        self.processes.answers("nix", "path-info", with_=self._path_info)
        program = NixProgram(self.processes, "nix", {"NIX_REMOTE": str(root)})
        self.builder = NixBuilder(program, StoreFiles(root), BuildSettings(), roots)

    def has(self, *hosts: str) -> None:
        for host in hosts:
            path = store_path(f"nixos-system-{host}")
            (self.root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
            self.valid.add(path)

    def needs(self, drv: str, *inputs: str) -> None:
        file = self.root / drv.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        listed = ",".join(f'("{each}",["out"])' for each in inputs)
        file.write_text(f'Derive([],[{listed}],[],"","",[],[])')

    def says(self, stderr: str) -> None:
        self.processes.answers("nix", "build", exit_code=1, stderr=stderr)

    async def builds(self, *hosts: str, installs: frozenset[HostName] = frozenset(), on_line=None):
        return await self.builder.build(FLAKE, [an_evaluated(host) for host in hosts], installs, on_line)

    def _path_info(self, invocation: Invocation) -> CommandResult:
        answer = {path: {"narSize": 1} if path in self.valid else None for path in invocation.argv[3:]}
        return CommandResult(exit_code=0, stdout=json.dumps(answer))


def drv_of(name: str) -> str:
    return f"{store_path(f'nixos-system-{name}')}.drv"


def an_evaluated(name: str) -> Evaluated:
    return Evaluated(
        host=HostName(name), drv=drv_of(name), out=store_path(f"nixos-system-{name}"), system="x86_64-linux"
    )


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


async def test_everything_is_built_by_one_process(controller):
    controller.has("w1", "w2")
    controller.processes.answers("nix", "build")
    built = await controller.builds("w1", "w2")
    assert built.closures[HostName("w1")].out == store_path("nixos-system-w1")
    assert [line.split()[1] for line in controller.processes.lines()] == ["--version", "build"]


async def test_nothing_to_build_needs_no_process(controller):
    assert (await controller.builds()).closures == {}
    assert controller.processes.ran == []


@pytest.mark.parametrize(
    ("version", "suffix"),
    [("nix (Nix) 2.8.0", ""), ("nix (Nix) 2.34.8", "^out"), ("nix (Lix, like Nix) 2.91.1", "^out"), ("?", "^out")],
)
async def test_outputs_are_asked_for_as_the_version_wants(tmp_path, version, suffix):
    controller = Controller(tmp_path)
    controller.processes.answers("nix", "--version", stdout=f"{version}\n")
    controller.says("error: no\n")
    await controller.builds("w1", "w1")
    (build,) = (line for line in controller.processes.lines() if line.startswith("nix build"))
    assert build.endswith(f" {drv_of('w1')}{suffix}")
    assert build.count(".drv") == 1


def test_what_the_inventory_says_is_handed_through_and_nothing_else():
    assert pass_through(BuildSettings()) == ()
    settings = BuildSettings(max_jobs=0, cores=4, builders="", options={"max-silent-time": "600", "sandbox": "true"})
    assert pass_through(settings) == (
        *("--max-jobs", "0", "--cores", "4", "--builders", ""),
        *("--option", "max-silent-time", "600", "--option", "sandbox", "true"),
    )


# --- roots ---


async def test_what_was_built_is_kept_from_the_garbage_collector(tmp_path):
    controller = Controller(tmp_path, roots=tmp_path / "roots")
    controller.has("w1")
    controller.processes.answers("nix", "build")
    await controller.builds("w1")
    assert f"--out-link {tmp_path}/roots/systems-of-1 " in controller.processes.lines()[-1]


async def test_when_one_of_many_fails_the_others_are_kept_too(tmp_path):
    controller = Controller(tmp_path, roots=tmp_path / "roots")
    controller.has("w1")
    controller.says("error: no\n")
    built = await controller.builds("w1", "w2")
    assert list(built.closures) == ["w1"]
    kept = controller.processes.lines()[-1]
    assert f"--out-link {tmp_path}/roots/systems-of-1 " in kept
    assert kept.endswith(f" {store_path('nixos-system-w1')}")


# --- validity ---


async def test_a_path_that_only_lies_there_is_not_built(controller):
    half = store_path("nixos-system-w1")
    (controller.root / half.lstrip("/")).mkdir(parents=True)
    controller.says("error: writing to file: Input/output error\n")
    assert list((await controller.builds("w1")).failures) == ["w1"]


@pytest.mark.parametrize(
    "answer",
    [
        [{"path": "/nix/store/a", "narSize": 1}, {"path": "/nix/store/b", "valid": False}],
        {"/nix/store/a": {"narSize": 1}, "/nix/store/b": None},
        {"info": {"a": {"narSize": 1}, "b": None}, "storeDir": "/nix/store", "version": 2},
    ],
    ids=["2.8", "2.26 and 2.34", "JSON format 2"],
)
async def test_every_shape_in_which_nix_tells_valid_paths_is_understood(tmp_path, answer):
    controller = Controller(tmp_path)
    controller.processes.answers("nix", "path-info", "--json", stdout=json.dumps(answer))
    assert await controller.builder.valid(["/nix/store/a", "/nix/store/b"]) == {"/nix/store/a"}


@pytest.mark.parametrize("answer", ["", "null", "3", "[3]", '{"info": 1}'])
async def test_an_answer_that_makes_no_sense_means_nothing_is_valid(tmp_path, answer):
    controller = Controller(tmp_path)
    controller.processes.answers("nix", "path-info", "--json", stdout=answer)
    assert await controller.builder.valid(["/nix/store/a"]) == frozenset()


# --- blame ---

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
async def test_a_failed_build_is_blamed_on_the_hosts_that_need_it(controller, text):
    dep = f"{store_path('etc')}.drv"
    controller.has("w2")
    controller.needs(drv_of("w1"), dep)
    controller.says(text.format(dep=dep, top=drv_of("w1")))
    built = await controller.builds("w1", "w2")
    assert list(built.closures) == ["w2"]
    failure = built.failures[HostName("w1")]
    assert failure.kind is FailureKind.BUILD
    assert failure.message == "w1's system was not built: etc (exit code 3)"
    assert "       > oops" in failure.evidence
    assert failure.next == f"nix log {dep}"


async def test_each_host_is_shown_the_end_of_the_log_that_concerns_it(controller):
    """Recorded: two derivations fail at the same time, and their logs are interleaved."""
    broken_f = "/nix/store/ix7pbh6xq14ppg5vnlbdyxl1gq02rdvc-broken-f.drv"
    broken_g = "/nix/store/lswiddif5pwq3rkyyfn98vvk9v8dpfhh-broken-g.drv"
    controller.has("w1")
    controller.needs(drv_of("w2"), broken_f)
    controller.needs(drv_of("w3"), broken_g)
    controller.says((STREAMS / "two-failures-2.8.log").read_text())
    built = await controller.builds("w1", "w2", "w3")
    assert list(built.closures) == ["w1"]
    second, third = built.failures[HostName("w2")], built.failures[HostName("w3")]
    assert second.message == "w2's system was not built: broken-f (exit code 3)"
    assert second.evidence[-1] == "> f dies"
    assert not any("g line" in line for line in second.evidence)
    assert third.evidence[-1] == "> g dies"
    assert third.next == f"nix log {broken_g}"


async def test_a_failure_nobody_can_place_is_shown_to_every_host_that_lacks_its_system(controller):
    controller.says("error: cannot connect to daemon\n")
    built = await controller.builds("w1", "w2")
    assert {f.message for f in built.failures.values()} == {
        "w1's system was not built: cannot connect to daemon",
        "w2's system was not built: cannot connect to daemon",
    }


async def test_a_builder_that_is_killed_says_so(controller):
    controller.processes.answers(
        "nix", "build", exit_code=137, stderr='@nix {"action":"stop","id":1}\nended by signal SIGKILL\n'
    )
    failure = (await controller.builds("w1")).failures[HostName("w1")]
    assert failure.evidence == ("ended by signal SIGKILL",)


PLATFORM_OLD = "error: a 'aarch64-linux' with features {} is required to build '/nix/store/x.drv', but I am none\n"
PLATFORM_NEW = """error: Cannot build '/nix/store/a-x.drv'.
       Reason: required system or feature not available
       Required system: 'aarch64-linux' with features {}
"""


@pytest.mark.parametrize("stderr", [PLATFORM_OLD, PLATFORM_NEW], ids=["2.8", "2.34"])
async def test_a_system_of_another_architecture_names_the_ways_out(controller, stderr):
    controller.says(stderr)
    advice = (await controller.builds("w1")).failures[HostName("w1")].next
    assert "aarch64-linux" in advice
    assert "build_on: target" in advice


async def test_a_full_controller_is_told_apart(controller):
    controller.says("error: writing to file: No space left on device\n")
    failure = (await controller.builds("w1")).failures[HostName("w1")]
    assert failure.kind is FailureKind.DISK_FULL
    assert failure.next == "nix-collect-garbage on the controller"


# --- disko ---


async def test_a_host_that_is_to_be_installed_gets_its_disko_script(controller):
    controller.has("w1")
    controller.processes.answers(
        "nix", "build", stdout=json.dumps([{"drvPath": "d", "outputs": {"out": "/nix/store/x-disko"}}])
    )
    built = await controller.builds("w1", installs=frozenset({HostName("w1"), HostName("w9")}))
    assert built.closures[HostName("w1")].disko == "/nix/store/x-disko"


async def test_a_host_without_a_disko_script_is_that_hosts_failure(controller):
    controller.has("w1", "w2")
    controller.processes.answers("nix", "build", times=1)
    controller.says("error: attribute 'diskoScript' missing\n")
    built = await controller.builds("w1", "w2", installs=frozenset({HostName("w1")}))
    assert "disko" in built.failures[HostName("w1")].message
    assert list(built.closures) == ["w2"]
