import json
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nixkube_deploy.journal.file import JournalFile, lock_inventory, open_journal
from nixkube_deploy.journal.history import read
from nixkube_deploy.model.error import DeployError, Locked, Refused, UsageError
from nixkube_deploy.model.event import Outcome, RunFinished, RunStarted, SkipCause, TaskSettled, TaskStarted, Verdict
from nixkube_deploy.model.names import RunId, TaskId
from nixkube_deploy.model.rollout import Plan
from tests.builders import a_failure, a_flake, a_graph
from tests.fakes.clock import EPOCH, ManualClock

RUN = RunId("20261123T030000Z-3fa9")
INVENTORY = "/etc/fleet/inventory.yaml"


def a_plan(graph: str = "w1/copy>w1/switch", inventory: str = INVENTORY) -> Plan:
    return Plan(inventory=inventory, digest="d1", flake=a_flake(), hosts=(), graph=a_graph(graph))


EVENTS = (
    RunStarted(run=RUN, fingerprint="f"),
    TaskStarted(task=TaskId("w1/copy"), attempt=1),
    TaskSettled(task=TaskId("w1/copy"), verdict=Verdict.FAILED, failure=a_failure('café "quoted"\nsecond \udc80 line')),
)


def path_of(state: Path) -> Path:
    return state / "runs" / f"{RUN}.jsonl"


def written(state: Path) -> Path:
    """A journal with a header and three records."""
    with open_journal(state, RUN, a_plan(), ManualClock()) as journal:
        for event in EVENTS:
            journal.append(event)
    return path_of(state)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_what_is_appended_is_numbered_stamped_and_read_back(tmp_path):
    clock = ManualClock()
    with open_journal(tmp_path, RUN, a_plan(), clock) as journal:
        assert journal.past == ()
        first = journal.append(EVENTS[0])
        clock.advance(1.5)
        second = journal.append(EVENTS[1])
        assert journal.past == (), "the past is what was there before"
        assert journal.records() == (first, second)
    assert (first.seq, first.at) == (0, EPOCH.timestamp())
    assert (second.seq, second.at) == (1, EPOCH.timestamp() + 1.5)
    assert first.event == EVENTS[0]


def test_every_record_is_one_line_of_json_after_a_header(tmp_path):
    header, *records = [json.loads(line) for line in written(tmp_path).read_text().splitlines()]
    assert header["version"] == 1
    assert (header["run"], header["inventory"], header["digest"]) == (RUN, INVENTORY, "d1")
    assert header["plan"]["fingerprint"] == a_plan().graph.fingerprint
    assert [record["seq"] for record in records] == [0, 1, 2]
    assert records[1]["event"] == {"type": "TaskStarted", "task": "w1/copy", "attempt": 1}


def test_a_record_is_on_disk_when_append_returns(tmp_path, monkeypatch):
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), real(fd)))
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()) as journal:
        for event in EVENTS:
            journal.append(event)
            assert synced[-1] == path_of(tmp_path).stat().st_size


def test_a_skip_is_written_at_once_and_synced_with_the_next_event(tmp_path, monkeypatch):
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()) as journal:
        synced: list[int] = []
        real = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), real(fd)))
        skip = TaskSettled(task=TaskId("w1/copy"), verdict=Verdict.SKIPPED, skip=SkipCause.HALTED)
        journal.append(skip)
        assert not synced
        assert journal.records()[-1].event == skip
        journal.append(EVENTS[0])
        assert synced == [path_of(tmp_path).stat().st_size]


def test_a_second_controller_continues_where_the_first_stopped(tmp_path):
    written(tmp_path)
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()) as journal:
        assert tuple(record.event for record in journal.past) == EVENTS
        assert journal.append(RunFinished(outcome=Outcome.HALTED)).seq == 3
        assert len(journal.records()) == 4


def test_only_its_owner_may_read_a_journal(tmp_path):
    state = tmp_path / "a" / "state"
    journal = written(state)
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_journal_is_there_with_its_whole_header_or_not_at_all(tmp_path, monkeypatch):
    def full(_fd: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DeployError, match="No space left on device") as caught:
        written(tmp_path)
    assert "NIXKUBE_DEPLOY_STATE" in caught.value.hint
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_write_that_comes_up_short_is_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:7])))
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()) as journal:
        journal.append(EVENTS[0])
        assert [record.event for record in journal.records()] == [EVENTS[0]]


