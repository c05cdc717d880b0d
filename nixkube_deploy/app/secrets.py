"""Secret references to secrets, at the moment they are needed. Values are never kept, logged or put into argv."""

import os
from pathlib import Path

import anyio

from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.secret import Secret, SecretFromCommand, SecretFromEnv, SecretFromFile, SecretRef

COMMAND_TIMEOUT = 60.0
"""Seconds a secret's command may take (a password manager may ask for a touch)."""


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
        text = await anyio.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise task_error(
            FailureKind.PREFLIGHT,
            f"the secret file {path} cannot be read",
            seen=str(error),
            next=f"ls -l {Path(path).parent}",
        ) from error
    return Secret(text.removesuffix("\n"))


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
    return Secret(result.stdout.decode().removesuffix("\n"))
