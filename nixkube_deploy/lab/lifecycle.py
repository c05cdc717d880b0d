"""Starting and stopping a lab's process from outside it.

It looks after stale sockets and half-dead processes, so that commands need not.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nixkube_deploy.lab.control import NotRunning, ask
from nixkube_deploy.lab.daemon import LEASH, PID, READY, SETTINGS, write_settings
from nixkube_deploy.lab.world import Wishes

START_SECONDS = 60.0
STOP_SECONDS = 10.0


class LabError(Exception):
    """A command on the lab cannot go on."""

    def __init__(self, message: str, hint: str = "", code: int = 2) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


def is_running(folder: Path) -> bool:
    """Whether a lab answers. A socket that a killed lab left behind does not."""
    try:
        return bool(list(ask(folder, {"op": "status"}, timeout=5.0)))
    except NotRunning:
        return False


@contextlib.contextmanager
def lasting(folder: Path, inventory: str, wishes: Wishes) -> Iterator[None]:
    """A lab for the length of a block. It ends with this process too, however that ends: its leash is a pipe."""
    reading, writing = os.pipe()
    try:
        try:
            start(folder, inventory, wishes, leash=reading)
        finally:
            os.close(reading)
        yield
    finally:
        os.close(writing)
        _wait_for_end(folder)


def start(folder: Path, inventory: str, wishes: Wishes, *, leash: int | None = None) -> None:
    """Start the daemon and wait until every port listens; raises LabError with its reason.

    ``leash`` is a descriptor whose end of file ends the daemon; without it the lab stays up until it is stopped.
    """
    with _one_at_a_time(folder):
        if is_running(folder):
            raise LabError(f"a lab is already up in {folder}", f"nixkube-lab down --dir {folder}")
        write_settings(folder, inventory, wishes)
        reading, writing = os.pipe()
        try:
            process = _spawn(folder, writing, leash)
        finally:
            os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as report:
            answer = report.read().strip()
        if answer != READY:
            process.wait(STOP_SECONDS)
            message, _, hint = answer.partition("\nhint: ")
            raise LabError(message or f"the lab ended before it was ready; see {folder / 'lab.log'}", hint)


def _spawn(folder: Path, writing: int, leash: int | None) -> "subprocess.Popen[bytes]":
    """A process of its own session: closing the terminal does not end it."""
    flags = [LEASH] if leash is not None else []
    with (folder / "lab.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "nixkube_deploy.lab.daemon", os.fspath(folder), str(writing), *flags],
            stdin=subprocess.DEVNULL if leash is None else leash,
            stdout=log,
            stderr=log,
            pass_fds=(writing,),
            start_new_session=True,
        )


def _wait_for_end(folder: Path) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while (folder / PID).exists() and time.monotonic() < deadline:
        time.sleep(0.02)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stop(folder: Path) -> None:
    """End the daemon and wait for its last save; raises LabError when there is none."""
    try:
        answer = next(iter(ask(folder, {"op": "stop"})), {})
    except NotRunning:
        state = "is not up" if (folder / SETTINGS).exists() else "was never up"
        raise LabError(f"the lab in {folder} {state}", f"nixkube-lab up INVENTORY --dir {folder}") from None
    pid = int(answer.get("pid", 0))
    deadline = time.monotonic() + STOP_SECONDS
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """A zombie is not alive, even if nobody has collected it yet."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    if Path("/proc/self").exists():
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
