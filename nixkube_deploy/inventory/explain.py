"""Why a host is configured as it is: each effective value, and the place it came from.

Walks the same grammar that the parser reads with, so no setting can be left out. It prints text, and decides nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nixkube_deploy.inventory.error import did_you_mean, listing, printable, quote
from nixkube_deploy.inventory.grammar import HOST
from nixkube_deploy.inventory.load import Loaded
from nixkube_deploy.inventory.sections import Found, Layer, Section, bare
from nixkube_deploy.inventory.shape import NO_DEFAULT, Field, Record, Shape, TableOf
from nixkube_deploy.inventory.source import Source
from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.names import HostName

_UNSET = "-"
_WIDEST = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One effective value."""

    name: str
    """A dotted path, ``ssh.port``."""
    value: str
    origin: str
    """``host, fleet.yaml:12``, or ``built in``."""


def explain(loaded: Loaded, host: HostName) -> str:
    """A table of the host's settings: name, value, where it came from and what it overrode.

    Raises:
        UsageError: there is no such host.
    """
    rows = settings(loaded, host)
    names = max(len(row.name) for row in rows)
    width = min(_WIDEST, max(len(row.value) for row in rows))
    lines = [f"{row.name:{names}}  {row.value:{width}}  {row.origin}" for row in rows]
    groups = " < ".join(loaded.fleet.hosts[host].groups)
    head = f"{host}: built in < defaults < strategy < groups ({groups}) < host; the last that speaks wins"
    return "\n".join([head, "", *lines]) + "\n"


def settings(loaded: Loaded, host: HostName) -> tuple[Setting, ...]:
    """Every setting of one host, in the grammar's order.

    Raises:
        UsageError: there is no such host.
    """
    known = loaded.fleet.hosts.get(host)
    if known is None:
        hint = did_you_mean(host, loaded.fleet.hosts) or f"the hosts are {listing(loaded.fleet.hosts)}"
        raise UsageError(f"there is no host {quote(host)}", hint=hint)
    layers = loaded.provenance.layers[host]
    derived = {"address": (known.address, "the host's name"), "attr": (known.flake_attr, "the host's name")}
    walk = _Walk(loaded.provenance.source, derived)
    return tuple(walk.record(HOST, "", [(layer, layer.section) for layer in layers]))


@dataclass(frozen=True, slots=True)
class _Walk:
    source: Source
    derived: dict[str, tuple[str, str]]
    """Values that come from elsewhere when nobody wrote them."""

    def record(self, record: Record, path: str, layers: list[tuple[Layer, Section]]) -> Iterator[Setting]:
        for key, field in record.fields.items():
            yield from self._field(f"{path}{key}", key, field, layers)

    def _field(self, name: str, key: str, field: Field, layers: list[tuple[Layer, Section]]) -> Iterator[Setting]:
        said = [(layer, found) for layer, section in layers if (found := section.entries.get(key)) is not None]
        inner = [(layer, found) for layer, found in said if isinstance(found, Section)]
        match field.shape:
            case Record() as record if inner or not field.nullable:
                yield from self.record(record, f"{name}.", inner)
            case TableOf(value=shape):
                keys = dict.fromkeys(key for _, section in inner for key in section.entries)
                for each in keys:
                    yield from self._field(f"{name}.{each}", each, Field(shape, ""), inner)
            case shape:
                yield self._leaf(name, shape, field, said)

    def _leaf(self, name: str, shape: Shape, field: Field, said: list[tuple[Layer, Found]]) -> Setting:
        if not said:
            if name in self.derived:
                return Setting(name=name, value=self.derived[name][0], origin=self.derived[name][1])
            default = None if field.default is NO_DEFAULT else field.default
            return Setting(name=name, value=_show(shape, default), origin="built in")
        (layer, found), *others = reversed(said)
        origin = self._place(layer, found)
        for other, below in others:
            origin += f"; over {_show(shape, bare(below))} of {self._place(other, below)}"
        return Setting(name=name, value=_show(shape, bare(found)), origin=origin)

    def _place(self, layer: Layer, found: Found) -> str:
        return f"{layer.name}, {self.source.name}:{found.mark.line + 1}"


def _show(shape: Shape, value: Any) -> str:
    if value is None:
        return _UNSET
    plain = shape.plain(value)
    return printable(plain if isinstance(plain, str) else json.dumps(plain))
