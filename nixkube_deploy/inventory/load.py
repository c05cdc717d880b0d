"""The way in: a path (or a text, or a command) to a Fleet.

Whatever is wrong with it, the answer is one InventoryError (exit code 2), soon. It touches no host.
"""

import contextlib
import stat
from dataclasses import dataclass
from pathlib import Path

from nixkube_deploy.inventory.assemble import Layers, assemble
from nixkube_deploy.inventory.command import PREFIX, source_of_command, split_command
from nixkube_deploy.inventory.error import InventoryError, closest, printable
from nixkube_deploy.inventory.grammar import INVENTORY
from nixkube_deploy.inventory.sections import Section
from nixkube_deploy.inventory.shape import At
from nixkube_deploy.inventory.source import LARGEST, Source, source_of_bytes, source_of_text
from nixkube_deploy.inventory.tree import compose
from nixkube_deploy.model.fleet import Fleet

_EXECUTABLE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where every setting of every host came from; ``explain`` prints it."""

    source: Source
    layers: Layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A parsed inventory. ``digest`` is the SHA-256 of its text."""

    fleet: Fleet
    digest: str
    provenance: Provenance


def load_fleet(path: Path | str, *, text: str | None = None) -> Loaded:
    """The fleet that ``path`` describes.

    A path may be a YAML or JSON file, an executable file that begins with ``#!``, or ``command:PROGRAM ARGUMENTS``; the
    latter two print the same structure as JSON. ``text``, when given, is what the file would contain.

    Raises:
        InventoryError: it cannot be read, or it is wrong.
    """
    name = str(path)
    if text is not None:
        return parse(source_of_text(text, name, Path(path).absolute().parent), str(Path(path).absolute()))
    if name.startswith(PREFIX):
        return parse(source_of_command(split_command(name), name, Path.cwd()), name)
    return parse(_read(Path(path)), str(Path(path).absolute()))


def parse(source: Source, name: str) -> Loaded:
    """The fleet in ``source``; ``name`` becomes ``Fleet.source``.

    Raises:
        InventoryError: it is wrong.
    """
    found = INVENTORY.read(compose(source), At(source))
    assert isinstance(found, Section)
    assembled = assemble(found, source, name)
    provenance = Provenance(source=source, layers=assembled.layers)
    return Loaded(fleet=assembled.fleet, digest=source.digest, provenance=provenance)


def _read(path: Path) -> Source:
    name, folder = str(path), path.absolute().parent
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        executable = bool(path.stat().st_mode & _EXECUTABLE)
    except FileNotFoundError:
        raise InventoryError(f"there is no file {printable(name)}", hint=_near(path)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InventoryError(f"cannot read {printable(name)}: {reason}") from None
    if data.startswith(b"#!"):
        if executable:
            return source_of_command((str(path.absolute()),), name, folder)
        hint = f"chmod +x {name}"
        raise InventoryError("the file begins with #! but may not be executed", where=name, hint=hint)
    return source_of_bytes(data, name, folder)


def _near(path: Path) -> str:
    """A file beside it that was likely meant, or where to read what an inventory is."""
    with contextlib.suppress(OSError):
        beside = (each.name for each in path.absolute().parent.iterdir() if each.is_file())
        if guess := closest(path.name, beside):
            return f"did you mean {printable(str(path.with_name(guess)))}?"
    return "an inventory is a YAML file: docs/inventory.md describes it, inventories/homelab.yaml is one to copy"
