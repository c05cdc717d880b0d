"""How far a build is: streams recorded from Nix 2.8, and lines no Nix ever printed."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from nixkube_deploy.backends.nix.building.diagnosis import build_failure, causes
from nixkube_deploy.backends.nix.building.internal_json import Plain, Said, read
from nixkube_deploy.backends.nix.building.log import BuildLog
from nixkube_deploy.backends.nix.building.progress import Follower, in_words, tally
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.output import harmless
from nixkube_deploy.ports.shell import CommandResult

STREAMS = Path(__file__).parent / "streams"
VIRTUAL_TIME = pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual time"]
)


def as_json(data: object) -> str:
    """As Nix writes it, without blanks."""
    return json.dumps(data, separators=(",", ":"))


def lines(name: str) -> list[str]:
    return (STREAMS / f"{name}-2.8.log").read_text().splitlines()


def told(name: str) -> Iterator[str]:
    """What people would have been told, once for every change; one line of Nix's a second."""
    log, before = BuildLog(), ""
    for now, line in enumerate(lines(name)):
        log.hear(line, now)
        if (text := in_words(log)) != before:
            before = text
            yield in_words(log, now)


def heard(*said: str | dict[str, object]) -> BuildLog:
    log = BuildLog()
    for line in said:
        log.hear(line if isinstance(line, str) else f"@nix {as_json(line)}", 0.0)
    return log


def finished(name: str) -> BuildLog:
    return heard(*lines(name))


# --- recorded ---


def test_what_is_built_right_now_is_named_with_its_phase_and_since_when():
    assert list(told("two-failures"))[4:7] == [
        "building 4 of 7: broken-f (23 s), broken-g (18 s), containerd-2.0 (bPhase, 13 s) and 1 more",
        "building 4 of 7: broken-f (74 s), broken-g (69 s), containerd-2.0 (bPhase, 64 s) and 1 more; 1 failed",
        "building 3 of 7: broken-g (74 s), containerd-2.0 (bPhase, 69 s), linux-6.12.8 (aPhase, 64 s); 1 failed",
    ]


def test_downloads_are_told_in_paths_and_bytes():
    texts = list(told("fetched"))
    assert "fetched 1 of 2 paths, 488 KiB of 781 KiB" in texts
    assert "building 1 of 2: local-part" in texts
    assert tally(finished("fetched")) == "built 2 derivations, fetched 2 paths (781 KiB)"


def test_a_remote_builder_is_named_and_so_is_what_travels_to_and_from_it():
    texts = list(told("remote-builder"))
    assert "building 1 of 4: broken-f on 127.0.0.1" in texts
    assert any(text.endswith("copying dependencies to 'ssh://root@127.0.0.1'") for text in texts)
    assert any(text.endswith("copying outputs from 'ssh://root@127.0.0.1'") for text in texts)
    assert tally(finished("remote-builder")) == "built 2 derivations, 1 failed"


@pytest.mark.parametrize("name", ["remote-builder", "realise-fails"])
def test_a_failure_shows_the_end_of_the_builders_log(name):
    log = finished(name)
    found = causes(log.text, log.logs)
    (cause,) = found.values()
    assert cause.in_short == "broken-f (exit code 3)"
    failure = build_failure("n2", found, CommandResult(exit_code=1, stderr=log.text))
    assert failure.evidence[1:] == ("> f line 1", "> f line 2", "> f line 3", "> f dies")


def test_what_was_only_stopped_by_another_failure_is_no_cause():
    log = finished("two-failures")
    assert [cause.in_short for cause in causes(log.text, log.logs).values()] == [
        "broken-f (exit code 3)",
        "broken-g (exit code 3)",
    ]


def test_two_long_logs_share_the_evidence():
    log = finished("two-failures")
    failure = build_failure("n1", causes(log.text, log.logs), CommandResult(exit_code=1, stderr=log.text))
    assert len(failure.evidence) == 20
    assert "> f dies" in failure.evidence
    assert failure.evidence[-1] == "> g dies"


# --- reasons, in the words of 2.8 and of 2.34 ---

