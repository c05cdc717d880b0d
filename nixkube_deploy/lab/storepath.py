"""Store paths: the names Nix gives to what it makes.

Hashes here are deterministic and in Nix's alphabet, but they are the lab's own: no real Nix would compute the same.
"""

import hashlib
import re

STORE = "/nix/store"
_ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"
_LENGTH = 32


def store_hash(*ingredients: str) -> str:
    """32 characters that change whenever an ingredient does."""
    digest = hashlib.sha256("\0".join(ingredients).encode()).digest()[:20]
    number = int.from_bytes(digest, "big")
    return "".join(_ALPHABET[(number >> (5 * index)) & 31] for index in reversed(range(_LENGTH)))


def store_path(name: str, *ingredients: str) -> str:
    """``/nix/store/<hash>-<name>``."""
    return f"{STORE}/{store_hash(name, *ingredients)}-{name}"


def top_of(path: str) -> str | None:
    """The store path a file lies in; None outside the store."""
    if not path.startswith(STORE + "/"):
        return None
    return "/".join(path.split("/")[:4])


def is_store_path(path: str) -> bool:
    """Whether this is exactly one path of the store."""
    base = path.removeprefix(STORE + "/")
    return (
        path != base and "/" not in base and len(base) > _LENGTH + 1 and base[_LENGTH] == "-" and base[0] in _ALPHABET
    )


def nar_size(path: str) -> int:
    """A believable size in bytes, always the same for the same path; versions of a package weigh about the same."""
    name = path.removeprefix(STORE + "/").partition("-")[2]
    package = re.split(r"-(?=[0-9])", name, maxsplit=1)[0]
    noise = _number(path)
    if "linux-" in name:
        return 14_000_000 + noise % 400_000
    if package in _PLUMBING or package.startswith(("unit-", "nixos-system-")):
        return 600 + noise % 4_000
    return 40_000 + _number(package) % 24_000_000 + noise % 150_000


_PLUMBING = frozenset({"disko", "etc", "system-path", "system-units"})


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