def test_after_a_failed_append_nothing_half_written_is_left_and_no_other_is_tried(tmp_path, monkeypatch):
    real, failing = os.write, [False]

    def write(fd: int, data: bytes) -> int:
        if failing[0]:
            real(fd, bytes(data[:10]))
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()) as journal:
        journal.append(EVENTS[0])
        failing[0] = True
        with pytest.raises(DeployError, match="No space left"):
            journal.append(EVENTS[1])
        failing[0] = False
        with pytest.raises(DeployError, match="No space left"):
            journal.append(EVENTS[1])
        assert [record.event for record in journal.records()] == [EVENTS[0]]
    assert path_of(tmp_path).read_bytes().endswith(b"}\n")


def test_a_tail_that_cannot_be_taken_back_is_left_to_the_next_reader(tmp_path, monkeypatch):
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()) as journal:
        journal.append(EVENTS[0])
        with monkeypatch.context() as patch:

            def broken(*_args: object) -> None:
                raise OSError(5, "Input/output error")

            patch.setattr(os, "fsync", broken)
            patch.setattr(os, "ftruncate", broken)
            with pytest.raises(DeployError, match="Input/output error"):
                journal.append(EVENTS[1])


# --- reading what was left -------------------------------------------------------------------------------------------


def test_half_a_last_line_is_cut_off(tmp_path):
    path = written(tmp_path)
    sound = path.read_bytes()
    path.write_bytes(sound + b'{"seq":3,"at":1.0,"ev')
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()) as journal:
        assert len(journal.past) == 3
        assert path.read_bytes() == sound
        assert journal.append(EVENTS[1]).seq == 3
    assert len(read(tmp_path, RUN).records) == 4


@pytest.mark.parametrize("tail", [b"\0" * 512, b'{"seq":3\0\0\0\n', b"\0\n", b"[" * 100_000 + b"\n"])
def test_a_tail_that_never_reached_the_disk_whole_is_cut_off(tmp_path, tail):
    path = written(tmp_path)
    sound = path.read_bytes()
    path.write_bytes(sound + tail)
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()) as journal:
        assert len(journal.past) == 3
    assert path.read_bytes() == sound


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"seq":0,"at', "Unterminated string"),
        (b"[1, 2]", "not an object"),
        (b'{"seq":7,"at":1.0,"event":{"type":"TaskInterrupted","task":"a"}}', "record 1 was expected here, not 7"),
        (b'{"seq":1,"at":1.0,"event":{"type":"TaskEvaporated","task":"a"}}', "unknown type 'TaskEvaporated'"),
    ],
)
def test_a_damaged_line_before_the_last_is_an_error_that_names_file_and_line(tmp_path, line, why):
    path = written(tmp_path)
    lines = path.read_bytes().splitlines()
    lines[2] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(DeployError, match=why) as caught, open_journal(tmp_path, RUN, a_plan(), ManualClock()):
        pass
    assert caught.value.message.startswith(f"{path}:3: the journal is damaged: ")
    assert "deploy apply" in caught.value.hint


def test_a_journal_that_ends_before_its_header_does_says_that_nothing_was_done(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with (
        pytest.raises(DeployError, match="ends before its header") as caught,
        open_journal(tmp_path, RUN, a_plan(), ManualClock()),
    ):
        pass
    assert caught.value.hint == f"nothing was done; rm {path}"


def test_a_journal_of_another_version_is_refused_and_says_what_to_do(tmp_path):
    path = written(tmp_path)
    header, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(json.dumps(json.loads(header) | {"version": 2}).encode() + b"\n" + rest)
    with pytest.raises(DeployError, match="journal of version 2, and this program reads version 1") as caught:
        read(tmp_path, RUN)
    assert "release that began it" in caught.value.hint


def test_a_damaged_header_is_an_error_that_names_its_line(tmp_path):
    path = written(tmp_path)
    _, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(b'{"version":1,"run":5}\n' + rest)
    with pytest.raises(DeployError, match=r":1: the journal is damaged: \$\.run: expected str, got int"):
        read(tmp_path, RUN)


def test_a_run_that_executes_another_plan_is_not_continued(tmp_path):
    written(tmp_path)
    with (
        pytest.raises(Refused, match="executing another plan"),
        open_journal(tmp_path, RUN, a_plan("w1/copy"), ManualClock()),
    ):
        pass


@pytest.mark.parametrize("run", ["../../etc/passwd", "", ".hidden", "a/b"])
def test_a_runs_id_cannot_be_somebodys_path(tmp_path, run):
    with pytest.raises(UsageError, match="no run's id"), open_journal(tmp_path, RunId(run), a_plan(), ManualClock()):
        pass


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "state").write_text("a file")
    with (
        pytest.raises(DeployError, match="File exists"),
        open_journal(tmp_path / "state", RUN, a_plan(), ManualClock()),
    ):
        pass


