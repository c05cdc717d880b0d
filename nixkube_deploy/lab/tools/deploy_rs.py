"""The stand-in deploy-rs: evaluate, build, push, activate one node, confirm over a new connection or go back.

It keeps deploy-rs' gaps too: nothing is confirmed with ``--boot``, and a first deployment cannot be taken back.
"""

import asyncio

from nixkube_deploy.lab.flake import EvaluationError, locate, read_flake
from nixkube_deploy.lab.host import LabHost
from nixkube_deploy.lab.recipe import Recipe
from nixkube_deploy.lab.tools.nix import evaluate
from nixkube_deploy.lab.tools.nix_store import copy_one
from nixkube_deploy.lab.tools.remote import SshError, SshOptions, reach, run_remote, ssh_options
from nixkube_deploy.lab.tools.workshop import Options, Parsed, ToolCall, ToolError

_PROFILE = "/nix/var/nix/profiles/system"
_BOOLS = ("--auto-rollback", "--fast-connection", "--magic-rollback", "--rollback-succeeded", "--interactive-sudo")
_OPTIONS = Options(
    switches=(
        "-s", "--skip-checks", "-c", "--checksigs", "-i", "--interactive", "-d", "--debug-logs", "-k", "--keep-result",
        "--remote-build", "--dry-activate", "--boot",
    ),
    values={
        **dict.fromkeys(_BOOLS, 1), "--hostname": 1, "--ssh-user": 1, "--profile-user": 1, "--ssh-opts": 1,
        "--confirm-timeout": 1, "--activation-timeout": 1, "--temp-path": 1, "--log-dir": 1, "-r": 1,
        "--result-path": 1, "--sudo": 1,
    },
    unknown=lambda flag: f"error: unexpected argument '{flag}' found\n\nFor more information, try '--help'.\n",
    code=2,
)  # fmt: skip
_HELP = "Usage: deploy [OPTIONS] [TARGET] [-- <EXTRA_BUILD_ARGS>...]\n\nOptions:\n" + "".join(
    f"      {name}\n" for name in (*_OPTIONS.switches, *_OPTIONS.values) if name.startswith("--")
)


async def deploy_rs(call: ToolCall) -> int:
    """``deploy FLAKE#node -s --hostname ADDRESS --ssh-user USER --ssh-opts OPTIONS``."""
    if "--help" in call.argv:
        call.out(_HELP)
        return 0
    if "--version" in call.argv:
        call.out("deploy-rs 1.0\n")
        return 0
    parsed = _OPTIONS.parse(call.argv)
    target = parsed.words[0] if parsed.words else "."
    reference, _, node = target.partition("#")
    node = node.split(".")[0] if not node.startswith('"') else node.split('"')[1]
    try:
        recipe = evaluate(call, read_flake(locate(reference or ".", call.cwd)), node)
    except EvaluationError as error:
        raise ToolError(f"❌ [deploy] [ERROR] Failed to evaluate deployment data: {error}\n") from None
    call.err(f"🚀 [deploy] [INFO] Building profile `system` for node `{node}`\n")
    if call.workshop.faults.take(node, "build-fails"):
        raise ToolError(f"❌ [deploy] [ERROR] Failed to build profile on node {node}: `{node}`\n")
    call.workshop.store.realise(recipe)
    profile = call.workshop.store.realise_activatable(recipe)
    try:
        return await _deploy(call, parsed, recipe, profile)
    except SshError as error:
        call.err(str(error))
        raise ToolError(f"❌ [deploy] [ERROR] Failed to push profile to node {node}: `{node}`\n") from None


async def _deploy(call: ToolCall, parsed: Parsed, recipe: Recipe, profile: str) -> int:
    user, address = parsed.value("--ssh-user") or "root", parsed.value("--hostname") or recipe.configuration.host
    options = ssh_options(parsed.value("--ssh-opts") or "")
    host = reach(call, f"{user}@{address}", options)
    call.err(f"🚀 [deploy] [INFO] Copying profile `system` to node `{host.name}`\n")
    await copy_one(call, host, profile, f"ssh://{user}@{address}", checked=parsed.has("-c", "--checksigs"))
    call.err(f"🚀 [deploy] [INFO] Activating profile `system` for node `{host.name}`\n")
    verb = "dry-activate" if parsed.has("--dry-activate") else "boot" if parsed.has("--boot") else "switch"
    code = await _activate(call, host, user, profile, verb)
    if verb == "dry-activate":
        return 0
    if code and parsed.value("--auto-rollback") != "false":
        call.err(f"⭐ [activate] [ERROR] Failed to execute activation script: exit code {code}\n")
        await _deactivate(call, host)
        return 1
    if verb == "switch" and parsed.value("--magic-rollback") != "false":
        return await _confirm(call, host, parsed, (f"{user}@{address}", options))
    return 1 if code else 0


async def _activate(call: ToolCall, host: LabHost, user: str, profile: str, verb: str) -> int:
    prefix = "" if user == "root" else "sudo -n "
    if verb != "dry-activate":
        code = await run_remote(call, host, user, f"{prefix}nix-env -p {_PROFILE} --set {profile}")
        if code:
            return code
    return await run_remote(call, host, user, f"{prefix}{profile}/bin/switch-to-configuration {verb}")


async def _confirm(call: ToolCall, host: LabHost, parsed: Parsed, where: tuple[str, SshOptions]) -> int:
    """A file can be removed over a new connection: that is the whole test."""
    deadline = float(parsed.value("--confirm-timeout") or 30)
    waited = 0.0
    while True:
        try:
            reach(call, *where)
        except SshError:
            if waited >= deadline:
                call.err("❌ [deploy] [ERROR] Error confirming deployment over ssh: timed out\n")
                await _deactivate(call, host)
                return 1
        else:
            call.err("🚀 [deploy] [INFO] Deployment confirmed.\n")
            return 0
        await asyncio.sleep(0.2)
        waited += 0.2


async def _deactivate(call: ToolCall, host: LabHost) -> None:
    """One generation back, on the host itself: no connection is needed."""
    call.err("⭐ [activate] [WARN] De-activating due to error\n")
    machine = host.machine
    previous = machine.previous_generation()
    system = machine.generations[previous].system if previous is not None else None
    if previous is None or system is None:
        call.err("⭐ [activate] [ERROR] no generation to go back to\n")
        return
    machine.switch_generation(previous)
    if "-activatable-" not in system:
        call.err("⭐ [activate] [ERROR] Failed to re-activate: deploy-rs-activate: No such file or directory\n")
        return
    await run_remote(call, host, "root", f"{system}/bin/switch-to-configuration switch")
