"""How a command becomes root, and what a refusal looks like.

A password travels as the first line of standard input, never in argv. It does not decide who needs root: the command
says so, and a login as root never gets a prefix.
"""

from dataclasses import dataclass
from typing import Final

from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host, Privilege
from nixkube_deploy.ports.shell import CommandResult

_PREFIX: Final = {
    Privilege.NONE: (),
    Privilege.SUDO: ("sudo", "-n", "--"),
    Privilege.DOAS: ("doas", "-n", "--"),
    Privilege.RUN0: ("run0", "--no-ask-password", "--"),
}
ASKS: Final = "sudo: a password is required"
_WITH_PASSWORD: Final = ("sudo", "-k", "-S", "-p", "", "--")
"""``-k``: a password that sudo does not ask for, because it remembers an earlier one, would be read by the command."""
_RULE: Final = {
    Privilege.NONE: "set `privilege` in the inventory",
    Privilege.SUDO: "on the host: security.sudo.wheelNeedsPassword = false; (with {user} in the group wheel), "
    "or give `privilege_password` in the inventory",
    Privilege.DOAS: 'on the host: security.doas.extraRules = [{{ users = [ "{user}" ]; noPass = true; }}]; '
    "(doas takes no password without a terminal)",
    Privilege.RUN0: "on the host: a polkit rule that lets {user} start units without a password "
    "(security.polkit.extraConfig; run0 takes no password without a terminal)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    """One way to be refused: the words it is known by, what it means, what to do about it."""

    words: tuple[str, ...]
    meaning: str
    next: str


_REFUSALS: Final = (
    _Refusal(
        words=("incorrect password attempt", "sorry, try again", "authentication failed", "no password was provided"),
        meaning="the password in `privilege_password` is wrong",
        next="check what `privilege_password` refers to: log in as {user} and run sudo -k true",
    ),
    _Refusal(
        words=("not in the sudoers file", "is not allowed to", "may not run sudo", "operation not permitted"),
        meaning="{user} is not allowed to become root",
        next='on the host: users.users.{user}.extraGroups = [ "wheel" ]; or log in as root (ssh: {{user: root}})',
    ),
    _Refusal(
        words=("must have a tty", "no tty present", "a terminal is required", "a tty is required"),
        meaning="{program} insists on a terminal",
        next="on the host: remove `Defaults requiretty`; {rule}",
    ),
    _Refusal(
        words=("password is required", "interactive authentication", "authentication required", "access denied"),
        meaning="{program} asks {user} for a password",
        next="{rule}",
    ),
    _Refusal(
        words=("must be owned by uid 0", "not installed setuid", "effective uid is not 0"),
        meaning="{program} on the host is not set up (not setuid root)",
        next="on the host: security.{program}.enable = true; and call the wrapper in /run/wrappers/bin",
    ),
)


def elevated(privilege: Privilege, argv: tuple[str, ...]) -> tuple[str, ...]:
    """The argv that runs ``argv`` as root, never asking."""
    return _PREFIX[privilege] + argv


def elevated_with_password(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The argv that reads sudo's password as the first line of standard input, then runs ``argv``."""
    return _WITH_PASSWORD + argv


def wants_password(privilege: Privilege, result: CommandResult) -> bool:
    """Whether sudo refused before running anything, so that the same command may be sent again with the password.

    The password is sent only after this: sudo leaves it unread where it needs none, and the command would then find
    it in its own standard input.
    """
    refused = result.exit_code == 1 and not result.stdout and result.stderr.startswith("sudo: ")
    return privilege is Privilege.SUDO and refused and "password is required" in result.stderr


def refusal(host: Host, user: str, result: CommandResult) -> Failure | None:
    """The failure when the command was not run because becoming root was refused, else None.

    Only what the privilege program itself says counts: exit code 1 (127 when it is missing), nothing on standard
    output, and lines that begin with its name or are known to be its.
    """
    program = host.privilege.value
    if host.privilege is Privilege.NONE or result.ok or result.stdout:
        return None
    said = result.stderr.lower()
    if result.exit_code == 127:  # noqa: PLR2004 (the shell's code for a missing program)
        if program in said and not said.startswith(f"{program}:"):
            return _failure(host, user, result, f"{program} is not installed on the host", _RULE[host.privilege])
        return None
    if result.exit_code != 1 or not _speaks(program, said):
        return None
    for known in _REFUSALS:
        if any(words in said for words in known.words):
            return _failure(host, user, result, known.meaning, known.next)
    return None


def _speaks(program: str, said: str) -> bool:
    return any(
        line.startswith((f"{program}:", "sorry, try again", "failed to start transient")) or "sudoers" in line
        for line in said.splitlines()
    )


def _failure(host: Host, user: str, result: CommandResult, meaning: str, advice: str) -> Failure:
    program = host.privilege.value
    words = {"user": user, "program": program, "rule": _RULE[host.privilege].format(user=user)}
    return Failure(
        kind=FailureKind.PRIVILEGE,
        message=f"{host.name}: {meaning.format_map(words)}",
        expected=f"{user} becomes root with {program}",
        seen=result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "",
        evidence=result.tail(),
        next=advice.format_map(words),
        exit_code=result.exit_code,
    )
