"""The evaluator on scripted programs: who is blamed, what is evaluated again, what is kept, and how much at once."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from nixkube_deploy.backends.nix.evaluation import expressions
from nixkube_deploy.backends.nix.evaluation.cache import EvaluationCache
from nixkube_deploy.backends.nix.evaluation.eval_jobs import NixEvalJobs
from nixkube_deploy.backends.nix.evaluation.evaluator import NixEvaluator
from nixkube_deploy.backends.nix.evaluation.metadata import flake_state, locked_flake
from nixkube_deploy.backends.nix.evaluation.sizing import MIB, Machine, Room, sizes
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.backends.nix.store import StoreFiles
from nixkube_deploy.model.building import EvaluationSettings
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.process import Invocation
from nixkube_deploy.ports.shell import CommandResult
from tests.builders import a_host, store_path
from tests.fakes.process import FakeProcesses

FLAKE = "/srv/fleet"
GIB = 1024 * MIB
PINNED = "path:/srv/fleet?narHash=sha256-AAAA"
SOURCE = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-source"


def metadata(content: str = "sha256-AAAA", url: str = PINNED) -> str:
    return json.dumps(
        {
            "resolvedUrl": "path:/srv/fleet",
            "url": url,
            "path": SOURCE,
            "locked": {"narHash": content, "type": "path"},
            "locks": {"nodes": {"root": {"inputs": {"nixpkgs": "nixpkgs"}}}, "root": "root"},
        }
    )


def data(name: str) -> dict[str, str]:
    out = store_path(f"nixos-system-{name}")
    return {"drvPath": f"{out}.drv", "out": out, "system": "x86_64-linux"}


class Nix:
    """A ``nix`` whose flake has these hosts; some throw, some break the evaluator, some are too large."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self.throw: set[str] = set()
        self.breaks: dict[str, str] = {}
        self.weight: Callable[[list[str]], int] = lambda _: 100 * MIB
        self.passes: list[list[str]] = []
        self.limits: list[int | None] = []
        self.processes = FakeProcesses().answers("nix", "flake", "metadata", stdout=metadata())
        self.processes.answers("nix", "--version", stdout="nix (Nix) 2.28.5\n").answers("nix", "eval", with_=self.eval)

    def eval(self, invocation: Invocation) -> CommandResult:
        expression = invocation.argv[-1]
        wanted = sorted(re.findall(r'\[ "([^"]+)"(?: "[^"]+")* \]', expression))
        self.passes.append(wanted)
        self.limits.append(invocation.memory_limit)
        stderr, hosts, begun = "", {}, []
        for name in wanted:
            begun.append(name)
            stderr += f'trace: nixkube-deploy: begin "{name}"\n'
            if invocation.memory_limit is not None and self.weight(begun) > invocation.memory_limit:
                return CommandResult(exit_code=137, stderr=stderr, peak_memory=self.weight(begun), outgrew=True)
            if name not in self.hosts:
                hosts[name] = {"missing": True}
            elif name in self.throw and "tryEval" in expression:
                hosts[name] = {"caught": True}
            elif name in self.throw or name in self.breaks:
                stderr += self.breaks.get(name, f"error: option of {name} is wrong\n")
                return CommandResult(exit_code=1, stdout='{"x":', stderr=stderr, peak_memory=self.weight(begun))
            else:
                hosts[name] = data(name)
                stderr += "trace: nixkube-deploy: done " + json.dumps({"name": name, "value": data(name)}) + "\n"
        stdout = json.dumps({"names": list(self.hosts), "hosts": hosts})
        return CommandResult(exit_code=0, stdout=stdout, stderr=stderr, peak_memory=self.weight(begun))

    def evaluator(self, **settings) -> NixEvaluator:
        program = NixProgram(self.processes, "nix", {})
        machine = Machine(processors=1, free=8 * GIB)
        return NixEvaluator(program, EvaluationSettings(**settings), machine=lambda: machine)

    async def run(self, *hosts: str, **settings):
        return await self.evaluator(**settings).evaluate(FLAKE, [a_host(name) for name in hosts])


# --- one pass --------------------------------------------------------------------------------------------------------


