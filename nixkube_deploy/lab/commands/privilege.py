"""Becoming root: sudo, doas and run0, with and without a password on standard input."""

from dataclasses import dataclass

from nixkube_deploy.lab.host import Call

_DENIED = 1


@dataclass(frozen=True, slots=True)
class _Request:
    argv: tuple[str, ...]
    may_ask: bool
    stdin: bool
    prompt: str


async def sudo(call: Call) -> int:
    """``sudo [-n] [-H] [-S] [-p PROMPT] [-u root] [--] COMMAND``."""
    request = _sudo_request(list(call.args))
    if isinstance(request, str):
        return call.fail(request)
    return await _become_root(call, request, "a password is required")


async def doas(call: Call) -> int:
    """``doas [-n] [--] COMMAND``; there only where the inventory says that hosts use it."""
    if call.host.privilege != "doas":
        call.err("bash: line 1: doas: command not found\n")
        return 127
    words = list(call.args)
    interactive = "-n" not in words
    argv = tuple(_after(words, ("-n", "--")))
    return await _become_root(call, _Request(argv, interactive, stdin=False, prompt=""), "Authentication required")


async def run0(call: Call) -> int:
    """``run0 [--no-ask-password] [--] COMMAND``."""
    argv = tuple(_after(list(call.args), ("--no-ask-password", "--")))
    request = _Request(argv, may_ask="--no-ask-password" not in call.args, stdin=False, prompt="")
    return await _become_root(
        call, request, "Failed to start transient service unit: Interactive authentication required."
    )


def _sudo_request(words: list[str]) -> _Request | str:
    non_interactive = stdin = False
    prompt = "[sudo] password: "
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "--":
            break
        if word in ("-p", "--prompt") and words:
            prompt = words.pop(0)
        elif word.startswith("--prompt="):
            prompt = word.partition("=")[2]
        elif word in ("-u", "--user") and words:
            words.pop(0)
        elif word in ("-n", "--non-interactive"):
            non_interactive = True
        elif word in ("-S", "--stdin"):
            stdin = True
        elif word not in ("-H", "-E", "-k", "--preserve-env"):
            return f"unrecognized option '{word}'"
    return _Request(tuple(words), not non_interactive, stdin, prompt)


def _after(words: list[str], options: tuple[str, ...]) -> list[str]:
    while words and words[0] in options:
        if words.pop(0) == "--":
            break
    return words


async def _become_root(call: Call, request: _Request, refusal: str) -> int:
    if not request.argv:
        call.err(f"usage: {call.argv[0]} command [arg ...]\n")
        return _DENIED
    if not call.is_root:
        allowed = await _authenticate(call, request)
        if not allowed:
            call.err(f"{call.argv[0]}: {refusal}\n")
            return _DENIED
    return await call.host.run_program(
        "root", request.argv, call.streams, {**call.env, "USER": "root", "HOME": "/root"}
    )


async def _authenticate(call: Call, request: _Request) -> bool:
    """Without a password set, wheel needs none. Root is never asked, so nothing is read from its input."""
    wrong = call.host.fault("sudo-password-wrong")
    if call.host.password is None and wrong is None:
        return True
    if not request.may_ask:
        return False
    if not request.stdin:
        call.err(f"{call.argv[0]}: a terminal is required to read the password\n")
        return False
    call.err(request.prompt)
    given = (await call.streams.stdin.readline()).rstrip("\n")
    if wrong is None and given == call.host.password:
        return True
    call.err("Sorry, try again.\n")
    return False
