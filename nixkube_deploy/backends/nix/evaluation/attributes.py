"""Whether Git changes a tree's files as it checks them out, so that a commit is not what its working tree holds.

It reads ``.gitattributes`` and runs nothing. What a user's own Git adds (``core.autocrlf``) it does not know.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_CHANGES: Final = re.compile(rb"^[^#\n]*\s(?:filter=|ident(?:\s|$)|eol=crlf|working-tree-encoding=)", re.MULTILINE)


def local_tree(locked: Mapping[str, Any]) -> bool:
    """Whether a locked flake is a Git working tree on this machine."""
    return locked.get("type") == "git" and str(locked.get("url")).startswith("file:")


def changes_files(source: Path) -> bool:
    """Whether any of a tree's attributes do: a filter (git-crypt, LFS), line ends, an encoding."""
    for folder, _, files in os.walk(source):
        if ".gitattributes" in files:
            try:
                text = (Path(folder) / ".gitattributes").read_bytes()
            except OSError:
                continue
            if _CHANGES.search(text):
                return True
    return False