async def test_all_hosts_are_evaluated_in_one_process_from_pinned_content():
    nix = Nix("w1", "w2")
    evaluation = await nix.run("w1", "w2")
    assert list(evaluation.hosts) == ["w1", "w2"]
    assert evaluation.hosts[HostName("w1")].attr == 'nixosConfigurations."w1"'
    assert nix.passes == [["w1", "w2"]]
    assert nix.processes.lines()[-1].startswith("nix eval --json --expr let")
    assert f'current = _: (builtins.getFlake "{PINNED}").nixosConfigurations;' in nix.processes.lines()[-1]


async def test_a_flake_that_cannot_be_pinned_is_evaluated_as_it_is_named():
    nix = Nix("w1")
    nix.processes.answers("nix", "flake", "metadata", "--json", stdout=metadata(url="git+file:///srv/fleet"))
    await nix.run("w1")
    assert f"nix eval --json --no-update-lock-file {FLAKE}#nixosConfigurations --apply" in nix.processes.lines()[-1]


async def test_where_nix_refuses_a_flake_of_its_own_for_every_host_they_share_one():
    nix = Nix("w1", "w2")
    refusal = "error: cannot call 'getFlake' on unlocked flake reference 'x'\n"
    nix.processes.answers("nix", "eval", "--json", "--expr", exit_code=1, stderr=refusal)
    assert set((await nix.run("w1", "w2")).hosts) == {"w1", "w2"}
    assert nix.passes == [["w1", "w2"]]


async def test_what_throws_costs_the_others_nothing_and_itself_one_evaluation_more():
    nix = Nix("w1", "w2", "w3")
    nix.throw = {"w2"}
    evaluation = await nix.run("w1", "w2", "w3")
    assert nix.passes == [["w1", "w2", "w3"], ["w2"]]
    assert list(evaluation.hosts) == ["w1", "w3"]
    failure = evaluation.failures[HostName("w2")]
    assert failure.kind is FailureKind.EVALUATION
    assert failure.message == "w2 does not evaluate: option of w2 is wrong"
    assert failure.evidence == ("error: option of w2 is wrong",)
    assert "--show-trace" in failure.next


async def test_what_cannot_be_caught_is_named_and_only_what_came_after_it_is_evaluated_again():
    nix = Nix(*(f"w{i}" for i in range(1, 8)))
    nix.breaks = {"w3": "error: infinite recursion\n\n       at /nix/store/x/a.nix:7:2:\n"}
    evaluation = await nix.run(*nix.hosts)
    assert nix.passes == [list(nix.hosts), ["w4", "w5", "w6", "w7"]]
    assert len(evaluation.hosts) == 6
    assert "infinite recursion" in evaluation.failures[HostName("w3")].message


async def test_of_many_hosts_that_throw_only_a_few_are_asked_why():
    nix = Nix(*(f"w{i}" for i in range(10)))
    nix.throw = set(nix.hosts) - {"w0"}
    evaluation = await nix.run(*nix.hosts)
    assert len(nix.passes) == 1 + 4
    assert len(evaluation.failures) == 9
    assert "the reason was asked of" in evaluation.failures[HostName("w9")].message


async def test_a_flake_that_fails_as_a_whole_is_evaluated_once():
    nix = Nix("w1", "w2")
    nix.processes.answers("nix", "eval", exit_code=1, stderr="error: syntax error, unexpected '}'\n")
    with pytest.raises(TaskError, match="not one of 2 hosts evaluates; w1 does not evaluate: syntax error"):
        await nix.run("w1", "w2")
    assert sum("nix eval" in line for line in nix.processes.lines()) == 1


async def test_one_host_alone_is_not_evaluated_twice_when_it_fails():
    nix = Nix("w1")
    nix.throw = {"w1"}
    with pytest.raises(TaskError, match="w1 does not evaluate: option of w1 is wrong"):
        await nix.run("w1")
    assert nix.passes == [["w1"]]


async def test_a_host_the_flake_does_not_have_is_told_which_one_may_be_meant():
    nix = Nix("worker-1", "w2")
    evaluation = await nix.run("worker1", "w2")
    failure = evaluation.failures[HostName("worker1")]
    assert "did you mean worker-1?" in failure.message
    assert failure.expected == 'the flake to have nixosConfigurations."worker1"'
    assert failure.seen == "it has w2, worker-1"
    assert len(nix.passes) == 1


