"""The stand-in ``nix``: evaluates by merging JSON, builds by making directories, copies by noting what a host holds.

Its options are those of the real program that are used on a controller; any other option fails as it does there.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from nixkube_deploy.lab.flake import EvaluationError, Flake, locate, read_flake
from nixkube_deploy.lab.nixlog import FAILURE, NixLog
from nixkube_deploy.lab.recipe import Recipe, recipe_for
from nixkube_deploy.lab.tools.nix_store import copy, path_info, store_command
from nixkube_deploy.lab.tools.workshop import Options, Parsed, ToolCall, ToolError

VERSION = "2.28.5"
_ATTRIBUTE = re.compile(r'nixosConfigurations\.(?:"([^"]+)"|([A-Za-z0-9_-]+))(?:\.(.*))?')
_SELECTED = re.compile(r'\bcs\.(?:"((?:[^"\\]|\\.)+)"|([A-Za-z0-9_-]+))')
_ROW = re.compile(r'\[((?: "(?:[^"\\]|\\.)*")+) \]')
_GET_FLAKE = re.compile(r'\(builtins\.getFlake "([^"\\]+)"\)\.nixosConfigurations;')
_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')
_KEYS = re.compile(r"\b(drvPath|out|outPath|system)\s*=")
_TOPLEVEL = "config.system.build.toplevel"
_DISKO = "config.system.build.diskoScript"
_BUILD_SECONDS = 0.04

_GLOBAL_SWITCHES = (
    "--json", "-L", "--print-build-logs", "-v", "--verbose", "--quiet", "--offline", "--refresh", "--impure",
    "--show-trace", "--no-write-lock-file", "--no-update-lock-file", "--accept-flake-config", "--keep-going", "-k",
    "--no-link", "--print-out-paths", "--raw", "--fallback", "--no-link", "--debug", "--recreate-lock-file",
)  # fmt: skip
_GLOBAL_VALUES = {
    "--extra-experimental-features": 1, "--experimental-features": 1, "--option": 2, "--log-format": 1,
    "--max-jobs": 1, "-j": 1, "--cores": 1, "--builders": 1, "--timeout": 1, "--max-silent-time": 1,
    "--apply": 1, "--expr": 1, "--out-link": 1, "-o": 1, "--eval-store": 1, "--store": 1, "--override-input": 2,
}  # fmt: skip


def _unknown(flag: str) -> str:
    return f"error: unrecognised flag '{flag}'\nTry 'nix --help' for more information.\n"


OPTIONS = Options(switches=_GLOBAL_SWITCHES, values=_GLOBAL_VALUES, unknown=_unknown)
_COPY_OPTIONS = Options(
    switches=(
        *_GLOBAL_SWITCHES,
        "--derivation",
        "--no-check-sigs",
        "--substitute-on-destination",
        "-s",
        "--no-recursive",
    ),
    values={**_GLOBAL_VALUES, "--to": 1, "--from": 1},
    unknown=_unknown,
)
_INFO_OPTIONS = Options(
    switches=(*_GLOBAL_SWITCHES, "--recursive", "-r", "--size", "--closure-size", "-s", "-S", "--sigs", "-h"),
    values=_GLOBAL_VALUES,
    unknown=_unknown,
)
_ANY = Options(
    switches=(*_COPY_OPTIONS.switches, *_INFO_OPTIONS.switches), values=_COPY_OPTIONS.values, unknown=_unknown
)


async def nix(call: ToolCall) -> int:
    """Find the command among the options and run it."""
    if "--version" in call.argv:
        call.out(f"nix (Nix) {VERSION}\n")
        return 0
    command = next(iter(_ANY.parse(call.argv).words), "")
    program = _COMMANDS.get(command)
    if program is None:
        raise ToolError(f"error: '{command}' is not a recognised command\nTry 'nix --help' for more information.\n")
    run, options = program
    parsed = options.parse(call.argv)
    _check_features(call, parsed)
    parsed.words.remove(command)
    try:
        return await run(call, parsed)
    except EvaluationError as error:
        raise ToolError(f"error:\n       ... while evaluating the flake\n\n       error: {error}\n") from None


def _check_features(call: ToolCall, parsed: Parsed) -> None:
    """The new command line is experimental: it must have been enabled somewhere."""
    asked = [*parsed.values.get("--extra-experimental-features", []), *parsed.values.get("--experimental-features", [])]
    if "nix-command" not in " ".join((call.env.get("NIX_CONFIG", ""), *asked)):
        advice = "add '--extra-experimental-features nix-command' to enable it"
        raise ToolError(f"error: experimental Nix feature 'nix-command' is disabled; {advice}\n")


# --- evaluation ------------------------------------------------------------------------------------------------------


async def _flake(call: ToolCall, parsed: Parsed) -> int:
    match parsed.words:
        case ["metadata", *rest]:
            return await _metadata(call, parsed, rest[0] if rest else ".")
        case _:
            raise ToolError(f"error: 'nix flake {' '.join(parsed.words)}' is not supported\n")


async def _metadata(call: ToolCall, parsed: Parsed, reference: str) -> int:
    flake = read_flake(locate(reference, call.cwd))
    url = f"path:{flake.path}"
    digest = hashlib.sha256(flake.nar_hash.encode()).hexdigest()
    modified = int(max(path.stat().st_mtime for path in flake.path.rglob("*") if path.is_file()))
    # A real error is in some file: whoever keeps evaluations must see that this is not the flake it was.
    modified += sum(fault.kind == "eval-fails" and fault.remaining != 0 for fault in call.workshop.faults.faults)
    locked = {"lastModified": modified, "narHash": flake.nar_hash, "path": str(flake.path), "type": "path"}
    plain = {
        "description": "The hosts of a lab",
        "fingerprint": digest,
        "lastModified": modified,
        "locked": locked,
        "locks": {"nodes": {"root": {}}, "root": "root", "version": 7},
        "original": {"path": str(flake.path), "type": "path"},
        "originalUrl": url,
        "path": f"/nix/store/{digest[:32]}-source",
        "resolved": {"path": str(flake.path), "type": "path"},
        "resolvedUrl": url,
        "url": f"{url}?narHash={flake.nar_hash}",
    }
    call.out(json.dumps(plain) + "\n" if parsed.has("--json") else f"Resolved URL:  {url}\n")
    return 0


async def _eval(call: ToolCall, parsed: Parsed) -> int:
    expression = parsed.value("--expr")
    if expression is not None and (found := _GET_FLAKE.search(expression)) is not None:
        value = _pass(call, read_flake(locate(found[1], call.cwd)), "nixosConfigurations", expression)
    else:
        reference, attribute = _installable(parsed)
        value = _evaluated(call, read_flake(locate(reference, call.cwd)), attribute, parsed.value("--apply"))
    await asyncio.sleep(0.05)
    if parsed.has("--raw"):
        call.out(value if isinstance(value, str) else json.dumps(value))
    else:
        call.out(json.dumps(value) + "\n")
    return 0


def _installable(parsed: Parsed) -> tuple[str, str]:
    if len(parsed.words) != 1:
        raise ToolError("error: expected exactly one installable\n")
    reference, _, attribute = parsed.words[0].partition("#")
    return reference or ".", attribute


def _evaluated(call: ToolCall, flake: Flake, attribute: str, apply: str | None) -> Any:
    if apply is not None and _ROW.search(apply):
        return _pass(call, flake, attribute, apply)
    if attribute == "nixosConfigurations":
        if apply is None or "attrNames" in apply:
            return sorted(flake.hosts)
        names = list(dict.fromkeys(a or b for a, b in _SELECTED.findall(apply)))
        return {name: _selected(evaluate(call, flake, name), apply) for name in names}
    host, rest = _host_and_rest(flake, attribute)
    recipe = evaluate(call, flake, host)
    if not rest and apply is not None:
        return _selected(recipe, apply)
    script = {f"{_DISKO}.drvPath": recipe.disko_drv, _DISKO: recipe.disko}
    facts = {_TOPLEVEL: recipe.toplevel, f"{_TOPLEVEL}.outPath": recipe.toplevel, f"{_TOPLEVEL}.drvPath": recipe.drv}
    known = {**script, **facts, "pkgs.system": recipe.configuration.system}
    if rest not in known:
        raise EvaluationError(f"flake '{flake.path}' does not provide attribute '{attribute}'")
    return known[rest]


def _pass(call: ToolCall, flake: Flake, root: str, expression: str) -> Any:
    """Many hosts, told as they are done; real Nix takes them in the order of their names, as printing does."""
    answers: dict[str, Any] = {}
    for name, *path in sorted(tuple(_NAME.findall(row)) for row in _ROW.findall(expression)):
        call.err(f"trace: nixkube-deploy: begin {json.dumps(name)}\n")
        host = path[0] if root == "nixosConfigurations" else flake.host_of_attribute(".".join((root, *path)))
        if host is None or host not in flake.hosts:
            answers[name] = {"missing": True}
            continue
        try:
            value = _selected(evaluate(call, flake, host), expression)
        except EvaluationError:
            if "tryEval" not in expression:
                raise
            answers[name] = {"caught": True}
            continue
        call.err(f"trace: nixkube-deploy: done {json.dumps({'name': name, 'value': value})}\n")
        answers[name] = value
    return {"hosts": answers, "names": sorted(flake.hosts)}


def _selected(recipe: Recipe, expression: str) -> Any:
    """A set with an ``outPath`` is printed as the string it coerces to, by real Nix as here."""
    facts = {
        "drvPath": recipe.drv,
        "out": recipe.toplevel,
        "outPath": recipe.toplevel,
        "system": recipe.configuration.system,
    }
    keys = [key for key in facts if key in _KEYS.findall(expression)]
    return recipe.toplevel if "outPath" in keys else {key: facts[key] for key in keys}


def _host_and_rest(flake: Flake, attribute: str) -> tuple[str, str]:
    for suffix in ("", f".{_TOPLEVEL}", f".{_DISKO}", f".{_TOPLEVEL}.drvPath"):
        host = flake.host_of_attribute(attribute.removesuffix(suffix)) if attribute.endswith(suffix) else None
        if host is not None:
            return host, suffix.removeprefix(".")
    match = _ATTRIBUTE.fullmatch(attribute)
    if match is None:
        raise EvaluationError(f"flake '{flake.path}' does not provide attribute '{attribute}'")
    return match[1] or match[2], match[3] or ""


def evaluate(call: ToolCall, flake: Flake, host: str) -> Recipe:
    """One host's system, instantiated."""
    fault = call.workshop.faults.take(host, "eval-fails")
    if fault is not None:
        raise EvaluationError(fault.argument or f"The option `services.k3s.rolle' does not exist ({host})")
    recipe = recipe_for(flake.configuration(host))
    call.workshop.store.instantiate(recipe)
    return recipe


