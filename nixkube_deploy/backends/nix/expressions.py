"""The Nix expressions that select from a flake, and what comes back from them.

Names are always quoted here; no evaluation happens here.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import HostName, StorePath

LONGEST_EXPRESSION: Final = 100_000
"""Bytes. Linux takes at most 128 KiB in one argument; more hosts than fit are evaluated in further passes."""

_SYSTEM: Final = "config.system.build.toplevel"

SELECT: Final = (
    f"c: {{ drvPath = c.{_SYSTEM}.drvPath; out = c.{_SYSTEM}.outPath; "
    f"system = c.pkgs.stdenv.hostPlatform.system or c.{_SYSTEM}.system; }}"
)
"""One configuration to what is needed of it.

The key is not ``outPath``: Nix prints a set that has one as the string it coerces to.
"""


def quoted(text: str) -> str:
    """A Nix string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${")
    return f'"{escaped}"'


def select_hosts(names: Iterable[HostName]) -> str:
    """Applied to ``nixosConfigurations``: only the wanted ones, so that nothing else is evaluated."""
    wanted = " ".join(f"{quoted(name)} = f cs.{quoted(name)};" for name in names)
    return f"cs: let f = {SELECT}; in {{ {wanted} }}"


def passes(hosts: Iterable[Host]) -> Iterator[tuple[Host, ...]]:
    """The hosts in as few passes as the longest expression allows: nearly always one."""
    taken: list[Host] = []
    length = 0
    for host in hosts:
        cost = 2 * len(quoted(host.name).encode()) + len(" = f cs.; ")
        if taken and length + cost > LONGEST_EXPRESSION:
            yield tuple(taken)
            taken, length = [], 0
        taken.append(host)
        length += cost
    if taken:
        yield tuple(taken)


def evaluated(host: Host, data: Any) -> Evaluated | None:
    """One selected configuration; None when the data is not one."""
    if not isinstance(data, Mapping):
        return None
    drv, out, system = data.get("drvPath"), data.get("out"), data.get("system")
    if not (isinstance(drv, str) and isinstance(out, str) and isinstance(system, str)):
        return None
    return Evaluated(host=host.name, drv=drv, out=StorePath(out), system=system, attr=host.flake_attr)


def parsed(output: str) -> Any:
    """JSON that a program printed; None when it is none."""
    try:
        return json.loads(output)
    except ValueError:
        return None
