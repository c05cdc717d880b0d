"""Who is at work on a journal, told without touching its lock."""

import json
import os
import socket
import subprocess

import pytest

from nixkube_deploy.journal.lock import holder_of


def left(path, **changes: object) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "user": "ann", "since": 0.0, **changes}
    path.with_suffix(".holder").write_text(json.dumps(holder))


def test_a_journal_nobody_works_on_has_no_holder(tmp_path):
    assert holder_of(tmp_path / "r.jsonl") is None


def test_a_living_process_is_its_holder(tmp_path):
    left(tmp_path / "r.jsonl")
    assert holder_of(tmp_path / "r.jsonl").user == "ann"


def test_a_killed_one_is_none(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    left(tmp_path / "r.jsonl", pid=gone.pid)
    assert holder_of(tmp_path / "r.jsonl") is None


def test_one_on_another_machine_is_believed(tmp_path):
    left(tmp_path / "r.jsonl", host="elsewhere", pid=0)
    assert holder_of(tmp_path / "r.jsonl").host == "elsewhere"


def test_somebody_elses_process_is_alive(tmp_path, monkeypatch: pytest.MonkeyPatch):
    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    left(tmp_path / "r.jsonl")
    monkeypatch.setattr(os, "kill", refuse)
    assert holder_of(tmp_path / "r.jsonl") is not None
