"""Small programs that tell something about the machine: ``test``, ``id``, ``uname``, ``df`` and the like."""

from nixkube_deploy.lab.host import Call
from nixkube_deploy.lab.machine import Disk, Personality


async def test(call: Call) -> int:
    """``test`` and ``[``."""
    words = list(call.args)
    if call.argv[0] == "[" and (not words or words.pop() != "]"):
        return call.fail("missing `]'", 2)
    negated = False
    while len(words) > 1 and words[0] == "!":
        negated = not negated
        words.pop(0)
    result = _tested(call, words)
    if result is None:
        return call.fail(f"{' '.join(words)}: unary operator expected", 2)
    return int(result == negated)


def _tested(call: Call, words: list[str]) -> bool | None:
    match words:
        case []:
            return False
        case [word]:
            return bool(word)
        case [operator, word]:
            return _unary(call, operator, word)
        case [left, "=" | "==", right]:
            return left == right
        case [left, "!=", right]:
            return left != right
        case [left, "-ef", right]:
            files = call.files
            return files.exists(left) and files.exists(right) and files.canonical(left) == files.canonical(right)
        case [left, "-eq", right] if left.isdigit() and right.isdigit():
            return int(left) == int(right)
        case _:
            return None


def _unary(call: Call, operator: str, word: str) -> bool | None:
    files = call.files
    match operator:
        case "-e":
            return files.exists(word)
        case "-x":
            return files.exists(word) and not files.is_closed(word)
        case "-f" | "-r":
            return isinstance(files.stat(word), str)
        case "-s":
            return bool(files.stat(word))
        case "-d":
            return files.is_folder(word)
        case "-L" | "-h":
            return files.is_link(word)
        case "-n":
            return bool(word)
        case "-z":
            return not word
        case _:
            return None


async def identify(call: Call) -> int:
    """``id``."""
    uid = 0 if call.is_root else 1000
    match call.args:
        case ("-u",) | ("-g",):
            call.out(f"{uid}\n")
        case ("-un",) | ("-u", "-n"):
            call.out(call.user + "\n")
        case ():
            group = "root" if call.is_root else "users"
            call.out(f"uid={uid}({call.user}) gid={0 if call.is_root else 100}({group})\n")
        case _:
            return call.fail(f"invalid option -- '{call.args[0]}'")
    return 0


async def uname(call: Call) -> int:
    """What the kernel says."""
    machine = call.host.machine
    architecture = machine.architecture.partition("-")[0]
    facts = {
        "s": "Linux",
        "n": machine.hostname,
        "r": machine.kernel_release,
        "v": "#1-NixOS SMP",
        "m": architecture,
        "o": "GNU/Linux",
    }
    flags = "".join(word.lstrip("-") for word in call.args) or "s"
    if "a" in flags:
        flags = "snrvmo"
    unknown = [flag for flag in flags if flag not in facts]
    if unknown:
        return call.fail(f"invalid option -- '{unknown[0]}'")
    call.out(" ".join(value for flag, value in facts.items() if flag in flags) + "\n")
    return 0


async def hostname(call: Call) -> int:
    """The machine's name."""
    call.out(call.host.machine.hostname + "\n")
    return 0


async def whoami(call: Call) -> int:
    """The user's name."""
    call.out(call.user + "\n")
    return 0


async def pwd(call: Call) -> int:
    """Always the home directory: nothing here changes it."""
    call.out(call.env.get("PWD", "/") + "\n")
    return 0


async def df(call: Call) -> int:
    """Free space of the store's and the boot file system, in 1024-byte blocks."""
    machine = call.host.machine
    paths = [word for word in call.args if not word.startswith("-")] or ["/nix/store"]
    call.out("Filesystem     1024-blocks      Used Available Capacity Mounted on\n")
    code = 0
    for path in paths:
        if not call.files.exists(path):
            code = call.fail(f"{path}: No such file or directory")
            continue
        boot = path.startswith("/boot") and machine.personality is Personality.NIXOS
        disk = _disk(call, "boot" if boot else "store")
        device, mount = ("/dev/vda1", "/boot") if boot else ("/dev/vda2", "/")
        blocks, used, free = disk.total // 1024, disk.used // 1024, disk.free // 1024
        call.out(f"{device:<14} {blocks:>11} {used:>9} {free:>9} {100 * used // blocks:>7}% {mount}\n")
    return code


def _disk(call: Call, which: str) -> Disk:
    machine = call.host.machine
    disk = machine.boot_disk if which == "boot" else machine.store_disk
    full = call.host.setting.faults.peek(call.host.name, "disk-full")
    return Disk(total=disk.total, used=disk.total) if full is not None and full.argument == which else disk


async def uptime(call: Call) -> int:
    """Since the boot."""
    minutes = int(call.host.setting.now() - call.host.machine.booted_at) // 60
    call.out(f" up {minutes // 60}:{minutes % 60:02},  1 user,  load average: 0.05, 0.03, 0.00\n")
    return 0
