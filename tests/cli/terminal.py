"""A program in a pseudo-terminal, answered when it asks."""

import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from fcntl import ioctl


def in_a_terminal(
    argv: Sequence[str],
    environment: dict[str, str],
    *,
    answer: str = "",
    when: str = "",
    size: tuple[int, int] = (40, 120),
    timeout: float = 60,
) -> tuple[int, str]:
    """Run ``argv``; type ``answer`` once ``when`` is on the screen. Exit code and everything it wrote."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    environment = {**environment, "TERM": "xterm-256color"}
    environment.pop("CI", None)  # There, lines are plain even in a terminal.
    process = subprocess.Popen(argv, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said, asked, deadline = "", not answer, time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    data = os.read(ours, 65536)
                except OSError:  # Linux reports the end of a terminal's other side as an error.
                    break
                said += data.decode(errors="replace")
            if not asked and when in said:
                os.write(ours, answer.encode())
                asked = True
        return process.wait(timeout=10), said
    finally:
        process.kill()
        os.close(ours)