async def test_hosts_with_attributes_of_their_own_are_evaluated_together_where_they_share_a_root():
    nix = Nix("odd", "even", "w1", "bare")
    hosts = [
        a_host("odd", attr='hosts."o.dd"'),
        a_host("w1"),
        a_host("even", attr="hosts.even"),
        a_host("bare", attr="x"),
    ]
    evaluation = await nix.evaluator().evaluate(FLAKE, hosts)
    assert nix.passes == [["even", "odd"], ["w1"], ["bare"]]
    assert evaluation.hosts[HostName("odd")].attr == 'hosts."o.dd"'
    installables = [i.argv[4] for i in nix.processes.ran if i.argv[1] == "eval"]
    assert installables[0] == f"{PINNED}#hosts"
    assert installables[2] == f"{PINNED}#x"


async def test_no_hosts_need_no_evaluation():
    nix = Nix()
    assert (await nix.run()).hosts == {}
    assert nix.passes == []


async def test_a_missing_nix_is_the_failure_of_every_evaluation():
    evaluator = NixEvaluator(NixProgram(FakeProcesses(), "nix", {}), EvaluationSettings())
    with pytest.raises(TaskError, match="not installed"):
        await evaluator.evaluate(FLAKE, [a_host("w1")])


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual time"])
async def test_a_time_out_is_the_failure_of_the_hosts_in_that_evaluator():
    nix = Nix("w1")
    nix.processes.answers("nix", "eval", "--json", "--no-update-lock-file", f"{PINNED}#slow", takes=1e9)
    evaluation = await nix.evaluator().evaluate(FLAKE, [a_host("slow", attr="slow"), a_host("w1")])
    assert evaluation.failures[HostName("slow")].kind is FailureKind.TIMEOUT
    assert list(evaluation.hosts) == ["w1"]


async def test_people_hear_what_is_evaluated_how_and_what_it_took():
    nix, said = Nix("w1", "w2"), []
    evaluator = nix.evaluator(workers=2, max_memory=2 * GIB)
    await evaluator.evaluate(FLAKE, [a_host("w1"), a_host("w2")], said.append)
    assert said[0] == "evaluating 2 hosts with up to 2 evaluators in 2048 MiB"
    assert set(said[1:3]) <= {f"evaluated {w} ({n} of 2)" for w in ("w1", "w2") for n in (1, 2)}
    assert said[3] == "evaluated 2 of 2 hosts in 2 processes; the largest evaluator had 100 MiB"


async def test_uncommitted_changes_are_said():
    nix, said = Nix("w1"), []
    dirty = json.dumps({"url": "git+file:///srv/fleet", "locked": {"narHash": "sha256-B", "type": "git"}})
    nix.processes.answers("nix", "flake", "metadata", "--json", stdout=dirty)
    evaluation = await nix.evaluator().evaluate(FLAKE, [a_host("w1")], said.append)
    assert said[0].endswith(", with uncommitted changes")
    assert evaluation.flake.dirty


async def test_a_warning_of_the_flake_is_said_once_however_many_evaluators_give_it():
    nix, said = Nix("w1", "w2"), []
    nix.processes.answers(
        "nix", "eval", with_=lambda i: CommandResult(exit_code=0, stdout="", stderr="trace: warning: old option\n")
    )
    with pytest.raises(TaskError):
        await nix.evaluator(workers=2).evaluate(FLAKE, [a_host("w1"), a_host("w2")], said.append)
    assert said.count("trace: warning: old option") == 1


# --- memory ----------------------------------------------------------------------------------------------------------


async def test_an_evaluator_that_outgrows_its_share_keeps_what_it_had_done():
    nix = Nix("w1", "w2", "w3", "w4")
    nix.weight = lambda begun: 300 * MIB + 300 * MIB * len(begun)
    evaluation = await nix.run(*nix.hosts, workers=1, max_memory=GIB)
    assert set(evaluation.hosts) == set(nix.hosts)
    assert nix.passes == [["w1", "w2", "w3", "w4"], ["w3", "w4"]]
    assert all(limit is not None and limit < GIB for limit in nix.limits)


