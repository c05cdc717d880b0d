"""Secret references to secrets, at the moment they are needed. Values are never logged or put into argv."""

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.secret import Secret, SecretFromCommand, SecretFromEnv, SecretFromFile, SecretRef

COMMAND_TIMEOUT = 60.0
"""Seconds a secret's command may take (a password manager may ask for a touch)."""


@contextmanager
def secrets_of(hosts: Iterable[Host]) -> Iterator[Callable[[SecretRef], Awaitable[Secret]]]:
    """How these hosts' references are resolved, for the length of the block.

    Meanwhile the variables that hold secrets are not in the environment: no program that is started inherits one.
    """
    references = {reference for host in hosts for reference in _references(host)}
    names = {reference.env for reference in references if isinstance(reference, SecretFromEnv)}
    taken = {name: Secret(os.environ.pop(name)) for name in names & set(os.environ)}

    async def resolve(reference: SecretRef) -> Secret:
        if isinstance(reference, SecretFromEnv) and reference.env in taken:
            return taken[reference.env]
        return await resolve_secret(reference)

    try:
        yield resolve
    finally:
        os.environ.update((name, secret.reveal()) for name, secret in taken.items())


def _references(host: Host) -> Iterator[SecretRef | None]:
    yield host.privilege_password
    if host.bootstrap is not None:
        yield host.bootstrap.host_key
        yield from host.bootstrap.secrets.values()
        yield from host.bootstrap.disk_encryption_keys.values()


async def resolve_secret(reference: SecretRef) -> Secret:
    """The value behind a reference.

    Raises:
        TaskError: PREFLIGHT, naming the reference and never the value.
    """
    match reference:
        case SecretFromEnv(env=name):
            value = os.environ.get(name)
            if value is None:
                raise task_error(
                    FailureKind.PREFLIGHT,
                    f"the secret {{env: {name}}} is not set",
                    next=f"export {name}=...",
                )
            return Secret(value)
        case SecretFromFile(file=path):
            return await _from_file(path)
        case SecretFromCommand(command=argv):
            return await _from_command(argv)


async def _from_file(path: str) -> Secret:
    try:
        data = await anyio.Path(path).read_bytes()
    except OSError as error:
        raise task_error(
            FailureKind.PREFLIGHT,
            f"the secret file {path} cannot be read",
            seen=str(error),
            next=f"ls -l {Path(path).parent}",
        ) from error
    return _decoded(data, f"the secret file {path}")


async def _from_command(argv: tuple[str, ...]) -> Secret:
    try:
        with anyio.fail_after(COMMAND_TIMEOUT):
            result = await anyio.run_process(list(argv), check=False)
    except (OSError, TimeoutError) as error:
        seen = f"no answer within {COMMAND_TIMEOUT:.0f} s" if isinstance(error, TimeoutError) else str(error)
        raise task_error(FailureKind.PREFLIGHT, f"the secret's command {argv[0]!r} gave no value", seen=seen) from error
    if result.returncode != 0:
        raise task_error(
            FailureKind.PREFLIGHT,
            f"the secret's command {argv[0]!r} failed",
            seen=f"exit code {result.returncode}",
            exit_code=result.returncode,
        )
    return _decoded(result.stdout, f"what the secret's command {argv[0]!r} printed")


def _decoded(data: bytes, what: str) -> Secret:
    """Python's own error would carry the bytes; that there was one is all that leaves this function."""
    try:
        return Secret(data.decode().removesuffix("\n"))
    except UnicodeDecodeError:
        pass
    raise task_error(FailureKind.PREFLIGHT, f"{what} is not text", expected="UTF-8", next="check what it refers to")
