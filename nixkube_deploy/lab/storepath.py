"""Store paths: the names Nix gives to what it makes.

Hashes here are deterministic and in Nix's alphabet, but they are the lab's own: no real Nix would compute the same.
"""

import hashlib

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
    """A believable size in bytes, always the same for the same path."""
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
    base = path.rsplit("-", 1)[0]
    if "linux-" in path:
        return 14_000_000 + seed % 2_000_000
    if "-unit-" in path or base.endswith(("-etc", "system-units")):
        return 600 + seed % 9_000
    return 40_000 + seed % 24_000_000
