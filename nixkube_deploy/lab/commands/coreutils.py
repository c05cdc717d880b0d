"""The small programs every system has, for text and files.

Each answers what its real counterpart answers for the options that are used on hosts, and refuses other options.
"""

import asyncio
import posixpath
from dataclasses import replace

from nixkube_deploy.lab.host import Call
from nixkube_deploy.lab.shell import TextInput


async def cat(call: Call) -> int:
    """Files, or standard input."""
    code = 0
    for path in call.args or ("-",):
        if path == "-":
            call.out(await call.streams.stdin.read())
            continue
        try:
            call.out(call.files.read(path))
        except OSError as error:
            code = call.fail(f"{path}: {error.strerror}")
    return code


async def echo(call: Call) -> int:
    """Its words."""
    words = call.args
    newline = "\n"
    if words and words[0] == "-n":
        words, newline = words[1:], ""
    call.out(" ".join(words) + newline)
    return 0


async def printf(call: Call) -> int:
    r"""``%s``, ``%d``, ``%%``, ``\n`` and ``\t``; the format is used up again and again, as POSIX says."""
    if not call.args:
        return call.fail("usage: printf format [arguments]", 2)
    text, values = call.args[0].replace("\\n", "\n").replace("\\t", "\t"), list(call.args[1:])
    while True:
        call.out(_formatted(text, values))
        if not values or not ("%s" in text or "%d" in text):
            return 0


def _formatted(text: str, values: list[str]) -> str:
    done, rest = "", text
    while "%" in rest:
        before, _, rest = rest.partition("%")
        done += before
        if rest[:1] in ("s", "d"):
            done += values.pop(0) if values else ("0" if rest[0] == "d" else "")
        elif rest[:1] == "%":
            done += "%"
        else:
            done += "%" + rest[:1]
        rest = rest[1:]
    return done + rest


async def true(_call: Call) -> int:
    """Yes."""
    return 0


async def false(_call: Call) -> int:
    """No."""
    return 1


async def readlink(call: Call) -> int:
    """One link, or with -f the whole way, or with -m as much of it as there is."""
    follow = "-f" in call.args or "-e" in call.args or "-m" in call.args
    code = 0
    for path in (word for word in call.args if not word.startswith("-")):
        try:
            target = call.files.canonical(path) if follow else call.files.readlink(path)
        except OSError:
            target = path if "-m" in call.args else None
        if target is None or ("-e" in call.args and not call.files.exists(target)):
            code = 1
            continue
        call.out(target + "\n")
    return code


async def ls(call: Call) -> int:
    """Names, one a line, links with their target when long."""
    flags = "".join(word[1:] for word in call.args if word.startswith("-") and not word.startswith("--"))
    paths = [word for word in call.args if not word.startswith("-")] or ["."]
    code = 0
    for path in paths:
        try:
            is_link = "l" in flags and call.files.is_link(path)
            itself = is_link or ("d" in flags and call.files.exists(path))
            names = (path,) if itself else call.files.entries(path)
        except OSError as error:
            code = call.fail(f"cannot access '{path}': {error.strerror}", 2)
            continue
        if len(paths) > 1 and call.files.is_folder(path):
            call.out(f"{path}:\n")
        for name in names:
            if name.startswith(".") and "a" not in flags:
                continue
            full = name if name == path else posixpath.join(path, name)
            target = call.files.readlink(full) if "l" in flags and call.files.is_link(full) else None
            since = f"lrwxrwxrwx 1 root root 1 {_since(call, name)} " if "--time-style=+%s" in call.args else ""
            call.out(since + name + (f" -> {target}" if target else "") + "\n")
    return code


def _since(call: Call, name: str) -> int:
    """When a link was made, as far as anybody asks: a generation's age is that of its link."""
    number = name.removeprefix("system-").removesuffix("-link")
    generation = call.host.machine.generations.get(int(number)) if number.isdigit() else None
    return int(generation.at if generation is not None else call.host.setting.now())


async def date(call: Call) -> int:
    """``date +%s``."""
    if call.args != ("+%s",):
        return call.fail(f"invalid date '{' '.join(call.args)}'")
    call.out(f"{int(call.host.setting.now())}\n")
    return 0


async def mkdir(call: Call) -> int:
    """Directories."""
    parents = any(word.startswith("-") and "p" in word for word in call.args)
    words = iter(call.args)
    code = 0
    for word in words:
        if word in ("-m", "--mode"):
            next(words, None)
        elif not word.startswith("-"):
            try:
                call.files.make_folder(word, parents=parents)
            except OSError as error:
                code = call.fail(f"cannot create directory '{word}': {error.strerror}")
    return code


async def tee(call: Call) -> int:
    """Standard input to files and on."""
    text = await call.streams.stdin.read()
    append = "-a" in call.args
    code = 0
    for path in (word for word in call.args if not word.startswith("-")):
        full = call.host.setting.faults.peek(call.host.name, "disk-full")
        try:
            if full is not None and full.argument == "store" and path.startswith("/var/"):
                raise OSError(28, "No space left on device", path)  # noqa: TRY301 (the same words as the real ones)
            call.files.open_write(path, append=append)(text)
        except OSError as error:
            code = call.fail(f"{path}: {error.strerror}")
    call.out(text)
    call.host.setting.changed()
    return code