async def test_hosts_larger_than_a_share_are_evaluated_with_larger_shares_and_fewer_side_by_side():
    nix = Nix("w1", "w2")
    nix.weight = lambda begun: 700 * MIB * len(begun)
    evaluation = await nix.run("w1", "w2", workers=2, max_memory=GIB)
    assert set(evaluation.hosts) == {"w1", "w2"}
    assert nix.limits == [448 * MIB] * 2 + [960 * MIB] * 2


async def test_a_host_that_alone_is_more_than_the_cap_fails_with_both_numbers_and_what_to_type():
    nix = Nix("w1", "w2")
    nix.weight = lambda begun: 3 * GIB if "w2" in begun else 200 * MIB
    evaluation = await nix.run("w1", "w2", max_memory=2 * GIB)
    failure = evaluation.failures[HostName("w2")]
    assert failure.message == "w2 does not evaluate in 2048 MiB: it had 3072 MiB and wanted more"
    assert "max_memory: 4096MiB" in failure.next
    assert list(evaluation.hosts) == ["w1"]


async def test_an_evaluator_that_the_kernel_kills_is_blamed_on_memory():
    nix = Nix("w1")
    nix.processes.answers("nix", "eval", exit_code=137, stderr="ended by signal SIGKILL\n")
    with pytest.raises(TaskError, match="memory"):
        await nix.run("w1")


@pytest.mark.parametrize(
    ("hosts", "processors", "free", "settings", "workers", "share"),
    [
        (3, 8, 64 * GIB, {}, 1, 48 * GIB),  # Too few to be worth a second evaluator.
        (100, 8, 64 * GIB, {}, 8, 6 * GIB),
        (100, 8, 2 * GIB, {}, 2, 768 * MIB),  # Memory allows no more.
        (100, 8, 256 * MIB, {}, 1, 192 * MIB),
        (100, 2, 64 * GIB, {"workers": 5, "max_memory": 10 * GIB}, 5, 2 * GIB),
        (2, 2, 64 * GIB, {"workers": 5, "max_memory": 10 * GIB}, 2, 5 * GIB),
    ],
)
def test_evaluators_are_as_many_as_processors_memory_and_hosts_allow(hosts, processors, free, settings, workers, share):
    size = sizes(hosts, EvaluationSettings(**settings), Machine(processors=processors, free=free))
    assert (size.workers, size.share) == (workers, share)
    assert size.workers * size.share <= size.cap


def test_chunks_follow_what_hosts_were_seen_to_take():
    size = sizes(100, EvaluationSettings(), Machine(processors=2, free=64 * GIB))
    assert size.chunk(100, 0) == 17  # By the guess: twenty are three gigabytes, and more are none the faster.
    size.saw(460 * MIB, 17, outgrew=False)
    assert size.chunk(66, 17) == 42  # They are small: half of what is left for each.
    size.saw(2496 * MIB, 1, outgrew=True)
    assert size.chunk(38, 0) == 2  # The largest counts.
    assert size.peak == 2496 * MIB


async def test_no_more_is_taken_at_once_than_there_is():
    room, most, taken = Room(10), 0, 0

    async def use(size: int) -> None:
        nonlocal most, taken
        await room.take(size)
        taken += size
        most = max(most, taken)
        await anyio.lowlevel.checkpoint()
        taken -= size
        await room.give(size)

    async with anyio.create_task_group() as group:
        for size in (4, 4, 4, 10, 1, 6):
            group.start_soon(use, size)
    assert most <= 10


# --- which flake -----------------------------------------------------------------------------------------------------

UNLOCKED = (
    "error: flake 'path:/srv/fleet' requires lock file changes but they're not allowed due to '--no-update-lock-file'\n"
)
CHANGES = (
    "warning: not writing modified lock file of flake 'path:/srv/fleet':\n• Added input 'disko':\n    'github:x'\n"
)


async def test_an_incomplete_lock_file_is_a_failure_that_names_the_input_and_the_remedy():
    nix = Nix("w1")
    nix.processes.answers("nix", "flake", "metadata", "--json", "--no-update-lock-file", exit_code=1, stderr=UNLOCKED)
    nix.processes.answers("nix", "flake", "metadata", "--json", "--no-write-lock-file", stderr=CHANGES)
    with pytest.raises(TaskError) as caught:
        await nix.run("w1")
    failure = caught.value.failure
    assert failure.message == "the lock file of /srv/fleet is missing or out of date: disko"
    assert failure.next == "nix flake lock '/srv/fleet', and commit flake.lock"
    assert nix.passes == []


