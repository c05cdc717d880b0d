"""An inventory that a program prints as JSON: Terraform's output, a cloud's list, a script.

The program runs with a deadline and bounded output. What it prints is laid out one key a line and then read as any
inventory is, so errors have lines and carets. It deliberately trusts nothing that comes out.
"""

import json
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nixkube_deploy.inventory.error import InventoryError, printable, quote
from nixkube_deploy.inventory.source import LARGEST, Source, source_of_text
from nixkube_deploy.inventory.tree import DEEPEST, MOST_VALUES

PREFIX = "command:"
DEADLINE = 60.0
"""Seconds."""

_CHUNK = 65536
_EVIDENCE = 10
_NOTE = "what the command printed, one key a line"
# Line breaks in YAML, not in JSON: escaped, so that both read the same text.
_ESCAPES = {0x7F: "\\u007f", 0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029", 0xFEFF: "\\ufeff"}


def split_command(text: str) -> tuple[str, ...]:
    """The argv in ``command:PROGRAM ARGUMENT...``, quoted as in a shell.

    Raises:
        InventoryError: no program, or quotes that do not close.
    """
    try:
        argv = tuple(shlex.split(text.removeprefix(PREFIX)))
    except ValueError as error:
        raise InventoryError(f"cannot split {quote(text)}: {error}") from None
    if not argv:
        raise InventoryError("no program after `command:`", hint='write "command:PROGRAM ARGUMENTS"')
    return argv


def source_of_command(argv: Sequence[str], name: str, cwd: Path, deadline: float = DEADLINE) -> Source:
    """Run the program and take its standard output as the inventory.

    Raises:
        InventoryError: it cannot start, fails, takes too long, prints too much or no JSON.
    """
    printed = _run(argv, name, cwd, deadline)
    try:
        data = json.loads(printed.decode(), object_pairs_hook=_object, parse_constant=_reject_constant)
    except UnicodeDecodeError:
        raise InventoryError("the command printed something that is not UTF-8", where=name) from None
    except _TwiceError as error:
        raise InventoryError(
            f"the command printed the key {quote(str(error))} twice in one object", where=name
        ) from None
    except RecursionError:
        raise InventoryError(f"the command's JSON is nested deeper than {DEEPEST} levels", where=name) from None
    except ValueError as error:
        hint = "an inventory command prints the inventory's structure as JSON, and nothing else, on standard output"
        raise InventoryError(f"the command printed no valid JSON: {error}", where=name, hint=hint) from None
    _reject_monster(data, name)
    text = json.dumps(data, indent=2, ensure_ascii=False).translate(_ESCAPES)
    return source_of_text(text + "\n", name, cwd, note=_NOTE, largest=8 * LARGEST)


@dataclass(slots=True)
class _Output:
    """What a program has printed so far; standard error keeps only its end."""

    stdout: bytes = b""
    stderr: bytes = b""


def _run(argv: Sequence[str], name: str, cwd: Path, deadline: float) -> bytes:
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InventoryError(f"cannot run {quote(argv[0])}: {reason}", where=name) from None
    output = _Output()
    try:
        with process:
            try:
                _collect(process, output, time.monotonic() + deadline)
            finally:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
    except TimeoutError:
        _fail(f"the command did not end within {deadline:g} s", output, name)
    if len(output.stdout) > LARGEST:
        _fail(f"the command printed an inventory larger than {LARGEST // 1024**2} MiB", output, name)
    if process.returncode != 0:
        _fail(f"the command ended with exit code {process.returncode}", output, name)
    return output.stdout


def _collect(process: subprocess.Popen[bytes], output: _Output, until: float) -> None:
    """Read both streams to their ends and wait; TimeoutError when ``until`` passes. Too much ends it early."""
    chunks, size = [], 0
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(until - time.monotonic())
            if not ready or time.monotonic() > until:
                raise TimeoutError
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    chunks.append(chunk)
                    size += len(chunk)
                else:
                    output.stderr = (output.stderr + chunk)[-_CHUNK:]
            if size > LARGEST:
                break
    output.stdout = b"".join(chunks)
    if size <= LARGEST:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
            return
        raise TimeoutError


def _fail(problem: str, output: _Output, name: str) -> NoReturn:
    lines = output.stderr.decode(errors="replace").splitlines()[-_EVIDENCE:]
    raise InventoryError(problem, where=name, snippet="\n".join(f"  | {printable(line)[:200]}" for line in lines))


class _TwiceError(Exception):
    """A key is twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _TwiceError(key)
            seen.add(key)
    return found


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _reject_monster(data: Any, name: str) -> None:
    """Bound depth and number of values before the text is laid out, for that is where they would cost."""
    level, values = [data], 0
    for _ in range(DEEPEST + 1):
        values += len(level)
        if values > MOST_VALUES:
            raise InventoryError(f"the command printed more than {MOST_VALUES:,} values", where=name)
        lists = [item for item in level if isinstance(item, list)]
        tables = [item.values() for item in level if isinstance(item, dict)]
        level = [inner for items in [*lists, *tables] for inner in items]
        if not level:
            return
    raise InventoryError(f"the command's JSON is nested deeper than {DEEPEST} levels", where=name)
