"""YAML as inventories mean it: the 1.2 core schema, in which ``on`` is a word and ``22:00`` is no number.

It checks nothing; the inventory's own reader has done that before.
"""

import re
from typing import Any

import yaml

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Loader(_SafeLoader):  # type: ignore[misc]  # Which of the two it is, is known at run time.
    """Resolves plain words as YAML 1.2 does."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (replaces the base's, is never changed again)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:|~|null|Null|NULL)$"), ["", "~", "n", "N"])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def read(text: str) -> Any:
    """Plain data."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (derived from the safe loader)


def write(plain: object) -> str:
    """Text that ``read`` and every other YAML reader understands alike."""
    return str(yaml.dump(plain, Dumper=_SafeDumper, sort_keys=False, width=120, allow_unicode=True))
