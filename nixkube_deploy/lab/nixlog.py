"""What a stand-in Nix says while it builds: as a person reads it, or as ``--log-format internal-json``.

It builds nothing, and has one build at a time.
"""

import json
from collections.abc import Callable, Sequence

LOG: Sequence[str] = ("building the system configuration...",)
FAILURE = "error: the build was told to fail"
_BUILDS, _BUILD = 104, 105
_LOG_LINE, _PROGRESS = 101, 105


class NixLog:
    """The standard error of one ``nix build`` or ``nix-store --realise``; nothing at all where nothing is built."""

    def __init__(self, err: Callable[[str], None], *, as_json: bool, expected: int) -> None:
        self._err, self._json, self._expected = err, as_json, expected
        self._done = self._failed = self._id = 0

    def begins(self, drv: str) -> None:
        """One derivation's builder starts, and prints."""
        if not self._json:
            self._err(f"building '{drv}'...\n")
            return
        if not self._id:
            self._id = 1
            self._tell("start", id=1, level=0, text="", type=_BUILDS)
        self._id += 1
        self._tell("start", id=self._id, level=3, text=f"building '{drv}'", type=_BUILD, fields=[drv, "", 1, 1])
        self._count(running=1)
        self._say(*LOG)

    def ends(self) -> None:
        """It went well."""
        if self._json:
            self._done += 1
            self._count(running=0)
            self._tell("stop", id=self._id)

    def fails(self, drv: str, why: str) -> None:
        """It did not; the text has the log's end in it only where nobody could read the log itself."""
        failed = f"builder for '{drv}' failed with exit code 1"
        if not self._json:
            quoted = "".join(f"       > {line}\n" for line in (*LOG, why))
            advice = f"       For full logs, run 'nix log {drv}'.\n"
            self._err(f"error: {failed};\n       last {len(LOG) + 1} log lines:\n{quoted}{advice}")
            return
        self._say(why)
        self._failed += 1
        self._expected -= 1
        self._count(running=0)
        self._tell("msg", level=0, msg=f"\x1b[31;1merror:\x1b[0m {failed}", raw_msg=failed)
        self._tell("stop", id=self._id)

    def _say(self, *lines: str) -> None:
        for line in lines:
            self._tell("result", id=self._id, type=_LOG_LINE, fields=[line])

    def _count(self, running: int) -> None:
        self._tell("result", id=1, type=_PROGRESS, fields=[self._done, self._expected, running, self._failed])

    def _tell(self, action: str, **what: object) -> None:
        self._err("@nix " + json.dumps({"action": action, **what}, separators=(",", ":")) + "\n")