# --- building --------------------------------------------------------------------------------------------------------


async def _build(call: ToolCall, parsed: Parsed) -> int:
    results: list[dict[str, Any]] = []
    failed = False
    wanted = [_wanted(call, word) for word in parsed.words or ["."]]
    missing = [recipe for recipe, _ in wanted if not call.workshop.store.has(recipe.toplevel)]
    log = NixLog(call.err, as_json=parsed.value("--log-format") == "internal-json", expected=len(missing))
    for recipe, wants_disko in wanted:
        fault = None if wants_disko else _build_fault(call, recipe)
        if fault is not None:
            log.begins(recipe.drv)
            log.fails(recipe.drv, fault)
            failed = True
            if not parsed.has("--keep-going", "-k"):
                break
            continue
        results.append(await _made(call, recipe, log, wants_disko=wants_disko))
    if failed:
        return 1
    if parsed.has("--json"):
        call.out(json.dumps(results) + "\n")
    if parsed.has("--print-out-paths"):
        call.out("".join(each["outputs"]["out"] + "\n" for each in results))
    return 0


def _wanted(call: ToolCall, word: str) -> tuple[Recipe, bool]:
    if word.startswith("/nix/store/"):
        drv = word.partition("^")[0]
        recipe = call.workshop.store.derivation(drv) or call.workshop.store.system(drv)
        if recipe is None:
            raise ToolError(f"error: path '{drv}' does not exist in the Nix store\n")
        return recipe, drv == recipe.disko_drv
    reference, _, attribute = word.partition("#")
    flake = read_flake(locate(reference or ".", call.cwd))
    host, rest = _host_and_rest(flake, attribute)
    if rest not in (_TOPLEVEL, _DISKO):
        raise EvaluationError(f"flake '{flake.path}' does not provide attribute '{attribute}'")
    return evaluate(call, flake, host), rest == _DISKO


