"""Nix on a host: the system profile and questions to the store. Nothing here builds or fetches."""

from datetime import UTC, datetime

from nixkube_deploy.lab.commands.nix_build import realise
from nixkube_deploy.lab.filesystem import PROFILE
from nixkube_deploy.lab.host import Call
from nixkube_deploy.lab.storepath import is_store_path, nar_size, top_of

_FLAGS_WITH_VALUE = ("-p", "--profile", "--set", "--switch-generation", "-G", "--delete-generations")


async def nix_env(call: Call) -> int:
    """``nix-env -p PROFILE --set|--list-generations|--rollback|--switch-generation``."""
    words = list(call.args)
    profile = _option(words, "-p", "--profile")
    if profile != PROFILE:
        call.err("error: only the system profile can be changed here\n")
        return 1
    if words and words[0] == "--list-generations":
        return _list_generations(call)
    if not call.is_root:
        call.err(f"error: creating symlink from '{PROFILE}-0-link' to '{PROFILE}': Permission denied\n")
        return 1
    match words:
        case ["--set", path]:
            return _set(call, path)
        case ["--rollback"]:
            previous = call.host.machine.previous_generation()
            return (
                _switch(call, previous)
                if previous
                else _no_generation(call, "no generation older than the current one")
            )
        case ["--switch-generation" | "-G", number] if number.isdigit():
            return _switch(call, int(number))
        case ["--delete-generations", *numbers]:
            return _delete(call, numbers)
        case _:
            call.err(f"error: unrecognised option '{' '.join(words)}'\nTry 'nix-env --help' for more information.\n")
            return 1


def _option(words: list[str], *names: str) -> str | None:
    for name in names:
        if name in words:
            at = words.index(name)
            value = words[at + 1] if at + 1 < len(words) else None
            del words[at : at + 2]
            return value
    return None


def _set(call: Call, path: str) -> int:
    real = call.files.resolve(path) if call.files.exists(path) else path
    full = call.host.setting.faults.peek(call.host.name, "disk-full")
    if full is not None and full.argument == "store":
        call.err(f"error: creating symlink from '{PROFILE}-1-link.tmp': No space left on device\n")
        return 1
    if not is_store_path(real) or not call.files.holds(real):
        call.err(f"error: path '{path}' does not exist and cannot be created\n" if is_store_path(path)
                 else f"error: path '{path}' is not in the Nix store\n")  # fmt: skip
        return 1
    call.host.machine.set_profile(real, call.host.setting.now())
    call.host.setting.changed()
    return 0


def _switch(call: Call, number: int) -> int:
    machine = call.host.machine
    before = machine.profile
    if not machine.switch_generation(number):
        return _no_generation(call, f"profile version {number} does not exist")
    call.err(f"switching profile from version {before} to {number}\n")
    call.host.setting.changed()
    return 0


def _no_generation(call: Call, why: str) -> int:
    call.err(f"error: {why}\n")
    return 1


def _delete(call: Call, numbers: list[str]) -> int:
    machine = call.host.machine
    for number in (int(each) for each in numbers if each.isdigit()):
        if number == machine.profile:
            call.err("error: cannot delete current version of profile '/nix/var/nix/profiles/system'\n")
            return 1
        machine.generations.pop(number, None)
    return 0


def _list_generations(call: Call) -> int:
    machine = call.host.machine
    for number, generation in sorted(machine.generations.items()):
        at = datetime.fromtimestamp(generation.at, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
        call.out(f"{number:>4}   {at}   {'(current)' if number == machine.profile else ''}\n")
    return 0


async def nix_store(call: Call) -> int:
    """``--query --requisites|--references|--size PATH``, ``--check-validity``, ``--realise`` of what is there."""
    match call.args:
        case ("--add-root", link, "--realise", *rest):
            return await realise(call, ("--add-root", link, *rest))
        case ("--query" | "-q", "--requisites" | "-R", *paths):
            return _for_valid(call, paths, _print_closure)
        case ("--query" | "-q", "--references", *paths):
            return _for_valid(call, paths, _print_closure)
        case ("--query" | "-q", "--size", *paths):
            return _for_valid(call, paths, lambda each, path: each.out(f"{nar_size(path)}\n"))
        case ("--check-validity", "--print-invalid", *paths):
            call.out("".join(f"{path}\n" for path in paths if not call.files.holds(path)))
            return 0
        case ("--check-validity", *paths):
            return _for_valid(call, paths, lambda _call, _path: None)
        case ("--realise" | "-r", *paths):
            return _for_valid(call, paths, lambda each, path: each.out(path + "\n"))
        case ("--gc",):
            return _collect(call)
        case _:
            call.err(
                f"error: unrecognised option '{' '.join(call.args)}'\nTry 'nix-store --help' for more information.\n"
            )
            return 1


def _for_valid(call: Call, paths: object, then: object) -> int:
    assert isinstance(paths, list | tuple)
    assert callable(then)
    for path in paths:
        if path.startswith("-"):
            continue
        real = call.files.resolve(path)
        if not call.files.holds(top_of(real) or ""):
            call.err(f"error: path '{path}' is not valid\n")
            return 1
        then(call, real)
    return 0


def _print_closure(call: Call, path: str) -> None:
    call.out("".join(each + "\n" for each in sorted(call.host.setting.store.closure(path))))


async def nix(call: Call) -> int:
    """``nix path-info`` and ``nix --version``: what people ask on a host."""
    words = [
        word for word in call.args if word not in ("--extra-experimental-features", "nix-command", "nix-command flakes")
    ]
    match words:
        case ["--version"]:
            call.out("nix (Nix) 2.28.5\n")
            return 0
        case ["path-info", *rest]:
            paths = [word for word in rest if not word.startswith("-")]
            return _for_valid(call, paths, lambda each, path: _path_info(each, path, frozenset(rest)))
        case _:
            call.err(f"error: '{words[0] if words else ''}' is not a recognised command\n")
            return 1


def _path_info(call: Call, path: str, options: frozenset[str]) -> None:
    whole = options & {"-r", "--recursive"}
    for each in sorted(call.host.setting.store.closure(path)) if whole else [path]:
        call.out(f"{each}\t{nar_size(each):>11}\n" if options & {"-s", "--size"} else f"{each}\n")


async def nix_collect_garbage(call: Call) -> int:
    """Drop what no generation and no running system needs."""
    if not call.is_root:
        call.err("error: opening lock file '/nix/var/nix/gc.lock': Permission denied\n")
        return 1
    machine = call.host.machine
    if "-d" in call.args or "--delete-old" in call.args:
        machine.generations = {n: g for n, g in machine.generations.items() if n == machine.profile}
    return _collect(call)


def _collect(call: Call) -> int:
    machine = call.host.machine
    needed = {generation.system for generation in machine.generations.values()} | {machine.current, machine.booted}
    needed |= set(machine.links.values())
    dead = {root for root in machine.roots if root not in needed}
    machine.roots -= dead
    freed = sum(nar_size(path) for path in dead)
    call.out(f"{len(dead)} store paths deleted, {freed / 1024**2:.2f} MiB freed\n")
    call.host.setting.changed()
    return 0


async def nixos_version(call: Call) -> int:
    """The release."""
    call.out("25.11.20251120.lab (Xantusia)\n")
    return 0
