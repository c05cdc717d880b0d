"""The Nix expressions that select from a flake, and what comes back from them.

Names are always quoted here; no evaluation happens here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nixkube_deploy.backends.nix.program import parsed
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import StorePath

LONGEST_EXPRESSION: Final = 100_000
"""Bytes. Linux takes at most 128 KiB in one argument."""

VERSION: Final = 1
"""To be raised when what is selected changes: evaluations kept from before are not used then."""

_SYSTEM: Final = "config.system.build.toplevel"
_MARK: Final = "nixkube-deploy:"
_HEARD: Final = re.compile(rf"^trace: {_MARK} (?P<what>begin|done) (?P<data>.*)$")
_BARE: Final = re.compile(r"[A-Za-z0-9_'-]+")

SELECT: Final = (
    f"c: {{ drvPath = c.{_SYSTEM}.drvPath; out = c.{_SYSTEM}.outPath; "
    f"system = c.pkgs.stdenv.hostPlatform.system or c.{_SYSTEM}.system; }}"
)
"""One configuration to what is needed of it.

The key is not ``outPath``: Nix prints a set that has one as the string it coerces to.
"""

_SELECTION: Final = """{begin}
  select = {select};
  within = s: n: if s ? v && builtins.isAttrs s.v && s.v ? ${{n}} then {{ v = s.v.${{n}}; }} else {{ }};
  tell = what: data: builtins.trace "{mark} ${{what}} ${{builtins.unsafeDiscardStringContext (builtins.toJSON data)}}";
  one = name: path: let
    found = builtins.foldl' within {{ v = current name; }} path;
    chosen = select found.v;
    tried = {attempt} (builtins.deepSeq chosen chosen);
  in tell "begin" name (
    if !(found ? v) then {{ missing = true; }}
    else if !tried.success then {{ caught = true; }}
    else tell "done" {{ inherit name; inherit (tried) value; }} tried.value
  );
in {{
  names = let root = current null; in if builtins.isAttrs root then builtins.attrNames root else [ ];
  hosts = builtins.listToAttrs (map (h: {{ name = builtins.head h; value = one (builtins.head h) (builtins.tail h); }})
    [ {wanted} ]);
}}"""
"""Only the wanted configurations of a set, so that nothing else is evaluated.

``begin`` and ``done`` are told as they happen: should the evaluator fail, or be ended, what it had done is kept, and
the host that was begun last is the one to blame. Nothing can be read from a file or an output before the end.
"""

_APPLIED: Final = "root: let\n  current = _: root;"
_FRESH: Final = "let\n  current = _: (builtins.getFlake {url}).{root};"
"""Every host from a flake of its own, in one evaluator: files are parsed once, and what one host needed is garbage when
the next begins. Applied to one set of configurations, all of it would live until the last one is done."""

_CATCHING: Final = "builtins.tryEval"
_LETTING: Final = "(value: { success = true; inherit value; })"


def quoted(text: str) -> str:
    """A Nix string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${")
    return f'"{escaped}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A host and where its configuration is: the flake's attribute ``root``, and from there ``path``."""

    host: Host
    root: str
    path: tuple[str, ...]


def wanted(host: Host) -> Wanted:
    """Hosts with the same root can be evaluated in one pass. What nobody can take apart is a root of its own."""
    if host.attr is None:
        return Wanted(host=host, root="nixosConfigurations", path=(host.name,))
    parts = components(host.attr)
    if len(parts) < 2 or not _BARE.fullmatch(parts[0]):  # noqa: PLR2004 (a root and something below it)
        return Wanted(host=host, root=host.attr, path=())
    return Wanted(host=host, root=parts[0], path=parts[1:])


def components(attribute: str) -> tuple[str, ...]:
    """``a."b.c".d`` taken apart; empty when it is not written that way."""
    part = r'"(?:[^"\\$]|\\.)*"|[^."\s]+'
    if not re.fullmatch(rf"(?:{part})(?:\.(?:{part}))*", attribute):
        return ()
    return tuple(
        re.sub(r"\\(.)", r"\1", each[1:-1]) if each[0] == '"' else each for each in re.findall(part, attribute)
    )


def select_hosts(hosts: Sequence[Wanted], *, catching: bool, url: str = "") -> str:
    """The pass over these hosts, all of one root: a function of that root, or with a locked ``url`` a value.

    ``catching`` goes on after what ``tryEval`` can catch, but loses what was thrown.
    """
    begin = _FRESH.format(url=quoted(url), root=hosts[0].root) if url else _APPLIED
    rows = " ".join(f"[ {' '.join(map(quoted, (each.host.name, *each.path)))} ]" for each in hosts)
    return _SELECTION.format(
        begin=begin, select=SELECT, mark=_MARK, attempt=_CATCHING if catching else _LETTING, wanted=rows
    )


def fitting(hosts: Sequence[Wanted]) -> int:
    """How many of these hosts fit into one argument."""
    length = 0
    for count, each in enumerate(hosts):
        length += sum(len(quoted(name).encode()) + 1 for name in (each.host.name, *each.path)) + len("[  ] ")
        if count and length > LONGEST_EXPRESSION:
            return count
    return len(hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An evaluator has begun with a host."""

    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An evaluator is done with a host."""

    host: str
    value: Any


def heard(line: str) -> Begun | Done | None:
    """What a line of standard error tells of the pass; None for any other line."""
    match = _HEARD.match(line)
    data = parsed(match["data"]) if match else None
    match data:
        case str(host):
            return Begun(host=host)
        case {"name": str(host), "value": value}:
            return Done(host=host, value=value)
        case _:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a pass printed at its end."""

    names: tuple[str, ...]
    hosts: Mapping[str, Any]


def answer(output: str) -> Answer | None:
    """The pass's last word; None when it has none."""
    match parsed(output):
        case {"names": list(names), "hosts": dict(hosts)}:
            return Answer(names=tuple(map(str, names)), hosts=hosts)
        case _:
            return None


def evaluated(host: Host, data: Any) -> Evaluated | None:
    """One selected configuration; None when the data is not one."""
    if not isinstance(data, Mapping):
        return None
    drv, out, system = data.get("drvPath"), data.get("out"), data.get("system")
    if not (isinstance(drv, str) and isinstance(out, str) and isinstance(system, str)):
        return None
    return Evaluated(host=host.name, drv=drv, out=StorePath(out), system=system, attr=host.flake_attr)