def _build_fault(call: ToolCall, recipe: Recipe) -> str | None:
    if call.workshop.store.has(recipe.toplevel):
        return None
    fault = call.workshop.faults.take(recipe.configuration.host, "build-fails")
    return None if fault is None else fault.argument or FAILURE


async def _made(call: ToolCall, recipe: Recipe, log: NixLog, *, wants_disko: bool) -> dict[str, Any]:
    store = call.workshop.store
    if wants_disko:
        store.realise_disko(recipe)
        return {"drvPath": recipe.disko_drv, "outputs": {"out": recipe.disko}}
    if not store.has(recipe.toplevel):
        log.begins(recipe.drv)
        await asyncio.sleep(_BUILD_SECONDS)
        store.realise(recipe)
        log.ends()
    return {"drvPath": recipe.drv, "outputs": {"out": recipe.toplevel}}


Command = Callable[[ToolCall, Parsed], Awaitable[int]]
_COMMANDS: dict[str, tuple[Command, Options]] = {
    "build": (_build, OPTIONS),
    "copy": (copy, _COPY_OPTIONS),
    "eval": (_eval, OPTIONS),
    "flake": (_flake, OPTIONS),
    "path-info": (path_info, _INFO_OPTIONS),
    "store": (store_command, OPTIONS),
}
