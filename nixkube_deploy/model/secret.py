"""Secrets are references in the inventory and ``Secret`` in memory; neither is ever printed or serialised."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFromEnv:
    """The value of an environment variable of the controller."""

    env: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFromFile:
    """The content of a file on the controller, without the last newline."""

    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFromCommand:
    """The standard output of a command on the controller, without the last newline."""

    command: tuple[str, ...]


SecretRef = SecretFromEnv | SecretFromFile | SecretFromCommand


class Secret:
    """A resolved secret. ``reveal()`` is the only way to its value; everything else shows ``***``."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a Secret is never serialised")
