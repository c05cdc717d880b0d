"""``nix-store --realise`` on a host: what is there, and what the host's own Nix builds from derivations it was sent."""

import asyncio

from nixkube_deploy.lab.host import Call
from nixkube_deploy.lab.nixlog import FAILURE, NixLog
from nixkube_deploy.lab.recipe import Recipe
from nixkube_deploy.lab.storepath import top_of

_BUILD_SECONDS = 0.04
_FAILED = 100
_ALONE = ("--keep-going", "-k", "-v", "--verbose")
_WITH_VALUE = ("--add-root", "--log-format", "--option")


async def realise(call: Call, words: tuple[str, ...]) -> int:
    """``--realise PATH``; ``--add-root`` is the link whose target no garbage collection takes."""
    link, as_json, path = _options(words)
    machine, store = call.host.machine, call.host.setting.store
    if not call.is_root:
        call.err("error: opening lock file '/nix/var/nix/db/big-lock': Permission denied\n")
        return 1
    if not call.files.holds(top_of(path) or ""):
        call.err(f"error: path '{path}' is required, but there is no substituter that can build it\n")
        return 1
    recipe = store.derivation(path)
    if recipe is not None and (code := await _build(call, recipe, as_json=as_json)):
        return code
    out = recipe.toplevel if recipe is not None else path
    if link:
        machine.links[link] = out
        call.host.setting.changed()
    call.out(f"{link or out}\n")
    return 0


def _options(words: tuple[str, ...]) -> tuple[str, bool, str]:
    """The link, whether JSON is wanted, and the path."""
    found: dict[str, str] = {}
    rest = list(words)
    path = ""
    while rest:
        word = rest.pop(0)
        if word in _WITH_VALUE and rest:
            found[word] = rest.pop(0)
        elif word not in _ALONE:
            path = word
    return found.get("--add-root", ""), found.get("--log-format") == "internal-json", path


async def _build(call: Call, recipe: Recipe, *, as_json: bool) -> int:
    host = call.host
    if call.files.holds(recipe.toplevel):
        return 0
    log = NixLog(call.err, as_json=as_json, expected=1)
    log.begins(recipe.drv)
    await asyncio.sleep(_BUILD_SECONDS)
    fault = host.fault("build-fails")
    if fault is not None:
        log.fails(recipe.drv, fault.argument or FAILURE)
        return _FAILED
    host.setting.store.realise(recipe)
    host.machine.roots.add(recipe.toplevel)
    log.ends()
    host.setting.changed()
    return 0
