"""The stand-in ``nixos-rebuild``: copy a built system to a host and activate it, in the unit with the fixed name."""

import shlex

from nixkube_deploy.lab.host import LabHost
from nixkube_deploy.lab.recipe import Recipe
from nixkube_deploy.lab.tools.nix_store import copy_one
from nixkube_deploy.lab.tools.remote import SSH_FAILED, SshError, reach, run_remote, ssh_options
from nixkube_deploy.lab.tools.workshop import Options, Parsed, ToolCall, ToolError

_VERBS = ("switch", "boot", "test", "dry-activate")
_PROFILE = "/nix/var/nix/profiles/system"
_USAGE = "usage: nixos-rebuild [-h] {switch,boot,test,build,dry-build,dry-activate,...} ...\n"
_OPTIONS = Options(
    switches=(
        "--sudo", "--no-reexec", "--use-substitutes", "-s", "--verbose", "-v", "--quiet", "--install-bootloader",
        "--ask-sudo-password", "-S", "--use-remote-sudo", "--fast", "--no-build-nix", "--diff",
    ),
    values={
        "--store-path": 1, "--target-host": 1, "--flake": 1, "-F": 1, "--elevate": 1, "--option": 2, "--log-format": 1,
    },
    unknown=lambda flag: f"{_USAGE}nixos-rebuild: error: unrecognized arguments: {flag}\n",
    code=2,
)  # fmt: skip


async def nixos_rebuild(call: ToolCall) -> int:
    """``nixos-rebuild VERB --store-path PATH --target-host USER@HOST``."""
    parsed = _OPTIONS.parse(call.argv)
    verb = parsed.words[0] if parsed.words else ""
    if verb not in _VERBS:
        raise ToolError(f"{_USAGE}nixos-rebuild: error: invalid choice: '{verb}'\n", 2)
    path, target = parsed.value("--store-path"), parsed.value("--target-host")
    if path is None or target is None:
        raise ToolError("error: this lab knows only --store-path together with --target-host\n")
    recipe = call.workshop.store.system(path)
    if recipe is None:
        raise ToolError(f"error: path '{path}' is not valid\n")
    try:
        host = reach(call, target, ssh_options(call.env.get("NIX_SSHOPTS", "")))
        return await _deploy(call, host, recipe, parsed)
    except SshError as error:
        raise ToolError(str(error), SSH_FAILED) from None


async def _deploy(call: ToolCall, host: LabHost, recipe: Recipe, parsed: Parsed) -> int:
    path, verb = recipe.toplevel, parsed.words[0]
    user = (parsed.value("--target-host") or "").rpartition("@")[0] or "root"
    elevated = parsed.has("--sudo", "--use-remote-sudo") or parsed.value("--elevate") in ("sudo", "run0")
    prefix = "sudo -n " if elevated and user != "root" else ""
    await copy_one(call, host, path, f"ssh://{parsed.value('--target-host')}", checked=False)
    quoted = shlex.quote(path)
    if await run_remote(call, host, user, f"test -f {quoted}/nixos-version"):
        raise ToolError(f"error: '{path}' does not look like a NixOS system\n")
    if verb in ("switch", "boot"):
        code = await run_remote(call, host, user, f"{prefix}nix-env -p {_PROFILE} --set {quoted}")
        if code:
            return code
    unit = "--service-type=exec --unit=nixos-rebuild-switch-to-configuration"
    run = f"systemd-run -E NIXOS_INSTALL_BOOTLOADER=0 --collect --no-ask-password --pipe --quiet {unit}"
    return await run_remote(call, host, user, f"{prefix}{run} {quoted}/bin/switch-to-configuration {verb}")
