"""Texts with a meaning of their own: names, addresses, keys, paths, flake references, secret references.

Nothing here may begin with a dash or hold a blank where a program will see it as an argument.
"""

import base64
import binascii
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nixkube_deploy.inventory.error import InventoryError, quote
from nixkube_deploy.inventory.sections import Found, Located, bare
from nixkube_deploy.inventory.shape import At, Field, Flag, ListOf, Record, Schema, Shape, Text, Unfit
from nixkube_deploy.inventory.tree import Node, Scalar, Table
from nixkube_deploy.model.fleet import IN_CLUSTER
from nixkube_deploy.model.secret import SecretFromCommand, SecretFromEnv, SecretFromFile, SecretRef

_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_HOSTNAME = r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?"
_LONGEST_HOSTNAME = 253
_HOP = rf"([A-Za-z0-9_][A-Za-z0-9._-]*@)?({_HOSTNAME}|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\])(:[0-9]{{1,5}})?"


def _label_key(text: str, _: Path) -> str:
    if text in {"role", "system"}:
        raise Unfit(f"{quote(text)} is a key of its own", hint=f"write it beside `labels`; {text}=... selects it")
    return text


NAME = Text(what="a name of letters, digits, `.`, `_` and `-` (at most 63)", pattern=_NAME)
LABEL_KEY = Text(
    convert=_label_key,
    what="a label name of letters, digits, `.`, `_`, `/` and `-`",
    pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$",
)
LABEL_VALUE = Text(
    what="a label value of letters, digits, `.`, `_` and `-`", pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
)
USER = Text(what="a user name", pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
JUMP = Text(
    what="a jump host such as bastion, admin@bastion:2222, or several with commas", pattern=rf"^{_HOP}(,{_HOP})*$"
)
ATTRIBUTE = Text(what="an attribute path such as nixosConfigurations.web", pattern=r"^[^\s#-][^\s#]*$")
COMMAND_LINE = Text(what="a shell command", pattern=r"\S")
WORD = Text(what="text", pattern=r"\S")
VARIABLE = Text(what="the name of an environment variable", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
URL = Text(what="a URL that begins with http:// or https://", pattern=r"^https?://[^\s/]\S*$")
STORE_URL = Text(what="a store URL such as https://cache.example", pattern=r"^[a-z0-9+-]+://\S+$")
DEVICE = Text(what="a device such as /dev/disk/by-id/nvme-XYZ", pattern=r"^/dev/\S+$")
SELECTOR = Text(what="a selector such as @workers or zone=a", pattern=r"\S")


def resolve(text: str, base: Path) -> str:
    """A path, absolute: ``~`` is a home, anything else starts at the inventory's folder.

    Raises:
        Unfit: the home of that user is not known.
    """
    try:
        expanded = Path(text).expanduser()
    except RuntimeError:
        raise Unfit(f"whose home is {quote(text.partition('/')[0])}?", hint="write the path in full") from None
    return os.path.normpath(base / expanded)


def resolve_flake(text: str, base: Path) -> str:
    """A flake reference; a local path becomes absolute, anything else stays as it is.

    Raises:
        Unfit: it names an attribute, or would be looked up in the registry though the folder is right here.
    """
    if "#" in text:
        raise Unfit("the flake is named without an attribute", hint="a host's attribute is its key `attr`")
    scheme, rest = ("path:", text[5:]) if text.startswith("path:") else ("", text)
    path, mark, query = rest.partition("?")
    if scheme or path.startswith(("/", "~")) or re.match(r"\.{1,2}(/|$)", path):
        return f"{scheme}{resolve(path or '.', base)}{mark}{query}"
    if ":" not in text and _exists(base / path):
        raise Unfit(f"Nix would look for {quote(text)} in its registry", hint=f"did you mean {quote('./' + text)}?")
    return text


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _path_or_url(text: str, base: Path) -> str:
    return text if "://" in text else resolve(text, base)


def _path_or_none(text: str, base: Path) -> str:
    return text if text == "none" else resolve(text, base)


def _address(text: str, _: Path) -> str:
    if "@" in text:
        user, _at, host = text.partition("@")
        raise Unfit("an address has no user", hint=f"write address: {host[:64]}, ssh: {{user: {user[:64]}}}")
    try:
        ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        return text
    if re.fullmatch(r"[0-9.]+", text):
        raise Unfit(f"{quote(text)} is not an IPv4 address")
    if found := re.fullmatch(r"([^:]*|\[.*\]):([0-9]+)", text):
        raise Unfit(
            "an address has no port", hint=f"write address: {found[1].strip('[]')[:64]}, ssh: {{port: {found[2][:5]}}}"
        )
    if len(text) > _LONGEST_HOSTNAME or not re.fullmatch(_HOSTNAME, text):
        raise Unfit(f"{quote(text)} is neither a host name nor an IP address")
    return text


def _host_key(text: str, _: Path) -> str:
    kind, key = text.split()[:2]
    try:
        data = base64.b64decode(key, validate=True)
    except binascii.Error:
        raise Unfit("the key is not base64", hint="copy the whole line of /etc/ssh/ssh_host_ed25519_key.pub") from None
    if next(iter(_fields(data)), b"") != kind.encode():
        raise Unfit(f"the key does not say {quote(kind)} inside: it is cut off or of another type")
    return f"{kind} {key}"


def _fields(data: bytes) -> list[bytes]:
    """The length-prefixed fields of a public key; none when they do not fill it exactly."""
    found, at = [], 0
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[at + 4 : end])
        at = end
    return found if at == len(data) else []


ADDRESS = Text(what="a host name or an IP address", pattern=r"^[A-Za-z0-9_:\[][^\s,/]*$", convert=_address)
FILE_PATH = Text(what="a path", pattern=r"^[^\s-]", convert=resolve)
SSH_CONFIG = Text(what="the path of an ssh_config, or none", pattern=r"^[^\s-]", convert=_path_or_none)
PATH_OR_URL = Text(what="a path or a URL", pattern=r"^[^\s-]", convert=_path_or_url)
FLAKE = Text(
    what="a flake reference such as ../flakes/lab or github:owner/repo", pattern=r"^[^\s#-]\S*$", convert=resolve_flake
)
HOST_KEY = Text(
    what="a public key such as `ssh-ed25519 AAAA...`",
    pattern=r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9@.-]+) +[A-Za-z0-9+/]+=*( .*)?$",
    convert=_host_key,
)

