"""What each host ran when this controller last looked: enough to guess what must be built, never to decide on a change.

It keeps no history, and losing it costs nothing but a moment.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nixkube_deploy.model.names import HostName, StorePath

_VERSION: Final = 1


class LastSeen:
    """One small file an inventory, in the state directory; without a folder nothing is remembered."""

    def __init__(self, folder: Path | None = None, inventory: str = "") -> None:
        name = hashlib.sha256(inventory.encode()).hexdigest()[:16]
        self._file = folder / f"{name}.json" if folder is not None else None

    def read(self) -> Mapping[HostName, StorePath]:
        """Host to the system it ran; nothing where the file is missing, or is not what was written."""
        if self._file is None:
            return {}
        try:
            data = json.loads(self._file.read_text())
            hosts = data["hosts"] if data["version"] == _VERSION else {}
            return {HostName(str(name)): StorePath(str(path)) for name, path in hosts.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def note(self, ran: Mapping[HostName, StorePath]) -> None:
        """Remember these too. A disk that is full is no reason to stop: it is only a guess that is lost."""
        known = self.read()
        now = {**known, **ran}
        if self._file is None or now == known:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, written = tempfile.mkstemp(dir=self._file.parent, prefix=".")
            try:
                with os.fdopen(handle, "w") as file:
                    json.dump({"version": _VERSION, "hosts": now}, file)
                Path(written).replace(self._file)
            except OSError:
                Path(written).unlink(missing_ok=True)
