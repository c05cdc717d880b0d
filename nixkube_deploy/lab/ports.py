"""TCP ports for hosts: below the range the kernel hands out by itself, so that a host finds its port again."""

import random
import socket
from collections.abc import Collection

_LOWEST, _HIGHEST = 12_000, 31_500


def free_ports(count: int, taken: Collection[int], chance: random.Random) -> list[int]:
    """So many ports on which nothing listens now, next to each other where possible."""
    found: list[int] = []
    candidate = chance.randrange(_LOWEST, _HIGHEST)
    while len(found) < count:
        candidate = candidate + 1 if candidate < _HIGHEST else _LOWEST
        if candidate not in taken and _is_free(candidate):
            found.append(candidate)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
