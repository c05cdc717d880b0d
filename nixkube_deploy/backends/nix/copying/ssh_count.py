"""Runs ``ssh`` for one ``nix copy`` and counts the bytes it is given.

It is run by its path, isolated and without site-packages, so that it starts in milliseconds; it decides nothing. What
it is not meant for (another destination) goes to the real ``ssh`` unchanged.
"""

import os
import socket
import sys
import time

_CHUNK = 1 << 18
_TOLD = 1 << 20
_PAUSE = 0.25
"""Bytes and seconds after which the tally is told."""
_FAILED = 255
"""What ``ssh`` itself ends with when it could not do its work."""


def main() -> int:
    """Until the real one is done."""
    own, wanted = os.environ["NIXKUBE_WIRE_PROGRAMS"], os.environ["NIXKUBE_WIRE_DESTINATION"]
    os.environ["PATH"] = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != own)
    if wanted not in sys.argv[1:]:
        os.execvp("ssh", ["ssh", *sys.argv[1:]])  # noqa: S606 (what Nix would have run without us)
    if "-O" in sys.argv[1:]:  # Newer versions of Nix ask whether a ControlMaster runs, before they connect.
        os.execvp("ssh", ["ssh", *sys.argv[1:]])  # noqa: S606 (what Nix would have run without us)
    link = socket.socket(socket.AF_UNIX)
    link.connect(os.environ["NIXKUBE_WIRE_SOCKET"])
    return _count(link)


def _count(link: socket.socket) -> int:
    """The real ``ssh``, with a tally of what it is given."""
    ours, its = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(ours, 0)
        os.close(its)
        try:
            os.execvp("ssh", ["ssh", *sys.argv[1:]])  # noqa: S606 (what Nix would have run without us)
        finally:
            os._exit(_FAILED)
    os.close(ours)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Nix must see ``ssh`` end, not us.
    untold, told = 0, time.monotonic()
    try:
        while data := os.read(0, _CHUNK):
            _write(its, data)
            untold += len(data)
            if untold >= _TOLD or time.monotonic() - told > _PAUSE:  # Each word of it wakes the controller.
                link.sendall(untold.to_bytes(4, "big"))
                untold, told = 0, time.monotonic()
        link.sendall(untold.to_bytes(4, "big"))
    except BrokenPipeError:
        pass  # It ended; its exit code tells the rest.
    os.close(its)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF


def _write(to: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(to, view) :]


if __name__ == "__main__":
    try:
        code = main()
    except (OSError, KeyError) as error:
        sys.stderr.write(f"ssh: the connection to nixkube-deploy broke off: {error}\n")
        code = _FAILED
    os._exit(code)
