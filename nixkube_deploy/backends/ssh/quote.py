"""Turns an argv into the one line a remote login shell takes apart again.

SSH carries a command as text, so somebody has to quote; this is the only place that does. It never builds shell
syntax: a pipeline is written by the caller as ``sh -c SCRIPT``.
"""

import shlex
from collections.abc import Sequence


def shell_line(argv: Sequence[str]) -> str:
    """A line for which every POSIX shell (and fish) runs exactly ``argv``.

    Raises:
        ValueError: nothing to run, or a NUL, which no argument can hold.
    """
    if not argv:
        raise ValueError("a command has at least one word")
    if any("\0" in word for word in argv):
        raise ValueError("an argument cannot hold a NUL")
    return shlex.join(argv)