DRV = "/nix/store/nq1z1hfdjmjg190875ad38wdvsy953c2-part.drv"
REASONS = [
    (f"error: builder for '{DRV}' failed due to signal 9 (Killed)", "part (signal 9 (Killed))"),
    (f"error: builder for '{DRV}' failed to produce output path for output 'out' at '/x'",
     "part (failed to produce output path)"),
    (f"error: building of '{DRV}!out' from .drv file timed out after 1 seconds of silence",
     "part (after 1 seconds of silence)"),
    (f"error: hash mismatch in fixed-output derivation '{DRV}':\n  specified: a\n     got:    b",
     "part (hash mismatch)"),
    (f"error: Cannot build '{DRV}'.\nReason: builder failed with exit code 3.", "part (exit code 3)"),
    (f"error: Cannot build '{DRV}'.\nReason: required system or feature not available",
     "part (required system or feature not available)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "in_short"), REASONS, ids=[short for _, short in REASONS])
def test_the_reason_is_said_in_short(text, in_short):
    log = heard({"action": "msg", "level": 0, "msg": f"\x1b[31;1m{text}\x1b[0m"})
    (cause,) = causes(log.text, log.logs).values()
    assert cause.in_short == in_short
    assert "\x1b" not in log.text


# --- shapes of 2.26 and 2.34 ---


def test_newer_versions_fields_do_no_harm():
    log = heard(
        {"action": "start", "id": 1, "level": 0, "parent": 0, "text": "", "type": 104},
        {"action": "result", "id": 1, "type": 105, "fields": [1, 3, 1, 0]},
        {"action": "start", "id": 2, "level": 3, "parent": 1, "machine": "ssh-ng://b", "type": 105,
         "text": "building", "fields": [DRV, "ssh-ng://b", 1, 1]},
        {"action": "start", "id": 3, "type": 113, "fields": ["/src", 0], "text": "copying source"},
        {"action": "result", "id": 3, "type": 110, "payload": {"path": "/x"}},
    )  # fmt: skip
    assert in_words(log) == "building 1 of 3: part on ssh-ng://b; 1 done"


# --- hostile ---


def test_a_builder_that_speaks_nixs_language_is_only_quoted():
    log = finished("two-failures")
    assert "@nix nonsense" in log.logs["/nix/store/ix7pbh6xq14ppg5vnlbdyxl1gq02rdvc-broken-f.drv"]


def test_control_sequences_inside_json_are_taken_out():
    log = heard(
        {"action": "start", "id": 1, "type": 105, "fields": [f"{DRV[:-4]}\x1b[2J\u202e.drv", "", 1, 1]},
        {"action": "result", "id": 1, "type": 101, "fields": ["a\x1b]0;owned\x07b\x9b2Jc\r"]},
        {"action": "result", "id": 1, "type": 104, "fields": ["\x1b[31mphase"]},
        {"action": "msg", "level": 0, "msg": "\x1b[2Jerror: bad"},
    )
    (name,) = log.logs
    for text in (in_words(log), log.text, name, *log.logs[name]):
        assert harmless(text) == text


def test_a_message_that_was_cut_is_read_up_to_the_cut():
    whole = "@nix " + as_json({"action": "msg", "column": None, "level": 0, "msg": f"error: é {'x' * 9000}"})
    match read(whole[:4096] + "…"):
        case Said(level=0, text=text):
            assert text.startswith("error: é xxx")
        case other:
            pytest.fail(f"read as {other}")


def test_memory_is_bounded_whatever_builders_print():
    log = BuildLog()
    for i in range(500):
        drv = f"/nix/store/{i:032}-part.drv"
        log.hear("@nix " + as_json({"action": "start", "id": i, "type": 105, "fields": [drv, "", 1, 1]}), 0.0)
        for _ in range(30):
            log.hear("@nix " + as_json({"action": "result", "id": i, "type": 101, "fields": ["x" * 3000]}), 0.0)
        log.hear("y" * 4000, 0.0)
    kept = sum(len(line) for some in log.logs.values() for line in some) + len(log.text)
    assert kept < 5_000_000


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
ALMOST = st.fixed_dictionaries(
    {},
    optional={
        "action": st.sampled_from(["start", "stop", "result", "msg", "x"]) | ANYTHING,
        "id": st.integers(min_value=0, max_value=3) | ANYTHING,
        "type": st.sampled_from([0, 100, 101, 102, 103, 104, 105, 106]) | ANYTHING,
        "fields": st.lists(st.integers(min_value=0, max_value=300) | ANYTHING, max_size=5) | ANYTHING,
        "level": st.integers(min_value=0, max_value=4) | ANYTHING,
        "text": ANYTHING,
        "msg": ANYTHING,
    },
)


@given(st.lists(ALMOST.map(lambda data: "@nix " + as_json(data)) | st.text(max_size=50), max_size=30))
def test_no_line_whatever_it_holds_is_too_much(some):
    log = BuildLog()
    for now, line in enumerate(some):
        log.hear(line, now)
        assert in_words(log, now) is not None
    tally(log)
    causes(log.text, log.logs)


@pytest.mark.parametrize("line", ["@nix ", "@nix {", "@nix []", "@nix " + "[" * 4000, "@nix " + "9" * 4000, "@nixos"])
def test_what_is_not_json_is_a_plain_line(line):
    assert read(line) == Plain(text=line)


# --- speaking ---


def building(i: int) -> str:
    drv = f"/nix/store/{i:032}-part-{i}.drv"
    return "@nix " + as_json({"action": "start", "id": i, "type": 105, "fields": [drv, "", 1, 1]})


async def speak(script, says: list[tuple[float, str]]) -> CommandResult:
    follower = Follower(lambda text: says.append((anyio.current_time() - began, text)), "w1")
    began = anyio.current_time()
    return await follower.during(script(follower.hear))


@VIRTUAL_TIME
async def test_news_comes_at_most_twice_a_second_and_less_often_the_longer_it_takes():
    says: list[tuple[float, str]] = []

    async def busy(hear) -> CommandResult:
        for i in range(3600 * 10):
            hear(building(i))
            hear("@nix " + as_json({"action": "stop", "id": i - 1}))
            await anyio.sleep(0.1)
        return CommandResult(exit_code=0)

    await speak(busy, says)
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(says)]
    assert min(gaps) >= 0.5
    assert 5 <= sum(at <= 10 for at, _ in says) <= 20
    assert len(says) < 600


@VIRTUAL_TIME
async def test_a_build_that_says_nothing_is_still_heard_of():
    says: list[tuple[float, str]] = []

    async def silent(hear) -> CommandResult:
        hear(building(7))
        await anyio.sleep(100)
        return CommandResult(exit_code=0)

    await speak(silent, says)
    assert [text for _, text in says] == [
        "w1: building 1 of 1: part-7",
        "w1: building 1 of 1: part-7 (30 s)",
        "w1: building 1 of 1: part-7 (60 s)",
        "w1: building 1 of 1: part-7 (90 s)",
    ]


@VIRTUAL_TIME
async def test_even_before_anything_is_built_there_is_a_sign_of_life():
    says: list[tuple[float, str]] = []

    async def mute(_hear) -> CommandResult:
        await anyio.sleep(40)
        return CommandResult(exit_code=0)

    await speak(mute, says)
    assert [text for _, text in says] == ["w1: nothing to report for 30 s"]


@VIRTUAL_TIME
async def test_a_build_that_is_over_at_once_is_told_in_one_line():
    says: list[tuple[float, str]] = []

    async def quick(hear) -> CommandResult:
        for line in lines("fetched"):
            hear(line)
        return CommandResult(exit_code=0)

    await speak(quick, says)
    assert [text for _, text in says] == ["w1: built 2 derivations, fetched 2 paths (781 KiB)"]


async def test_a_failure_to_run_nix_comes_out_as_it_is():
    async def missing(_hear) -> CommandResult:
        raise task_error(FailureKind.COMMAND, "nix is not installed")

    with pytest.raises(TaskError, match="not installed"):
        await speak(missing, [])


def test_a_build_that_took_too_long_is_named_though_nix_2_34_does_not_name_it():
    builds = [
        {
            "action": "start",
            "id": number,
            "level": 3,
            "text": "",
            "type": 105,
            "fields": [f"/nix/store/h-{name}.drv", ""],
        }
        for number, name in ((7, "slow-1.0"), (8, "other-1.0"))
    ]
    ended = {"action": "stop", "id": 7}
    words = {"action": "msg", "level": 0, "msg": "error: timed out after 1 seconds"}
    log = heard(*builds, ended, {"action": "result", "fields": [0, 0, 0, 1], "id": 3, "type": 105}, words)
    (cause,) = causes(log.text, log.logs).values()
    assert cause.in_short == "slow-1.0 (after 1 seconds)"


def test_a_reason_that_begins_a_line_below_is_found():
    said = "error:\n   Unable to start any build;\n   either increase '--max-jobs' or enable remote builds.\n"
    failure = build_failure("n1", {}, CommandResult(exit_code=1, stdout="", stderr=said))
    assert failure.message == "n1's system was not built: Unable to start any build;"