async def test_overrides_and_impurity_reach_every_evaluation():
    nix = Nix("w1")
    await nix.run("w1", impure=True, override_inputs={"nixpkgs": "path:/src/nixpkgs"})
    assert nix.processes.lines()[:2] == [
        f"nix flake metadata --json --no-update-lock-file {FLAKE}",
        f"nix flake metadata --json --no-update-lock-file --override-input nixpkgs path:/src/nixpkgs {FLAKE}",
    ]
    assert "--no-update-lock-file --impure --override-input nixpkgs path:/src/nixpkgs" in nix.processes.lines()[2]


async def test_an_override_of_an_input_that_is_not_there_is_refused():
    nix = Nix("w1")
    warning = "warning: the flag '--override-input nixpkg path:/x' does not match any input\n"
    overridden = ("nix", "flake", "metadata", "--json", "--no-update-lock-file", "--override-input")
    nix.processes.answers(*overridden, stdout=metadata(), stderr=warning)
    with pytest.raises(TaskError, match="has no input nixpkg") as caught:
        await nix.run("w1", override_inputs={"nixpkg": "path:/x"})
    assert caught.value.failure.next == "did you mean nixpkgs?"


@pytest.mark.parametrize(
    ("said", "revision", "dirty"),
    [
        ({"revision": "abc", "locked": {"narHash": "h", "type": "git"}}, "abc", False),
        ({"dirtyRevision": "abc-dirty", "locked": {"narHash": "h", "type": "git"}}, "h", True),
        ({"locked": {"narHash": "h", "type": "git"}}, "h", True),
        ({"locked": {"narHash": "h", "type": "path"}}, "h", False),
        ({"fingerprint": "f", "locked": {}}, "f", False),
    ],
)
def test_a_flakes_revision_changes_with_its_content(said, revision, dirty):
    state = flake_state(FLAKE, said)
    assert state is not None
    assert (state.revision, state.dirty) == (revision, dirty)


@pytest.mark.parametrize("nonsense", [None, [], "x", {}, {"locked": 3}, {"locked": {"narHash": 7}}])
def test_metadata_that_describes_no_flake_is_none(nonsense):
    assert flake_state(FLAKE, nonsense) is None
    assert locked_flake(FLAKE, nonsense) is None


async def test_a_flake_that_cannot_be_read_is_an_evaluation_failure():
    nix = Nix("w1")
    nix.processes.answers("nix", "flake", exit_code=1, stderr="error: getting status of '/x': No such file\n", times=1)
    with pytest.raises(TaskError, match="cannot be read: getting status") as caught:
        await nix.evaluator().state(FLAKE)
    assert caught.value.failure.kind is FailureKind.EVALUATION


# --- what is kept ----------------------------------------------------------------------------------------------------


class Kept:
    """An evaluator that keeps what it evaluated, and a store that has every derivation."""

    def __init__(self, folder: Path, *hosts: str) -> None:
        self.nix, self.root = Nix(*hosts), folder / "root"
        self.cache = EvaluationCache(folder / "cache", StoreFiles(self.root))
        for name in hosts:
            drv = self.root / data(name)["drvPath"].lstrip("/")
            drv.parent.mkdir(parents=True, exist_ok=True)
            drv.touch()

    async def run(self, *hosts: str, said: list[str] | None = None, **settings):
        program = NixProgram(self.nix.processes, "nix", {})
        evaluator = NixEvaluator(program, EvaluationSettings(**settings), cache=self.cache)
        heard = said.append if said is not None else None
        return await evaluator.evaluate(FLAKE, [a_host(name) for name in hosts], heard)


async def test_an_unchanged_flake_is_not_evaluated_again(tmp_path):
    kept, said = Kept(tmp_path, "w1", "w2"), []
    first = await kept.run("w1", "w2")
    assert await kept.run("w1", "w2", said=said) == first
    assert len(kept.nix.passes) == 1
    assert said == ["2 of 2 hosts are as they were when they were last evaluated"]


async def test_only_hosts_that_are_not_known_are_evaluated(tmp_path):
    kept = Kept(tmp_path, "w1", "w2")
    await kept.run("w1")
    assert set((await kept.run("w1", "w2")).hosts) == {"w1", "w2"}
    assert kept.nix.passes == [["w1"], ["w2"]]


