"""HTTP requests of the user's gates."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status code and the first 64 KiB of the body; ``error`` instead when no answer came."""

    status: int = 0
    body: str = ""
    error: str = ""


class Web(Protocol):
    """GET, nothing more."""

    async def get(self, url: str, timeout: float) -> Answer:
        """Ask once; never raises for what the network does."""
        ...
