"""Evaluations of locked flakes, kept in the state directory: what has not changed is not evaluated again.

Only pure evaluation of a flake that is known by its content is kept, and an entry counts only while its derivation is
in the store. Whether a flake may be kept is the evaluator's decision.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from nixkube_deploy.backends.nix.evaluation import expressions
from nixkube_deploy.backends.nix.program import parsed
from nixkube_deploy.backends.nix.store import StoreFiles
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName

_KEPT: Final = 20
"""Flakes; the ones used last."""


class EvaluationCache:
    """One file a flake, named by everything that an evaluation depends on."""

    def __init__(self, folder: Path, files: StoreFiles) -> None:
        self._folder, self._files = folder, files

    @staticmethod
    def key(*parts: str) -> str:
        """A file's name for the flake's identity, the program's version and its settings."""
        text = json.dumps([expressions.VERSION, expressions.SELECT, *parts])
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def find(self, key: str, hosts: Sequence[Host]) -> dict[HostName, Evaluated]:
        """What is known of these hosts, and still true."""
        entries, found = self._read(key), dict[HostName, Evaluated]()
        for host in hosts:
            one = expressions.evaluated(host, entries.get(host.flake_attr))
            if one is not None and one.drv.startswith("/nix/store/") and self._files.holds(one.drv):
                found[host.name] = one
        if found:
            with contextlib.suppress(OSError):
                os.utime(self._file(key))
        return found

    def keep(self, key: str, evaluated: Iterable[Evaluated]) -> None:
        """Add these to what is known.

        Raises:
            OSError: they cannot be written.
        """
        entries = dict(self._read(key))
        for one in evaluated:
            entries[one.attr] = {"drvPath": one.drv, "out": one.out, "system": one.system}
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._folder, prefix=".", delete=False) as file:
            try:
                json.dump(entries, file)
                file.flush()
                Path(file.name).replace(self._file(key))
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
        self._forget()

    def drop(self, key: str) -> None:
        """Know nothing of a flake any more."""
        self._file(key).unlink(missing_ok=True)

    def _forget(self) -> None:
        ages: list[tuple[float, Path]] = []
        for file in self._folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # Another run has just forgotten it.
                ages.append((file.stat().st_mtime, file))
        for _, file in sorted(ages, reverse=True)[_KEPT:]:
            file.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _read(self, key: str) -> Mapping[str, Any]:
        """Nothing, when the file is not what was written."""
        try:
            data = parsed(self._file(key).read_text())
        except (OSError, UnicodeDecodeError):
            return {}
        return data if isinstance(data, Mapping) else {}