async def rm(call: Call) -> int:
    """Files and, with -r, directories."""
    flags = "".join(word[1:] for word in call.args if word.startswith("-"))
    code = 0
    for path in (word for word in call.args if not word.startswith("-")):
        try:
            call.files.remove(path, recursive="r" in flags or "R" in flags)
        except FileNotFoundError:
            if "f" not in flags:
                code = call.fail(f"cannot remove '{path}': No such file or directory")
        except OSError as error:
            code = call.fail(f"cannot remove '{path}': {error.strerror}")
    return code


async def mv(call: Call) -> int:
    """One file to another name."""
    match [word for word in call.args if word != "-f"]:
        case [source, target]:
            try:
                text = call.files.read(source)
                call.files.open_write(target, append=False)(text)
                call.files.remove(source, recursive=False)
            except OSError as error:
                return call.fail(f"cannot move '{source}' to '{target}': {error.strerror}")
            call.host.setting.changed()
            return 0
        case _:
            return call.fail("missing file operand")


async def grep(call: Call) -> int:
    """``grep -r -l -s -F TEXT FOLDER...``: the files below that have the text in them, by name."""
    flags = "".join(word[1:] for word in call.args if word.startswith("-"))
    words = [word for word in call.args if not word.startswith("-")]
    if not words or set("rlF") - set(flags):
        return call.fail("only grep -r -l -F is known here", 2)
    found = [path for folder in words[1:] for path in _below(call, folder) if words[0] in call.files.read(path)]
    call.out("".join(f"{path}\n" for path in found))
    return 0 if found else 1


def _below(call: Call, folder: str) -> list[str]:
    """Every file below, in order."""
    if not call.files.is_folder(folder):
        return [folder] if call.files.exists(folder) else []
    return [path for name in call.files.entries(folder) for path in _below(call, posixpath.join(folder, name))]


async def sleep(call: Call) -> int:
    """Wait."""
    try:
        seconds = sum(float(word.removesuffix("s")) for word in call.args)
    except ValueError:
        return call.fail(f"invalid time interval '{call.args[0]}'")
    if not call.args:
        return call.fail("missing operand")
    await asyncio.sleep(seconds)
    return 0


async def head(call: Call) -> int:
    """The first lines."""
    return await _cut(call, first=True)


async def tail(call: Call) -> int:
    """The last lines."""
    return await _cut(call, first=False)


async def _cut(call: Call, *, first: bool) -> int:
    named = "-v" in call.args
    words = [word for word in call.args if word != "-v"]
    count = 10
    if words and words[0].startswith("-"):
        option = words.pop(0)
        digits = option.lstrip("-n") or (words.pop(0) if words else "")
        if not digits.isdigit():
            return call.fail(f"invalid number of lines: '{digits}'")
        count = int(digits)
    code, before = 0, ""
    for word in words or ("-",):
        try:
            text = call.files.read(word) if words else await call.streams.stdin.read()
        except OSError as error:
            code = call.fail(f"cannot open '{word}' for reading: {error.strerror}")
            continue
        if named or len(words) > 1:
            call.out(f"{before}==> {word if words else 'standard input'} <==\n")
            before = "\n"
        lines = text.splitlines(keepends=True)
        call.out("".join(lines[:count] if first else lines[-count:] if count else []))
    return code


async def env(call: Call) -> int:
    """The environment, or a program in a changed one."""
    words = list(call.args)
    variables = dict(call.env)
    if words and words[0] in ("-i", "-"):
        words.pop(0)
        variables = {}
    while words and "=" in words[0] and not words[0].startswith("="):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    if not words:
        call.out("".join(f"{name}={value}\n" for name, value in sorted(variables.items())))
        return 0
    return await call.host.run_program(call.user, tuple(words), call.streams, variables)


async def xargs(call: Call) -> int:
    """A program with the words of standard input as its arguments: all at once, command lines here have no end."""
    words = (await call.streams.stdin.read()).split()
    streams = replace(call.streams, stdin=TextInput())
    code = await call.host.run_program(call.user, (*(call.args or ("echo",)), *words), streams, call.env)
    return code if code in (0, 127) else 123


async def sync(_call: Call) -> int:
    """Everything is on disk already."""
    return 0


async def sh(call: Call) -> int:
    """``sh -c SCRIPT``, ``sh FILE`` or a script on standard input."""
    words = [word for word in call.args if word not in ("-e", "-u", "-eu", "-l", "-s", "--")]
    shell = call.host.shell(call.user, name=call.argv[0].rpartition("/")[2])
    shell.env.update(call.env)
    match words:
        case ["-c", script, *_] | ["-ec", script, *_] | ["-lc", script, *_]:
            return await shell.run(script, call.streams)
        case []:
            return await shell.run(await call.streams.stdin.read(), replace(call.streams, stdin=TextInput()))
        case [path, *_]:
            try:
                return await shell.run(call.files.read(path), call.streams)
            except OSError as error:
                return call.fail(f"{path}: {error.strerror}", 127)
        case _:
            return call.fail("usage: sh [-c script]", 2)