@pytest.mark.parametrize("what", ["content", "derivation", "version", "impure", "file"])
async def test_what_may_have_changed_is_evaluated_again(tmp_path, what):
    kept = Kept(tmp_path, "w1")
    await kept.run("w1")
    if what == "content":
        kept.nix.processes.answers("nix", "flake", "metadata", stdout=metadata("sha256-BBBB"))
    if what == "derivation":
        (kept.root / data("w1")["drvPath"].lstrip("/")).unlink()
    if what == "version":
        kept.nix.processes.answers("nix", "--version", stdout="nix (Nix) 2.34.8\n")
    if what == "file":
        next((tmp_path / "cache").glob("*.json")).write_text('{"nixos')
    await kept.run("w1", impure=what == "impure")
    assert len(kept.nix.passes) == 2


async def test_a_flake_that_changes_while_it_is_evaluated_is_not_kept(tmp_path):
    kept, said = Kept(tmp_path, "w1"), []
    before, after = (metadata(content, "git+file:///srv/fleet") for content in ("sha256-A", "sha256-B"))
    kept.nix.processes.answers("nix", "flake", "metadata", stdout=before, times=1)
    kept.nix.processes.answers("nix", "flake", "metadata", stdout=after)
    await kept.run("w1", said=said)
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True
    assert "changed while it was evaluated" in said[-1]


async def test_failures_are_never_kept(tmp_path):
    kept = Kept(tmp_path, "w1", "w2")
    kept.nix.throw = {"w2"}
    await kept.run("w1", "w2")
    kept.nix.throw = set()
    assert set((await kept.run("w1", "w2")).hosts) == {"w1", "w2"}


async def test_a_cache_that_cannot_be_written_is_said_and_no_failure(tmp_path):
    (tmp_path / "cache").touch()
    kept, said = Kept(tmp_path, "w1"), []
    assert (await kept.run("w1", said=said)).hosts
    assert "cannot be kept" in said[-1]


def test_an_entry_that_names_no_derivation_is_none(tmp_path):
    cache, host = EvaluationCache(tmp_path, StoreFiles(tmp_path)), a_host("w1")
    broken = {host.flake_attr: {**data("w1"), "drvPath": "w1.drv"}}
    (tmp_path / "key.json").write_text(json.dumps(broken))
    assert cache.find("key", [host]) == {}


def test_an_entry_that_cannot_be_put_in_its_place_leaves_nothing(tmp_path):
    (tmp_path / "key.json").mkdir()
    with pytest.raises(OSError, match=r"key\.json"):
        EvaluationCache(tmp_path, StoreFiles(tmp_path)).keep("key", [])
    assert [each.name for each in tmp_path.iterdir()] == ["key.json"]


async def test_a_tree_that_git_changes_as_it_is_checked_out_is_not_pinned_to_its_commit(tmp_path):
    """Nix 2.34 would read the commit's own files: those behind git-crypt encrypted."""
    source = tmp_path / SOURCE.lstrip("/")
    source.mkdir(parents=True)
    nix, url = Nix("w1"), "git+file:///srv/fleet?rev=abc"
    about = json.loads(metadata(url=url))
    about["locked"] = {"type": "git", "url": "file:///srv/fleet", "rev": "abc", "narHash": "sha256-A"}
    nix.processes.answers("nix", "flake", "metadata", stdout=json.dumps(about))
    environ = {"NIX_REMOTE": str(tmp_path)}
    evaluator = NixEvaluator(NixProgram(nix.processes, "nix", environ), EvaluationSettings(), environ=environ)
    await evaluator.evaluate(FLAKE, [a_host("w1")])
    assert url in " ".join(nix.processes.ran[-1].argv)
    (source / ".gitattributes").write_text("secrets/** filter=git-crypt diff=git-crypt\n")
    await evaluator.evaluate(FLAKE, [a_host("w1")])
    assert f"{FLAKE}#nixosConfigurations" in nix.processes.ran[-1].argv


def test_few_flakes_are_kept(tmp_path):
    cache = EvaluationCache(tmp_path, StoreFiles(tmp_path))
    for number in range(25):
        cache.keep(f"key{number}", [])
    assert len(list(tmp_path.glob("*"))) == 20


