"""What travels with an installation, in a private folder for as long as its phase: files, secrets, the new host key.

The private host key is kept nowhere else: a phase that is begun again makes a new one, and pins that. Nothing here is
ever an argument of a program, except the paths.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio.to_thread

from nixkube_deploy.model.action import InstallPhase
from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import BootstrapSettings, Host
from nixkube_deploy.model.secret import Secret, SecretRef
from nixkube_deploy.ports.process import Invocation, Processes

Resolve = Callable[[SecretRef], Awaitable[Secret]]

HOST_KEY: Final = "etc/ssh/ssh_host_ed25519_key"
_PREFIX: Final = "nixkube-install-"
_KEYGEN_TIMEOUT: Final = 60.0
_SECRET: Final = 0o600
_OPEN_FOLDER: Final = 0o755
"""tar gives the folders of the new system the modes that these have."""
_SHARED_FOLDERS: Final = ("etc", "etc/ssh", "home", "nix", "opt", "srv", "usr", "var", "var/lib", "var/log")
_PRIVATE_FOLDERS: Final = frozenset({"root"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """Paths on the controller, for one phase."""

    extra_files: str | None = None
    disk_keys: tuple[tuple[str, str], ...] = ()
    host_key: str | None = None
    """The public key that the installed system will show."""


@asynccontextmanager
async def staged(host: Host, phase: InstallPhase, processes: Processes, resolve: Resolve) -> AsyncIterator[Staging]:
    """What ``phase`` is to be handed, for the length of the block.

    Raises:
        TaskError: PREFLIGHT, a secret or the folder of extra files cannot be read.
    """
    settings = host.bootstrap or BootstrapSettings()
    folder = await anyio.to_thread.run_sync(_private_folder)
    try:
        if phase is InstallPhase.DISKO:
            yield Staging(disk_keys=await _disk_keys(settings, folder, resolve))
        else:
            yield await _extra_files(host, settings, folder, processes, resolve)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))


async def _disk_keys(settings: BootstrapSettings, folder: Path, resolve: Resolve) -> tuple[tuple[str, str], ...]:
    made: list[tuple[str, str]] = []
    for number, (remote, reference) in enumerate(settings.disk_encryption_keys.items()):
        local = folder / f"disk-key-{number}"
        await _write(local, (await resolve(reference)).reveal())
        made.append((remote, str(local)))
    return tuple(made)


async def _extra_files(
    host: Host, settings: BootstrapSettings, folder: Path, processes: Processes, resolve: Resolve
) -> Staging:
    root = folder / "root"
    await anyio.to_thread.run_sync(_copied, host, settings.extra_files, root)
    for path, reference in settings.secrets.items():
        await _write(root / path.lstrip("/"), (await resolve(reference)).reveal(), root)
    key = root / HOST_KEY
    if settings.host_key is not None:
        await _write(key, (await resolve(settings.host_key)).reveal() + "\n", root)
    elif not key.exists():
        await anyio.to_thread.run_sync(_folders, key.parent, root)
        await _keygen(host, processes, "-q", "-t", "ed25519", "-N", "", "-C", f"root@{host.name}", "-f", str(key))
    await anyio.to_thread.run_sync(key.chmod, _SECRET)
    public = await _keygen(host, processes, "-y", "-P", "", "-f", str(key))
    line = " ".join(public.split()[:2])
    await anyio.to_thread.run_sync(key.with_name(f"{key.name}.pub").write_text, f"{line} root@{host.name}\n")
    return Staging(extra_files=str(root), host_key=line)


async def _keygen(host: Host, processes: Processes, *arguments: str) -> str:
    result = await processes.run(Invocation(argv=("ssh-keygen", *arguments), timeout=_KEYGEN_TIMEOUT))
    if result.ok:
        return result.stdout
    raise task_error(
        FailureKind.PREFLIGHT,
        f"ssh-keygen makes nothing of the host key of {host.name}",
        expected="a private key in OpenSSH's format, without a passphrase",
        evidence=result.tail(),
        exit_code=result.exit_code,
        next="change bootstrap.host_key, or remove it: then a key is made",
    )


def _private_folder() -> Path:
    """A new one, in memory where there is such a place; those of controllers that were killed are removed."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    for left in base.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and left.stat().st_uid == os.getuid() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))


def _copied(host: Host, source: str | None, root: Path) -> None:
    if source is None:
        root.mkdir(mode=_OPEN_FOLDER)
    else:
        try:
            shutil.copytree(source, root, symlinks=True)
        except OSError as error:
            raise task_error(
                FailureKind.PREFLIGHT,
                f"the extra files of {host.name} cannot be read: {source}",
                seen=str(error),
                next=f"ls -lR {source}",
            ) from error
    for folder in (root, *(root / name for name in _SHARED_FOLDERS)):
        if folder.is_dir():
            folder.chmod(_OPEN_FOLDER)  # Under a strict umask they are private, and so would be the system's.


async def _write(path: Path, text: str, root: Path | None = None) -> None:
    await anyio.to_thread.run_sync(_write_now, path, text, root)


def _write_now(path: Path, text: str, root: Path | None) -> None:
    if root is not None:
        _folders(path.parent, root)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _SECRET), "w") as file:
        file.write(text)


def _folders(folder: Path, root: Path) -> None:
    """Make the folders above a file; those that are there keep their modes."""
    if folder.exists():
        return
    _folders(folder.parent, root)
    folder.mkdir()
    folder.chmod(0o700 if folder.name in _PRIVATE_FOLDERS and folder.parent == root else _OPEN_FOLDER)
