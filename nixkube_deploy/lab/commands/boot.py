"""``bootctl`` and ``kexec`` of a simulated host: what the next boot starts.

They change what the loader holds and reboot nothing; what comes of it is decided when the power comes.
"""

import json

from nixkube_deploy.lab.host import Call
from nixkube_deploy.lab.machine import Loader
from nixkube_deploy.lab.recipe import RELEASE

_ESP = "/boot"


async def bootctl(call: Call) -> int:
    """``bootctl status|list|set-oneshot|set-default|is-installed`` where systemd-boot is the loader."""
    loader = call.host.machine.loader
    if loader.kind != "systemd-boot":
        call.err("systemd-boot not installed in ESP.\n")
        return 1
    if {"-p", "-x", "--print-esp-path", "--print-boot-path"} & set(call.args):
        call.out(f"{_ESP}\n")
        return 0
    words = [word for word in call.args if not word.startswith("-")]
    match words:
        case ["is-installed"]:
            call.out("yes\n")
            return 0
        case [] | ["status"]:
            call.out(f"Boot Loader:\n    Product: systemd-boot {RELEASE}\n")
            call.out(f"Default Boot Loader Entry:\n    id: {_entry(loader.chosen)}\n")
            return 0
        case ["list"]:
            call.out(_as_json(call, loader) if any(word.startswith("--json") for word in call.args) else _list(loader))
            return 0
        case ["set-oneshot" | "set-default" as verb, entry]:
            return _set_entry(call, verb, entry)
        case _:
            call.err(f"Unknown command verb {' '.join(words)}.\n")
            return 1


def _list(loader: Loader) -> str:
    """As the real one has it: the default is what the next boot starts, a one-shot entry included."""
    return "".join(
        f"type: Boot Loader Specification Type #1 (.conf)\n"
        f"title: NixOS{' (default)' if number == loader.chosen else ''}\nid: {_entry(number)}\n\n"
        for number in loader.entries
    )


def _as_json(call: Call, loader: Loader) -> str:
    generations = call.host.machine.generations
    rows = [
        {
            "type": "type1",
            "id": _entry(number),
            "path": f"{_ESP}/loader/entries/{_entry(number)}",
            "root": _ESP,
            "title": "NixOS",
            "options": f"init={generations[number].system}/init" if number in generations else "",
            "isDefault": number == loader.chosen,
        }
        for number in reversed(loader.entries)
    ]
    return json.dumps(rows) + "\n"


def _set_entry(call: Call, verb: str, entry: str) -> int:
    loader = call.host.machine.loader
    if not call.is_root:
        call.err("Failed to set EFI variable: Permission denied\n")
        return 1
    if call.host.fault("efi-read-only"):
        variable = "LoaderEntryOneShot" if verb == "set-oneshot" else "LoaderEntryDefault"
        call.err(f"Failed to update EFI variable '{variable}': Read-only file system\n")
        return 1
    by_name = {_entry(number): number for number in loader.entries}
    # The real one writes the variable without looking: an entry that does not exist falls through to the default.
    number = by_name.get(entry if entry.endswith(".conf") else entry + ".conf")
    if entry in ("@default", "@oneshot"):
        number = loader.pinned if entry == "@default" else loader.one_shot
    if verb == "set-oneshot":
        loader.one_shot = number
    else:
        loader.pinned = number
    call.host.setting.changed()
    return 0


def _entry(number: int | None) -> str:
    return f"nixos-generation-{number}.conf"


async def kexec(call: Call) -> int:
    """``kexec --load KERNEL --initrd=FILE --command-line=TEXT``: a kernel held ready for ``systemctl kexec``."""
    if not call.is_root:
        return call.fail("kexec_load failed: Operation not permitted")
    if {"-u", "--unload"} & set(call.args):
        call.host.machine.loader.loaded = None
        return 0
    words = [word for word in call.args if not word.startswith("-")]
    if not {"-l", "--load"} & set(call.args) or len(words) != 1:
        return call.fail("only kexec --load KERNEL is known here")
    options = dict(word.removeprefix("--").partition("=")[::2] for word in call.args if "=" in word)
    missing = next((path for path in (*words, options.get("initrd", "")) if not call.files.exists(path)), None)
    if missing is not None:
        return call.fail(f"Cannot open `{missing}': No such file or directory")
    if call.host.fault("kexec-refused"):
        return call.fail("kexec_file_load failed: Operation not permitted")
    init = next((word for word in options.get("command-line", "").split() if word.startswith("init=")), "init=")
    call.host.machine.loader.loaded = init.removeprefix("init=").removesuffix("/init")
    return 0
