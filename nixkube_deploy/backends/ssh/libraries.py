"""Imports asyncssh without starting programs. It deliberately takes none of its features away.

asyncssh looks for optional C libraries as it is imported, and on Linux Python finds libraries by running ldconfig, gcc
and ld: tens of milliseconds, and programs that inherit an environment which may hold a secret.
"""

import ctypes.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["asyncssh"]

_FOLDERS: Final = ("/usr/local/lib", "/lib", "/usr/lib", "/lib64", "/usr/lib64")


@contextmanager
def found_by_looking() -> Iterator[None]:
    """For the length of the block ``ctypes.util.find_library`` looks where libraries lie, and asks nobody."""
    usual = ctypes.util.find_library
    if sys.platform.startswith("linux"):
        ctypes.util.find_library = _find_library
    try:
        yield
    finally:
        ctypes.util.find_library = usual


def _find_library(name: str) -> str | None:
    for folder in _folders():
        found = sorted(folder.glob(f"lib{name}.so*"))
        if found:
            return str(found[-1])
    return None


def _folders() -> Iterator[Path]:
    """Where the dynamic linker would look, as far as that can be known without reading its cache."""
    named = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    triplet = str(sysconfig.get_config_var("MULTIARCH") or "")
    for folder in (*named, *(f"{each}/{triplet}" for each in _FOLDERS if triplet), *_FOLDERS):
        if folder:
            yield Path(folder)


with found_by_looking():
    import asyncssh
