"""Locks that die with the process that holds them, and say who that is.

None outlives a crash, so there is deliberately no way to break one.
"""

import fcntl
import getpass
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nixkube_deploy.model.codec import from_plain, to_plain
from nixkube_deploy.model.error import DeployError, Locked
from nixkube_deploy.ports.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock; written beside it for whoever finds it held."""

    pid: int
    host: str
    user: str
    since: float
    """Seconds since the epoch, UTC."""

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, tz=UTC)
        return f"{self.user}, process {self.pid} on {self.host}, since {since:%Y-%m-%d %H:%M:%S} UTC"


@contextmanager
def lock_inventory(state: Path, inventory: str, clock: Clock) -> Iterator[None]:
    """One controller an inventory, on this machine, for the length of the block.

    Raises:
        Locked: another controller is at work; the message names it.
    """
    directory = private_directory(state / "locks")
    path = directory / f"{hashlib.sha256(inventory.encode()).hexdigest()[:16]}.lock"
    with explained(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with closing(descriptor), held(descriptor, path, inventory, clock):
        yield


@contextmanager
def closing(descriptor: int) -> Iterator[None]:
    """Close a descriptor, and with it give up its lock, at the end of the block."""
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held(descriptor: int, path: Path, what: str, clock: Clock) -> Iterator[None]:
    """Hold the lock of an open file for the length of the block; it ends with the process, however that ends."""
    beside = path.with_suffix(".holder")
    with explained(path):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _locked(what, _read_holder(beside)) from None
    _write_holder(beside, clock)
    try:
        yield
    finally:
        beside.unlink(missing_ok=True)


def holder_of(path: Path) -> Holder | None:
    """Who works on a journal now, as far as can be told without taking its lock; None: nobody does.

    Who was killed has left a name and no process. Of another machine's process nothing is known but its name.
    """
    holder = _read_holder(path.with_suffix(".holder"))
    if holder is None or holder.host != socket.gethostname():
        return holder
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # Somebody else's, and alive.
        return holder
    return holder


def private_directory(path: Path) -> Path:
    """The directory, made if need be, readable by its owner only.

    Raises:
        DeployError: it cannot be made.
    """
    with explained(path):
        for directory in (path.parent, path):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say which state file could not be used, and where such files are kept."""
    try:
        yield
    except OSError as error:
        raise DeployError(
            f"{path}: {error.strerror}",
            hint="journals and locks are kept in the directory NIXKUBE_DEPLOY_STATE names; it must be writable",
        ) from error


def _locked(what: str, holder: Holder | None) -> Locked:
    if holder is None:
        return Locked(f"{what} is being worked on by somebody who has left no name")
    hint = f"wait for it, or end it with: kill -INT {holder.pid} (on {holder.host})"
    return Locked(f"{what} is being worked on by {holder}", hint=hint)


def _write_holder(path: Path, clock: Clock) -> None:
    holder = Holder(pid=os.getpid(), host=socket.gethostname(), user=user_name(), since=clock.now().timestamp())
    with suppress(OSError):  # A courtesy: the lock holds without it.
        path.touch(mode=0o600)
        path.write_text(json.dumps(to_plain(holder)), encoding="utf-8")


def _read_holder(path: Path) -> Holder | None:
    try:
        holder: Holder = from_plain(Holder, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return holder


def user_name() -> str:
    """Who runs this, for people who find their way blocked."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container whose user has no name.
        return f"user {os.getuid()}"
