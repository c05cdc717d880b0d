"""How much memory this machine says there is."""

import pytest

from nixkube_deploy.backends.nix.evaluation.sizing import MIB, group_free, this_machine

UNLIMITED = 1 << 62


def group(folder, *, limit: str, used: int, cached: int = 0):
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\nfile {cached}\ninactive_file {cached - 1}\nactive_file 1\n")
    return folder


def test_a_control_group_leaves_what_it_does_not_use(tmp_path):
    assert group_free(group(tmp_path, limit=str(4096 * MIB), used=1024 * MIB, cached=1)) == 3072 * MIB + 1


def test_files_that_were_read_are_given_up_when_the_room_is_needed(tmp_path):
    """A container that has just built something uses all it may, nearly all of it for files."""
    found = group_free(group(tmp_path, limit=str(4096 * MIB), used=4095 * MIB, cached=3071 * MIB))
    assert found == 3072 * MIB


@pytest.mark.parametrize("limit", ["max", "nonsense"])
def test_no_limit_is_none(tmp_path, limit):
    assert group_free(group(tmp_path, limit=limit, used=MIB, cached=1)) == UNLIMITED


def test_no_control_group_is_no_limit(tmp_path):
    assert group_free(tmp_path) == UNLIMITED


def test_this_machine_has_a_processor_and_memory():
    assert this_machine().processors > 0
    assert this_machine().free > 0