# --- nix-eval-jobs ---------------------------------------------------------------------------------------------------

HELP = "  --apply  --select  --override-input  --workers\n"


def job(name: str) -> str:
    one = data(name)
    answer = {
        "attr": name, "attrPath": [name], "drvPath": one["drvPath"], "name": f"nixos-{name}",
        "outputs": {"out": one["out"]}, "system": "x86_64-linux", "extraValue": {"system": "aarch64-linux"},
    }  # fmt: skip
    return json.dumps(answer)


async def with_jobs(nix: Nix, *hosts: str, said: list[str] | None = None):
    jobs = NixEvalJobs(NixProgram(nix.processes, "nix-eval-jobs", {}))
    evaluator = NixEvaluator(NixProgram(nix.processes, "nix", {}), EvaluationSettings(workers=2), jobs=jobs)
    return await evaluator.evaluate(FLAKE, [a_host(name) for name in hosts], said.append if said is not None else None)


async def test_nix_eval_jobs_is_used_where_it_is_and_its_errors_are_one_hosts_own():
    nix = Nix("w1", "w2")
    bad = json.dumps(
        {"attr": "w2", "attrPath": ["w2"], "error": "error: option is wrong\n\n  at /nix/store/x/a.nix:3:1:"}
    )
    nix.processes.answers("nix-eval-jobs", "--help", stdout=HELP)
    nix.processes.answers("nix-eval-jobs", "--flake", stdout=f"{job('w1')}\n{bad}\n")
    evaluation = await with_jobs(nix, "w1", "w2")
    assert evaluation.hosts[HostName("w1")].out == store_path("nixos-system-w1")
    assert evaluation.hosts[HostName("w1")].system == "aarch64-linux"
    assert "option is wrong" in evaluation.failures[HostName("w2")].message
    assert nix.passes == []


async def test_what_nix_eval_jobs_leaves_open_is_evaluated_with_nix():
    nix, said = Nix("w1", "w2"), []
    nix.processes.answers("nix-eval-jobs", "--help", stdout=HELP)
    nix.processes.answers(
        "nix-eval-jobs", "--flake", stdout=job("w1"), stderr="error: worker error: pipe\n", exit_code=1
    )
    evaluation = await with_jobs(nix, "w1", "w2", said=said)
    assert set(evaluation.hosts) == {"w1", "w2"}
    assert nix.passes == [["w2"]]
    assert "nix-eval-jobs gave up (worker error: pipe); going on with nix eval" in said


@pytest.mark.parametrize("help_text", [None, "  --workers  --flake\n"], ids=["absent", "too old"])
async def test_without_a_fitting_nix_eval_jobs_nix_evaluates(help_text):
    nix = Nix("w1")
    if help_text is not None:
        nix.processes.answers("nix-eval-jobs", stdout=help_text)
    assert set((await with_jobs(nix, "w1")).hosts) == {"w1"}
    assert nix.passes == [["w1"]]


# --- expressions -----------------------------------------------------------------------------------------------------


def test_more_hosts_than_fit_into_one_argument_take_more_evaluators():
    hosts = [expressions.wanted(a_host(f"worker-{i:05}")) for i in range(10_000)]
    fitting = expressions.fitting(hosts)
    assert 1000 < fitting < 10_000
    assert len(expressions.select_hosts(hosts[:fitting], catching=True).encode()) < 128 * 1024


@pytest.mark.parametrize(
    ("attribute", "parts"),
    [
        ("a.b", ("a", "b")),
        ('nixosConfigurations."o.dd".pi', ("nixosConfigurations", "o.dd", "pi")),
        (r'a."x\"y"', ("a", 'x"y')),
        ("a..b", ()),
        ('a."', ()),
        ('a."${b}"', ()),
    ],
)
def test_attribute_paths_are_taken_apart_as_nix_does(attribute, parts):
    assert expressions.components(attribute) == parts


def test_what_nobody_can_take_apart_is_handed_to_nix_as_it_is():
    assert expressions.wanted(a_host("w1", attr='a."${b}"')).root == 'a."${b}"'


@pytest.mark.parametrize(
    "line", ["trace: nixkube-deploy: done {", "trace: other", "", "trace: nixkube-deploy: begin 7"]
)
def test_other_lines_tell_nothing(line):
    assert expressions.heard(line) is None
