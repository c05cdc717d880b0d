"""``--on``: a short expression to a set of hosts.

    expression = term , term ...      union; terms of exclusions only take away from the rest
    term       = factor & factor ...  intersection
    factor     = [!] atom             `!` excludes
    atom       = host | @group | key=value    each may be a glob

``@workers,!w3`` is the workers without w3, ``!w3`` alone everybody but w3, ``zone=a&@workers`` the workers of zone a.
It knows names and labels, nothing of the state of hosts.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable

from nixkube_deploy.inventory.error import did_you_mean, listing, quote
from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.fleet import Fleet, Host
from nixkube_deploy.model.names import HostName

_GLOB = re.compile(r"[*?\[]")
_ATOM = re.compile(r"@?[A-Za-z0-9._*?\[\]!/^-]+|[A-Za-z0-9._/-]+=[A-Za-z0-9._*?\[\]!/^-]+")

Hosts = frozenset[HostName]


def select(expression: str, fleet: Fleet) -> Hosts:
    """The hosts that ``expression`` names; never none.

    Raises:
        UsageError: it cannot be read, names something that does not exist, or leaves no host.
    """
    every = frozenset(fleet.hosts)
    chosen: Hosts = frozenset()
    kept, chooses = every, False
    for term in expression.split(","):
        hosts, excludes = _term(term, expression, fleet)
        if excludes:
            kept &= hosts
        else:
            chosen, chooses = chosen | hosts, True
    selected = (chosen if chooses else every) & kept
    if not selected:
        raise UsageError(f"the selector {quote(expression)} leaves no host", hint=f"there are {listing(fleet.hosts)}")
    return selected


def _term(text: str, expression: str, fleet: Fleet) -> tuple[Hosts, bool]:
    """The hosts of one term, and whether it consists of exclusions only."""
    hosts, excludes = frozenset(fleet.hosts), True
    for part in text.split("&"):
        factor = part.strip()
        atom = factor.removeprefix("!").strip()
        if not atom:
            raise _unreadable(expression, "a name is missing" if expression.strip() else "it is empty")
        found = _atom(atom, expression, fleet)
        if factor.startswith("!"):
            hosts -= found
        else:
            hosts, excludes = hosts & found, False
    return hosts, excludes


def _atom(text: str, expression: str, fleet: Fleet) -> Hosts:
    if not _ATOM.fullmatch(text):
        key, bang, value = text.partition("!=")
        better = f"write !{key}={value}" if bang else ""
        raise _unreadable(expression, f"{quote(text)} is neither HOST, @GROUP nor KEY=VALUE", better)
    if text.startswith("@"):
        return _group(text[1:], fleet)
    if "=" in text:
        key, _, value = text.partition("=")
        return _label(key, value, fleet)
    return _host(text, fleet)


def _host(name: str, fleet: Fleet) -> Hosts:
    if found := _matching(name, fleet.hosts):
        return frozenset(HostName(host) for host in found)
    hint = f"did you mean {quote('@' + name)}?" if name in fleet.groups else did_you_mean(name, fleet.hosts)
    what = "no host matches" if _GLOB.search(name) else "there is no host"
    raise UsageError(f"{what} {quote(name)}", hint=hint or f"the hosts are {listing(fleet.hosts)}")


def _group(name: str, fleet: Fleet) -> Hosts:
    names = _matching(name, fleet.groups)
    if not names:
        hint = f"did you mean {quote(name)}, without @?" if name in fleet.hosts else did_you_mean(name, fleet.groups)
        what = "no group matches" if _GLOB.search(name) else "there is no group"
        raise UsageError(f"{what} {quote(name)}", hint=hint or f"the groups are {listing(fleet.groups)}")
    wanted = set(names)
    members = {host for group in fleet.groups.values() if group.name in wanted for host in group.members}
    return frozenset(members & fleet.hosts.keys())


def _label(key: str, value: str, fleet: Fleet) -> Hosts:
    read = _reader(key)
    values = {name: found for name, host in fleet.hosts.items() if (found := read(host)) is not None}
    if not values:
        known = {"role", "system"}.union(*(host.labels for host in fleet.hosts.values()))
        hint = did_you_mean(key, known) or f"the keys are {listing(sorted(known))}"
        raise UsageError(f"no host has the label {quote(key)}", hint=hint)
    wanted = set(_matching(value, set(values.values())))
    if not wanted:
        known = set(values.values())
        hint = did_you_mean(value, known) or f"its values are {listing(sorted(known))}"
        raise UsageError(f"no host has {quote(f'{key}={value}')}", hint=hint)
    return frozenset(name for name, found in values.items() if found in wanted)


def _reader(key: str) -> Callable[[Host], str | None]:
    match key:
        case "role":
            return lambda host: host.role.value
        case "system":
            return lambda host: host.system
        case _:
            return lambda host: host.labels.get(key)


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    if not _GLOB.search(pattern):
        return [pattern] if pattern in names else []
    fits = re.compile(fnmatch.translate(pattern)).match
    return [name for name in names if fits(name)]


def _unreadable(expression: str, why: str, hint: str = "") -> UsageError:
    usual = "for example: web-1 or @workers or zone=a&!web-1, several with commas"
    return UsageError(f"cannot read the selector {quote(expression)}: {why}", hint=hint or usual)
