"""The stand-in ``nix``'s commands that look at stores and move closures between them."""

import asyncio
import json
import re
from typing import Any

from nixkube_deploy.lab.host import LabHost
from nixkube_deploy.lab.storepath import is_store_path, nar_size
from nixkube_deploy.lab.tools.remote import SshError, reach, ssh_options
from nixkube_deploy.lab.tools.workshop import Parsed, ToolCall, ToolError

_URL = re.compile(r"(ssh|ssh-ng)://([^?/]+)(?:\?(.*))?")
_COPY_SECONDS = 0.15
_SECONDS_PER_BYTE = 1 / 2_000_000_000
_NAME = re.compile(r"/nix/store/[a-z0-9]{32}-(.+?)(?:-(\d[^/]*))?$")


async def copy(call: ToolCall, parsed: Parsed) -> int:
    """``nix copy --to URL PATH...``."""
    url = parsed.value("--to")
    if url is None:
        raise ToolError("error: you must pass '--from' and/or '--to'\n")
    scheme, host = _connect(call, url)
    for path in parsed.words:
        if not call.workshop.store.has(path):
            raise ToolError(f"error: path '{path}' is required, but there is no substituter that can build it\n")
        await copy_one(call, host, path, url, checked=scheme == "ssh-ng" and not parsed.has("--no-check-sigs"))
    call.workshop.changed()
    return 0


def _connect(call: ToolCall, url: str) -> tuple[str, LabHost]:
    match = _URL.fullmatch(url)
    if match is None:
        raise ToolError(f"error: don't know how to open Nix store '{url}'\n")
    destination = match[2]
    try:
        host = reach(call, destination, ssh_options(call.env.get("NIX_SSHOPTS", "")))
    except SshError as error:
        call.err(str(error))
        raise ToolError(f"error: failed to start SSH connection to '{destination}'\n") from None
    if not host.machine.personality.has_nix:
        call.err("bash: line 1: nix-store: command not found\n")
        raise ToolError(f"error: cannot connect to '{destination}'\n")
    if destination.partition("@")[0] != "root" and host.user != "root" and match[1] == "ssh-ng":
        raise ToolError(f"error: cannot open connection to remote store '{url}': not a trusted user\n")
    return match[1], host


async def copy_one(call: ToolCall, host: LabHost, path: str, url: str, *, checked: bool) -> None:
    """Bring one closure to a host; raises ToolError with the real program's words."""
    faults, store = call.workshop.faults, call.workshop.store
    machine = host.machine
    missing = sorted(each for each in store.closure(path) if not host.filesystem("root").holds(each))
    slow = faults.take(host.name, "slow")
    await asyncio.sleep(slow.seconds if slow else 0.02)
    if not missing:
        return
    if checked or faults.take(host.name, "copy-unsigned"):
        raise ToolError(f"error: cannot add path '{missing[0]}' because it lacks a signature by a trusted key\n")
    boot = machine.boot_id
    for each in missing:
        call.err(f"copying path '{each}' to '{url}'...\n")
    await asyncio.sleep(_COPY_SECONDS + sum(map(nar_size, missing)) * _SECONDS_PER_BYTE)
    full = faults.peek(host.name, "disk-full")
    if full is not None and full.argument == "store":
        raise ToolError("error: writing to file: No space left on device\n")
    if faults.take(host.name, "copy-fails") or machine.boot_id != boot or not machine.powered:
        raise ToolError("client_loop: send disconnect: Broken pipe\r\nerror: writing to file: Broken pipe\n")
    machine.roots.add(path)
    machine.store_disk.used += sum(map(nar_size, missing))


async def path_info(call: ToolCall, parsed: Parsed) -> int:
    """``nix path-info [--store URL] [--json] [-r] [--closure-size] PATH...``."""
    url = parsed.value("--store")
    host = _connect(call, url)[1] if url and url.startswith("ssh") else None
    store = call.workshop.store
    paths: list[str] = []
    for word in parsed.words:
        if not is_store_path(word):
            raise ToolError(f"error: path '{word}' is not in the Nix store\n")
        paths += sorted(store.closure(word)) if parsed.has("-r", "--recursive") else [word]
    valid = {path: host.filesystem("root").holds(path) if host else store.has(path) for path in paths}
    if parsed.has("--json"):
        call.out(json.dumps({path: _info(call, path) if ok else None for path, ok in valid.items()}) + "\n")
        return 0
    for path, ok in valid.items():
        if not ok:
            raise ToolError(f"error: path '{path}' is not valid\n")
        size = f"\t{_info(call, path)['closureSize']}" if parsed.has("-S", "--closure-size") else ""
        call.out(path + size + "\n")
    return 0


def _info(call: ToolCall, path: str) -> dict[str, Any]:
    closure = call.workshop.store.closure(path)
    return {
        "ca": None,
        "closureSize": sum(map(nar_size, closure)),
        "narSize": nar_size(path),
        "references": sorted(closure - {path}),
        "signatures": [],
    }


async def store_command(call: ToolCall, parsed: Parsed) -> int:
    """``nix store diff-closures BEFORE AFTER``, ``nix store info`` and ``nix store ping``."""
    match parsed.words:
        case ["diff-closures", before, after]:
            _diff(call, before, after)
            return 0
        case ["info" | "ping"]:
            url = parsed.value("--store")
            if url and url.startswith("ssh"):
                _connect(call, url)
            call.err(f"Store URL: {url or 'local'}\nVersion: 2.28.5\nTrusted: 1\n")
            return 0
        case _:
            raise ToolError(f"error: '{' '.join(parsed.words[:1])}' is not a recognised command\n")


def _diff(call: ToolCall, before: str, after: str) -> None:
    store = call.workshop.store
    versions: dict[str, tuple[set[str], set[str]]] = {}
    for side, path in enumerate((before, after)):
        if not store.has(path):
            raise ToolError(f"error: path '{path}' is not valid\n")
        for each in store.closure(path):
            match = _NAME.fullmatch(each)
            if match is not None:
                versions.setdefault(match[1], (set(), set()))[side].add(match[2] or "∅")
    for name, (old, new) in sorted(versions.items()):
        if old != new:
            call.out(f"{name}: {', '.join(sorted(old)) or '∅'} → {', '.join(sorted(new)) or '∅'}\n")