# --- locks -----------------------------------------------------------------------------------------------------------


def test_an_open_journal_is_locked_and_names_its_holder(tmp_path):
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()):
        with pytest.raises(Locked) as caught, open_journal(tmp_path, RUN, a_plan(), ManualClock()):
            pass
        assert caught.value.exit_code == 6
        assert f"run {RUN} is being worked on by " in caught.value.message
        assert f"process {os.getpid()} on {os.uname().nodename}, since 2026-11-23 03:00:00 UTC" in caught.value.message
        assert f"kill -INT {os.getpid()}" in caught.value.hint
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()):
        pass


def test_an_inventory_is_locked_whatever_the_run(tmp_path):
    with lock_inventory(tmp_path, INVENTORY, ManualClock()):
        with pytest.raises(Locked, match=INVENTORY), lock_inventory(tmp_path, INVENTORY, ManualClock()):
            pass
        with lock_inventory(tmp_path, "/etc/fleet/other.yaml", ManualClock()):
            pass
    with lock_inventory(tmp_path, INVENTORY, ManualClock()):
        pass


@pytest.mark.parametrize("said", [None, "not json", '{"pid": "seven"}'])
def test_a_holder_that_left_no_name_holds_all_the_same(tmp_path, said):
    with lock_inventory(tmp_path, INVENTORY, ManualClock()):
        (beside,) = (tmp_path / "locks").glob("*.holder")
        beside.unlink() if said is None else beside.write_text(said)
        with (
            pytest.raises(Locked, match="somebody who has left no name"),
            lock_inventory(tmp_path, INVENTORY, ManualClock()),
        ):
            pass


def test_a_lock_ends_with_its_block_even_when_that_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), lock_inventory(tmp_path, INVENTORY, ManualClock()):
        _ = 1 / 0
    assert not list((tmp_path / "locks").glob("*.holder"))


def test_a_user_without_a_name_is_named_by_number(tmp_path, monkeypatch):
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    with (
        lock_inventory(tmp_path, INVENTORY, ManualClock()),
        pytest.raises(Locked, match=f"user {os.getuid()}, process"),
        lock_inventory(tmp_path, INVENTORY, ManualClock()),
    ):
        pass


def test_a_file_system_without_locks_is_an_error(tmp_path, monkeypatch):
    def no_locks(_fd: int, _how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(DeployError, match="No locks available"), lock_inventory(tmp_path, INVENTORY, ManualClock()):
        pass


def test_a_name_that_cannot_be_left_does_not_keep_the_lock_from_holding(tmp_path, monkeypatch):
    def read_only(self: Path, *_args: object, **_kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", read_only)
    with lock_inventory(tmp_path, INVENTORY, ManualClock()):
        pass


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from tests.unit.journal.test_file import EVENTS, RUN, ManualClock, a_plan, open_journal
    with open_journal(Path(sys.argv[1]), RUN, a_plan(), ManualClock()) as journal:
        for event in EVENTS:
            journal.append(event)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_controller_leaves_a_journal_that_is_free_and_whole(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    here = Path(__file__).parents[3]
    killed = subprocess.run(command, cwd=here, env=os.environ | {"PYTHONPATH": str(here)}, check=False)
    assert killed.returncode == -9
    assert list((tmp_path / "runs").glob("*.holder")), "it had no time to take its name away"
    with open_journal(tmp_path, RUN, a_plan(), ManualClock()) as journal:
        assert isinstance(journal, JournalFile)
        assert tuple(record.event for record in journal.past) == EVENTS
