"""Trees that Git changes as it checks them out, which no commit stands for."""

import pytest

from nixkube_deploy.backends.nix.evaluation.attributes import changes_files, local_tree


@pytest.mark.parametrize(
    "line",
    [
        "secrets/** filter=git-crypt diff=git-crypt",
        "*.bin filter=lfs diff=lfs merge=lfs -text",
        "*.bat text eol=crlf",
        "*.txt working-tree-encoding=UTF-16",
        "version.nix ident",
    ],
)
def test_attributes_that_change_what_is_checked_out(tmp_path, line):
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts/.gitattributes").write_text(f"# ours\n{line}\n")
    assert changes_files(tmp_path)


@pytest.mark.parametrize("line", ["", "* text=auto", "flake.lock linguist-generated", "# a filter=lfs", "*.md diff=md"])
def test_attributes_that_do_not(tmp_path, line):
    (tmp_path / ".gitattributes").write_text(f"{line}\n")
    assert not changes_files(tmp_path)


def test_a_tree_that_is_not_there_has_none(tmp_path):
    assert not changes_files(tmp_path / "gone")


@pytest.mark.parametrize(
    ("locked", "local"),
    [
        ({"type": "git", "url": "file:///srv/fleet"}, True),
        ({"type": "git", "url": "ssh://git@example/fleet"}, False),
        ({"type": "path", "path": "/srv/fleet"}, False),
        ({}, False),
    ],
)
def test_only_git_trees_on_this_machine_are_checked_out(locked, local):
    assert local_tree(locked) is local
