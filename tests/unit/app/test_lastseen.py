"""What hosts ran when this controller last looked: it is only ever a guess, and losing it is no trouble."""

import stat

import pytest

from nixkube_deploy.app.lastseen import LastSeen
from nixkube_deploy.model.names import HostName
from tests.builders import store_path

W1, W2 = HostName("w1"), HostName("w2")
OLD, NEW = store_path("old"), store_path("new")


def test_what_was_noted_is_read_by_the_next_run_and_what_was_not_stays(tmp_path):
    LastSeen(tmp_path / "seen", "/fleet.yaml").note({W1: OLD, W2: OLD})
    LastSeen(tmp_path / "seen", "/fleet.yaml").note({W1: NEW})
    assert LastSeen(tmp_path / "seen", "/fleet.yaml").read() == {W1: NEW, W2: OLD}


def test_inventories_do_not_share_it(tmp_path):
    LastSeen(tmp_path, "/a.yaml").note({W1: OLD})
    assert LastSeen(tmp_path, "/b.yaml").read() == {}


def test_its_file_is_for_its_owner_only_and_nothing_else_is_left(tmp_path):
    LastSeen(tmp_path, "/a.yaml").note({W1: OLD})
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"version": 1}', '{"version": 2, "hosts": {"w1": "/x"}}', "\xff"]
)
def test_a_file_that_is_not_ours_is_no_memory(tmp_path, text):
    seen = LastSeen(tmp_path, "/a.yaml")
    seen.note({W1: OLD})
    (file,) = tmp_path.iterdir()
    file.write_bytes(text.encode("latin-1"))
    assert seen.read() == {}


def test_where_nothing_can_be_written_nothing_is_remembered(tmp_path):
    (tmp_path / "file").write_text("")
    LastSeen(tmp_path / "file" / "below", "/a.yaml").note({W1: OLD})
    LastSeen().note({W1: OLD})
    assert LastSeen().read() == {}
