"""Many questions to a host in one round trip: a script of marked commands, and its answer taken apart again.

It deliberately knows no question itself; the tables live with those who ask.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import Command, CommandResult, Shell

END: Final = "end"
"""The marker after the last answer: without it the answer was cut short."""

_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One command and the name its answer goes by. The command must need no rights and change nothing."""

    name: str
    command: str


def script(questions: Iterable[Question]) -> str:
    """POSIX sh that prints each answer after a line ``@name``.

    The empty ``echo`` before each marker ends a last line without a newline (``kernel-params`` has none).
    """
    lines = [line for q in questions for line in (f"echo; echo @{q.name}", f"{q.command} 2>/dev/null")]
    return "\n".join([*lines, f"echo; echo @{END}"])


def answers(output: str, names: Iterable[str]) -> dict[str, str]:
    """What stood after each marker, without blank edges. A name that was not answered is missing.

    What comes before the first marker (a banner) is ignored, and a marker counts only once: the first time.
    """
    expected = {*names, END}
    found: dict[str, list[str]] = {}
    into: list[str] | None = None
    for line in output.splitlines():
        name = line.rstrip()[1:] if line.startswith("@") else None
        if name in expected and name not in found:
            assert name is not None
            into = found.setdefault(name, [])
        elif into is not None:
            into.append(line.rstrip("\r"))
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


async def ask(shell: Shell, host: Host, questions: Iterable[Question]) -> Mapping[str, str]:
    """All answers in one round trip over the kept connection.

    Raises:
        TaskError: COMMAND, transient, when there is no whole answer, and what ``Shell`` raises.
    """
    questions = tuple(questions)
    return checked(host, questions, await shell.run(host, _command(questions)))


def _command(questions: tuple[Question, ...]) -> Command:
    return Command(argv=("sh", "-c", script(questions)), timeout=_TIMEOUT)


def checked(host: Host, questions: tuple[Question, ...], result: CommandResult) -> Mapping[str, str]:
    """The answers in a command's output.

    Raises:
        TaskError: COMMAND, transient, when there is no whole answer.
    """
    found = answers(result.stdout, (q.name for q in questions))
    if END not in found:
        raise TaskError(_not_an_answer(host, result, last=next(reversed(found), "nothing")))
    return found


def _not_an_answer(host: Host, result: CommandResult, last: str) -> Failure:
    return Failure(
        kind=FailureKind.COMMAND,
        message=f"{host.name} did not answer the questions put to it",
        expected="a POSIX shell that runs the script to its end",
        seen=f"exit code {result.exit_code}; the last thing it answered was: {last}",
        evidence=result.tail(),
        command="sh -c ...",
        exit_code=result.exit_code,
        next=f"log in to {host.address} as the tool does and run: sh -c 'echo ok'",
        transient=True,
    )