_SECRET = Record(
    name="secret",
    doc="Where a secret is found when it is needed: exactly one of the three.",
    fields={
        "env": Field(VARIABLE, "An environment variable of the controller."),
        "file": Field(FILE_PATH, "A file on the controller."),
        "command": Field(ListOf(item=WORD, least=1), "A program on the controller, and its arguments."),
    },
)
_HOW = "write {env: NAME}, {file: PATH} or {command: [PROGRAM, ...]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretReference(Shape):
    """Where a secret is, never the secret. What stands in its place is not echoed in an error."""

    def _read(self, node: Node, at: At) -> Located:
        if not isinstance(node, Table):
            raise self._refuse(node, at, "a secret is never written into the inventory; say where it is")
        if len(node.entries) != 1 or not node.entries.keys() <= _SECRET.fields.keys():
            raise self._refuse(node, at, "a secret is exactly one of env, file, command")
        try:
            section = _SECRET.read(node, at)
        except InventoryError:
            raise self._refuse(node, at, "this does not say where a secret is") from None
        return Located(_reference(bare(section)), node.mark)

    def _schema(self, defs: dict[str, Schema]) -> Schema:
        kinds = []
        for name, known in _SECRET.fields.items():
            schema: Schema = {"type": "object", "properties": {name: known.schema(defs)}, "required": [name]}
            kinds.append({**schema, "additionalProperties": False})
        return {"oneOf": kinds}

    def _plain(self, value: SecretRef) -> Any:
        match value:
            case SecretFromEnv(env=env):
                return {"env": env}
            case SecretFromFile(file=file):
                return {"file": file}
            case SecretFromCommand(command=command):
                return {"command": list(command)}

    def _refuse(self, node: Node, at: At, why: str) -> Exception:
        return at.source.error(node.mark, f"{at.name}: {why}", hint=_HOW, conceal=True)


def _reference(values: Mapping[str, Any]) -> SecretRef:
    if "env" in values:
        return SecretFromEnv(env=values["env"])
    if "file" in values:
        return SecretFromFile(file=values["file"])
    return SecretFromCommand(command=values["command"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubeconfig(Shape):
    """A path, ``{fetch: true}`` (over SSH from a control-plane host, as when absent) or ``{in_cluster: true}``."""

    def _read(self, node: Node, at: At) -> Found:
        if isinstance(node, Scalar) and node.kind == "text":
            return FILE_PATH.read(node, at)
        if isinstance(node, Table) and len(node.entries) == 1:
            for way, value in (("fetch", None), ("in_cluster", IN_CLUSTER)):
                found = node.entries.get(way)
                if found is not None and bare(Flag().read(found.value, at.into(way, found.key.mark))):
                    return Located(value, node.mark)
        raise at.misfit(node, "a path, {fetch: true} or {in_cluster: true}")

    def _schema(self, defs: dict[str, Schema]) -> Schema:
        ways = [
            {"type": "object", "properties": {way: {"const": True}}, "required": [way], "additionalProperties": False}
            for way in ("fetch", "in_cluster")
        ]
        return {"oneOf": [FILE_PATH.schema(defs), *ways]}

    def _plain(self, value: Any) -> Any:
        return {"fetch": True} if value is None else {"in_cluster": True} if value == IN_CLUSTER else value
